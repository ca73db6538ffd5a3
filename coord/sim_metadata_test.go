package coord

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// simMetadata is the metadata store: the topology, replaced by compare-and-set,
// the tenants and the checkpoints.
type simMetadata struct {
	topology    Topology
	tenants     []Tenant // by simEntry.tenant
	checkpoints map[string]MigrationProgress
	downUntil   instant
}

// simEpoch is what the simulator knows of an epoch: who holds what, worked out
// apart from the engine.
type simEpoch struct {
	ring, next *ring.Ring
	change     *Migration
	factors    []int         // of tenants, before a change under way
	seats      []*simReplica // by ring's index
	nextSeats  []*simReplica
}

// simPlaces is a key's replicas at an epoch: those before a change under way,
// without one that is lost, and, where the change concerns the key, those after it.
type simPlaces struct {
	old, new []*simReplica
	rf       [2]int
	of       int // replicas before the change, the lost one included
	lost     bool
	loose    bool
}

// setTopology is SetTopology.
func (s *sim) setTopology(step TopologyStep) error {
	m := &s.metadata
	if step.Next.Version != m.topology.Version+1 {
		return fmt.Errorf("%w: version %d is outdated", ErrMigrationConflict, step.Next.Version)
	}
	for _, t := range m.tenants {
		if t.ReplicationFactor < step.LeastReplicas {
			return fmt.Errorf("%w: a tenant has fewer replicas", ErrMigrationConflict)
		}
	}
	m.topology = step.Next
	if step.Resize != nil {
		t := &m.tenants[s.tenantIndex(step.Resize.Tenant)]
		t.ReplicationFactor, t.Since = step.Resize.ReplicationFactor, step.Next.Epoch
	}
	if int(m.topology.Epoch) == len(s.epochs) {
		s.newEpoch()
	}
	if s.trace != nil {
		s.noteFault("topology %s", describeTopology(&m.topology))
	}
	for _, c := range s.coordinators {
		c.hearOfTopology()
	}
	return nil
}

func (s *sim) newEpoch() {
	t := &s.metadata.topology
	r, err := t.Ring()
	if err != nil {
		panic(err) // a bug of the simulator
	}
	next, err := t.NextRing()
	if err != nil {
		panic(err)
	}
	e := &simEpoch{ring: r, next: next}
	if change := t.Current(); change != nil {
		m := *change
		e.change = &m
	}
	for i := range s.metadata.tenants {
		e.factors = append(e.factors, s.metadata.tenants[i].ReplicationFactor)
	}
	seats := func(r *ring.Ring) (seats []*simReplica) {
		for _, n := range r.Nodes() {
			seats = append(seats, s.nodeOf(t.Node(n.ID)))
		}
		return seats
	}
	e.seats = seats(r)
	if next == nil {
		next = r
	}
	e.nextSeats = seats(next)
	s.epochs = append(s.epochs, e)
}

// nodeOf is the replica with the node's data directory.
func (s *sim) nodeOf(n *StorageNode) *simReplica {
	for _, r := range s.nodes {
		if r.id == n.ID && r.uuid == n.UUID {
			return r
		}
	}
	panic("no replica " + n.ID + " with " + n.UUID)
}

func (s *sim) tenantIndex(id string) int {
	return slices.IndexFunc(s.metadata.tenants, func(t Tenant) bool { return t.ID == id })
}

// replicasAt is a key's replicas at an epoch.
func (s *sim) replicasAt(k *simEntry, epoch uint64) *simPlaces {
	for len(k.places) < len(s.epochs) {
		k.places = append(k.places, nil)
	}
	if p := k.places[epoch]; p != nil {
		return p
	}
	e := s.epochs[epoch]
	p := &simPlaces{}
	k.places[epoch] = p
	rf := e.factors[k.tenantIndex]
	p.rf = [2]int{rf, rf}
	for _, n := range e.ring.Replicas(nil, k.token, rf) {
		p.old = append(p.old, e.seats[n])
	}
	p.of = len(p.old)
	if m := e.change; m != nil && (m.Kind != MigrationResize || m.Tenant == k.tenant) {
		if m.Kind == MigrationResize {
			p.rf[1] = m.To
		}
		next := e.next
		if next == nil {
			next = e.ring
		}
		for _, n := range next.Replicas(nil, k.token, p.rf[1]) {
			p.new = append(p.new, e.nextSeats[n])
		}
		lost := ""
		if m.Kind == MigrationReplace || m.Kind == MigrationRemove && m.Force {
			lost = m.Node
		}
		p.old = slices.DeleteFunc(p.old, func(n *simReplica) bool {
			p.lost = p.lost || n.id == lost
			return n.id == lost
		})
		p.loose = p.lost && m.AcceptLoss
		if !p.lost && p.rf[0] == p.rf[1] && sameReplicas(p.old, p.new) {
			p.new = nil
		}
	}
	for _, n := range slices.Concat(p.old, p.new) {
		k.owned[n.index] = true
	}
	return p
}

