package coord

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pairdb/coordinator/ring"
)

var everything = ring.Everything()

// operate changes the topology again and again: nodes come, go, die for good
// and lose their disks, tenants get other replication factors, and changes are
// cancelled.
func (s *sim) operate() {
	if s.swarm.churn == 0 {
		return
	}
	s.after(s.upTo(2*s.swarm.churn), func() {
		if s.healed {
			return
		}
		if s.metadata.downUntil <= s.now {
			s.changeTopology()
		}
		s.operate()
	})
}

func (s *sim) changeTopology() {
	t := &s.metadata.topology
	total := 0.0
	for _, weight := range s.swarm.changes {
		total += weight
	}
	at := s.Float64() * total
	kind := operatorAction(0)
	for k, weight := range s.swarm.changes {
		if at -= weight; at < 0 {
			kind = operatorAction(k)
			break
		}
	}
	unfinished := 0
	for i := range t.Migrations {
		if t.Migrations[i].EndedAt.IsZero() {
			unfinished++
		}
	}
	if unfinished >= s.swarm.queue && kind != actCancel {
		return
	}
	switch kind {
	case actAdd:
		s.operatorAdds(t)
	case actRemove:
		s.operatorRemoves(t)
	case actLose:
		s.operatorLoses(t, unfinished)
	case actResize:
		tenant := &s.metadata.tenants[s.IntN(len(s.metadata.tenants))]
		to := 1 + s.IntN(min(5, t.Members()))
		if to != tenant.ReplicationFactor && !(to < 2 && s.lossPending()) {
			s.queue(Migration{Kind: MigrationResize, Tenant: tenant.ID, From: tenant.ReplicationFactor, To: to})
		}
	case actCancel:
		for i := range t.Migrations {
			if m := &t.Migrations[i]; m.EndedAt.IsZero() && m.lostNode() == "" && !(m.Kind == MigrationRemove && m.Force) && m.Kind != MigrationReplace {
				if next, err := t.Cancel(m.ID, s.wallTime()); err == nil {
					s.take(TopologyStep{Next: next})
				}
				return
			}
		}
	}
}

type operatorAction int

const (
	actAdd operatorAction = iota
	actRemove
	actLose // a node dies for good, or comes back with an empty disk
	actResize
	actCancel
	operatorActions
)

// take takes an operator's step.
func (s *sim) take(step TopologyStep) {
	if err := s.setTopology(step); err == nil {
		s.figures.steps++
	}
}

func (s *sim) queue(m Migration) {
	s.migrations++
	m.ID, m.CreatedAt = fmt.Sprintf("m%d", s.migrations), s.wallTime()
	if next, err := s.metadata.topology.Queue(m); err == nil {
		s.take(TopologyStep{Next: next})
	}
}

func (s *sim) operatorAdds(t *Topology) {
	if t.Members() >= 7 {
		return
	}
	var n StorageNode
	var back []*simReplica // nodes that were removed, with what they held
	for _, r := range s.nodes {
		if t.Node(r.id) == nil && !r.dead && t.Known(r.id) {
			back = append(back, r)
		}
	}
	if len(back) > 0 && (s.chance(0.7) || len(s.nodes) == maxSimNodes) {
		r := back[s.IntN(len(back))]
		n = StorageNode{ID: r.id, UUID: r.uuid, Unswept: max(t.Epoch, 1)}
	} else if len(s.nodes) < maxSimNodes {
		id := "n" + strconv.Itoa(len(s.nodes)+1)
		s.addNode(id, id)
		n = StorageNode{ID: id, UUID: id}
	} else {
		return
	}
	n.Host, n.VirtualNodes = n.UUID, simVirtualNodes
	if least, members := s.factors()[0], t.Members(); least > members && n.Unswept == 0 && t.unfinished(func(*Migration) bool { return true }) == nil {
		s.take(TopologyStep{Next: t.WithMember(n), LeastReplicas: members + 1})
		return
	}
	s.queue(Migration{Kind: MigrationAdd, Node: n.ID, Joining: &n})
}

func (s *sim) operatorRemoves(t *Topology) {
	var members []string
	for i := range t.Nodes {
		if n := &t.Nodes[i]; n.Status == NodeActive && !s.nodeOf(n).dead {
			members = append(members, n.ID)
		}
	}
	if len(members) <= max(slices.Max(s.factors()), 2) {
		return
	}
	s.queue(Migration{Kind: MigrationRemove, Node: members[s.IntN(len(members))]})
}

// lossPending tells whether a member is lost, and what it held not yet rebuilt.
func (s *sim) lossPending() bool {
	t := &s.metadata.topology
	return t.unfinished(func(m *Migration) bool { return m.lostNode() != "" }) != nil
}

// operatorLoses has a node die: for good, so that it is removed by force, or so
// that it comes back with an empty disk. As each key's majority must be left,
// it happens to one node at a time.
func (s *sim) operatorLoses(t *Topology, unfinished int) {
	least := s.factors()[0]
	for i := range t.Migrations {
		if m := &t.Migrations[i]; m.EndedAt.IsZero() && m.Kind == MigrationResize {
			least = min(least, m.To)
		}
	}
	if s.lossPending() || least < 2 || unfinished > 0 && least < 3 || s.nobodyToLose() {
		return
	}
	var members []*StorageNode
	for i := range t.Nodes {
		if n := &t.Nodes[i]; n.Status == NodeActive && t.unfinished(func(m *Migration) bool { return m.Node == n.ID }) == nil {
			members = append(members, n)
		}
	}
	if len(members) == 0 || len(s.nodes) == maxSimNodes {
		return
	}
	n := members[s.IntN(len(members))]
	r := s.nodeOf(n)
	force := s.chance(0.5) && t.Members() > slices.Max(s.factors())
	if !force || s.chance(0.7) { // else it lives on, and only its operator gives it up
		if r.up {
			r.crash()
		}
		r.dead = true
		s.noteNode(r, "%s is lost", r.uuid)
	}
	if force {
		s.queue(Migration{Kind: MigrationRemove, Node: n.ID, Force: true})
		return
	}
	s.replacements++
	uuid := n.ID + "'" + strconv.Itoa(s.replacements)
	s.addNode(n.ID, uuid)
	s.queue(Migration{Kind: MigrationReplace, Node: n.ID, Joining: &StorageNode{ID: n.ID, UUID: uuid, Host: uuid, VirtualNodes: simVirtualNodes}})
}

// nobodyToLose tells whether a node is failing already: one that is down
// besides one that is lost may hold the only copies.
func (s *sim) nobodyToLose() bool {
	for _, n := range s.nodes {
		if n.failing() && s.isMember(n) {
			return true
		}
	}
	return s.swarm.brutal && s.chance(0.5)
}

// finishMigrations lets the leaders end what was begun, and sweep, when all is
// healed.
func (s *sim) finishMigrations() {
	for round := 0; s.violation == nil; round++ {
		t := &s.metadata.topology
		if t.unfinished(func(*Migration) bool { return true }) == nil && !t.anyUnswept() {
			break
		}
		if round == 400 {
			s.violate(nil, "liveness", "changes of topology do not end: %s", describeTopology(t))
			return
		}
		s.coordinators[round%len(s.coordinators)].lead()
		s.settleAll()
	}
	for _, c := range s.coordinators {
		c.refresh(func(error) {
			for i := range c.tenants {
				c.load(i, func(error) {})
			}
		})
	}
	s.settleAll()
}

// churnEvery is how often the topology changes.
func churnEvery(d dice) time.Duration { return d.spread(50*time.Millisecond, 400*time.Millisecond) }