func sameReplicas(x, y []*simReplica) bool {
	for _, n := range x {
		if !slices.Contains(y, n) {
			return false
		}
	}
	return len(x) == len(y)
}

// has tells whether n is one of the replicas.
func (p *simPlaces) has(n *simReplica) bool {
	return slices.Contains(p.old, n) || slices.Contains(p.new, n)
}

// needs is how many of the old and of the new replicas a level takes.
func (p *simPlaces) needs(level Level) (old, new int) {
	old, new = simNeed(level, p.rf[0]), simNeed(level, p.rf[1])
	if p.lost {
		// What was on a majority of all is on one of these.
		old = p.of - p.rf[0]/2
		switch {
		case level == One:
			old = 1
		case level == All:
			old = len(p.old)
		case p.loose:
			old = 1
		}
	}
	if p.new == nil || level == One {
		new = 0
	}
	return old, new
}

// natural is a key's replicas by the topology in force.
func (s *sim) natural(k *simEntry) *simPlaces { return s.replicasAt(k, s.metadata.topology.Epoch) }

func describeTopology(t *Topology) string {
	text := fmt.Sprintf("version %d epoch %d:", t.Version, t.Epoch)
	for _, n := range t.Nodes {
		text += " " + n.UUID
		if n.Status != NodeActive {
			text += "(" + string(n.Status) + ")"
		}
		if n.Unswept != 0 {
			text += "*"
		}
	}
	for i := range t.Migrations {
		if m := &t.Migrations[i]; m.EndedAt.IsZero() {
			text += fmt.Sprintf(", %s %s %s%s %s", m.ID, m.Kind, m.Node, m.Tenant, m.Status)
			if m.Force {
				text += " by force"
			}
			if m.Kind == MigrationResize {
				text += fmt.Sprintf(" %d to %d", m.From, m.To)
			}
		}
	}
	return text
}

var errSimMetadata = fmt.Errorf("%w: it failed", ErrMetadataUnavailable)

// ask has a coordinator take a step on the metadata store: do happens there,
// then is told what became of it, some time later; a step of which the answer
// was lost may have been taken. Nothing is told to a process that has ended.
func (c *simCoordinator) ask(do func() error, then func(error)) {
	s, life := c.s, c.life
	var back func(error)
	back = func(err error) {
		switch {
		case c.life != life || !c.up:
		case c.pausedUntil > s.now:
			s.at(c.pausedUntil, func() { back(err) })
		default:
			then(err)
		}
	}
	s.after(s.metadataTransit(), func() {
		if c.cutStore > s.now || s.metadata.downUntil > s.now {
			s.after(s.upTo(50*time.Millisecond), func() { back(errSimMetadata) })
			return
		}
		err := do()
		if s.strikes(faultStoreLoss) {
			err = errSimMetadata
		}
		s.after(s.metadataTransit(), func() { back(err) })
	})
}

func (s *sim) metadataTransit() time.Duration {
	if s.strikes(faultStoreDelay) {
		return s.spread(20*time.Millisecond, time.Second)
	}
	return s.swarm.latency[0] + s.upTo(s.swarm.latency[1])
}

// change is Coordinator.change: it reads the topology, decides on a step, and
// takes it, again where another was quicker.
func (c *simCoordinator) change(decide func(*Topology) (TopologyStep, error), then func(error)) {
	attempt := 0
	var try func()
	try = func() {
		var t Topology
		c.ask(func() error { t = c.s.metadata.topology; return nil }, func(err error) {
			if err != nil {
				then(err)
				return
			}
			step, err := decide(&t)
			if errors.Is(err, errUnchanged) {
				c.reshape(t)
				then(nil)
				return
			}
			if err != nil {
				then(err)
				return
			}
			c.ask(func() error { return c.s.setTopology(step) }, func(err error) {
				switch {
				case errors.Is(err, ErrMigrationConflict) && attempt < changeAttempts:
					attempt++
					try()
				case err != nil:
					then(err)
				default:
					c.reshape(step.Next)
					then(nil)
				}
			})
		})
	}
	try()
}
