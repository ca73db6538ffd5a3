package coord

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// describeTimeout bounds the question who a storage node is.
const describeTimeout = 2 * time.Second

// RegisterNode makes a member of a node of the configuration that was never
// known before, without asking it. It tells whether the node is registered now:
// one that was removed stays removed. Where members hold keys, the node waits
// for its ranges to be copied to it.
func (c *Coordinator) RegisterNode(ctx context.Context, n StorageNode) (registered bool, err error) {
	if err := checkNode(n); err != nil {
		return false, err
	}
	err = c.change(ctx, func(t *Topology) (TopologyStep, error) {
		if registered = t.Node(n.ID) != nil; registered || t.Known(n.ID) {
			return TopologyStep{}, errUnchanged
		}
		registered = true
		step, _, err := c.join(ctx, t, n)
		return step, err
	})
	return registered && err == nil, err
}

// AddNode makes a storage node a member, or begins to: the migration that it
// returns copies its ranges to it, and has no id where none is needed. It asks
// the node who it is. The same id with the same UUID is a success that takes
// over a new address; with another UUID it is a replacement, which has no vote
// until what the other disk held is rebuilt on it.
func (c *Coordinator) AddNode(ctx context.Context, n StorageNode) (begun Migration, err error) {
	if err := checkNode(n); err != nil {
		return Migration{}, err
	}
	who, err := c.identify(ctx, n)
	if err != nil {
		return Migration{}, err
	}
	n.UUID = who.UUID
	err = c.change(ctx, func(t *Topology) (step TopologyStep, err error) {
		if err := t.admits(n, who); err != nil {
			return TopologyStep{}, err
		}
		begun = Migration{}
		known := t.Node(n.ID)
		switch {
		case known == nil:
			if who.Keys > 0 {
				if !t.Known(n.ID) {
					return TopologyStep{}, fmt.Errorf("%w: the data directory of node %q holds %d keys, and the node was never a member; start it with an empty one",
						ErrNodeInUse, n.ID, who.Keys)
				}
				// What it held as a member of old may have been deleted since.
				n.Unswept = max(t.Epoch, 1)
			}
			step, begun, err = c.join(ctx, t, n)
			return step, err
		case known.UUID == "" || known.UUID == who.UUID:
			same := *known
			same.UUID, same.Host, same.Port = who.UUID, n.Host, n.Port
			if same == *known {
				return TopologyStep{}, errUnchanged
			}
			return TopologyStep{Next: t.WithNode(same)}, nil
		}
		if who.Keys > 0 {
			return TopologyStep{}, fmt.Errorf("%w: node %q has data directory %s, the node at %s has %s, which is not empty",
				ErrNodeInUse, n.ID, known.UUID, n.Address(), who.UUID)
		}
		if c.holds(ctx, known) {
			return TopologyStep{}, fmt.Errorf("%w: node id %q is held by the node at %s, which answers; a node can take the place only of one that is lost",
				ErrNodeInUse, n.ID, known.Address())
		}
		n.VirtualNodes = known.VirtualNodes
		begun = c.newMigration(MigrationReplace, n.ID)
		begun.Joining = &n
		step.Next, err = t.Queue(begun)
		return step, err
	})
	if err != nil {
		return Migration{}, err
	}
	c.migrations.look()
	return begun, nil
}

// holds tells whether a registered node answers, as the data directory that it
// is known by.
func (c *Coordinator) holds(ctx context.Context, n *StorageNode) bool {
	p := c.view.Load().peers[n.ID]
	if p == nil || p.node.UUID != n.UUID || p.replica.Unavailable() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	who, err := p.describe(ctx)
	return err == nil && who.UUID == n.UUID
}

// join makes a member of a node that is none: at once while every tenant has
// more replicas than there are members, else by a migration. Where members were
// lost, so few may be left that a quorum of replicas can do without them: what
// they hold has to be copied, too.
func (c *Coordinator) join(ctx context.Context, t *Topology, n StorageNode) (TopologyStep, Migration, error) {
	factors, err := c.metadata.ReplicationFactors(ctx)
	if err != nil {
		return TopologyStep{}, Migration{}, err
	}
	members := t.Members()
	if !slices.ContainsFunc(factors, func(rf int) bool { return rf <= members || members > 0 && members < fence(rf, rf) }) &&
		n.Unswept == 0 && t.unfinished(func(*Migration) bool { return true }) == nil {
		return TopologyStep{Next: t.WithMember(n), LeastReplicas: members + 1}, Migration{}, nil
	}
	m := c.newMigration(MigrationAdd, n.ID)
	m.Joining = &n
	next, err := t.Queue(m)
	return TopologyStep{Next: next}, m, err
}

func (c *Coordinator) newMigration(kind MigrationKind, node string) Migration {
	return Migration{ID: newMigrationID(), Kind: kind, Node: node, CreatedAt: c.options.Wall().UTC()}
}

func newMigrationID() string { return "migration-" + strings.ToLower(rand.Text()[:12]) }

// Removal says how a node is to be removed.
type Removal struct {
	// Force removes a node that is lost: what it held is rebuilt from the others.
	Force bool
	// AcceptLoss lets it go on although some keys have no other replica.
	AcceptLoss bool
}

// RemoveNode begins to take a member out: the migration copies its ranges to
// those that take them over.
func (c *Coordinator) RemoveNode(ctx context.Context, id string, how Removal) (begun Migration, err error) {
	err = c.change(ctx, func(t *Topology) (step TopologyStep, err error) {
		n := t.Node(id)
		if n == nil {
			return TopologyStep{}, fmt.Errorf("%w: %q", ErrNodeNotFound, id)
		}
		if m := t.unfinished(func(m *Migration) bool { return m.Node == id }); m != nil {
			switch {
			case !m.Force:
				return TopologyStep{}, fmt.Errorf("%w: migration %s of node %q has not ended; cancel it first", ErrMigrationConflict, m.ID, id)
			case !how.AcceptLoss || m.AcceptLoss:
				return TopologyStep{}, fmt.Errorf("%w: forced migration %s of node %q has not ended", ErrMigrationConflict, m.ID, id)
			}
			// It could not go on without.
			step.Next = t.Consent(m.ID)
			begun = *step.Next.Migration(m.ID)
			return step, nil
		}
		factors, err := c.metadata.ReplicationFactors(ctx)
		if err != nil {
			return TopologyStep{}, err
		}
		if len(factors) > 0 {
			left, most, least := t.Members()-1, factors[len(factors)-1], factors[0]
			switch {
			case left < most && !how.Force:
				return TopologyStep{}, fmt.Errorf("%w: %d nodes would be left, a tenant has replication factor %d", ErrNodeInUse, left, most)
			case how.Force && !how.AcceptLoss && (least == 1 || left == 0):
				return TopologyStep{}, fmt.Errorf("%w: some keys have node %q as their only replica, and would be lost with it; accept_data_loss lets them be lost", ErrNodeInUse, id)
			}
		}
		begun = c.newMigration(MigrationRemove, id)
		begun.Force, begun.AcceptLoss = how.Force, how.AcceptLoss
		if step.Next, err = t.Queue(begun); err == nil && how.Force && !how.AcceptLoss {
			err = c.rebuildable(step.Next, id, begun.ID, factors)
		}
		return step, err
	})
	if err != nil {
		return Migration{}, err
	}
	c.migrations.look()
	return begun, nil
}

// rebuildable fails with ErrNodeInUse where too few of the nodes that are to
// rebuild what a lost node held answer: the forced removal, queued in t, would
// wait for them, and operations with it. Where another change is under way that
// cannot be told yet.
func (c *Coordinator) rebuildable(t Topology, node, migration string, factors []int) error {
	joint, err := t.Begin(migration, time.Time{})
	if err != nil {
		return nil
	}
	known := c.view.Load()
	planned := &view{topology: joint, change: joint.Current(), peers: known.peers}
	if planned.ring, err = joint.Ring(); err == nil {
		planned.next, err = joint.NextRing()
	}
	if err != nil {
		return fmt.Errorf("plan removal of node %q: %w", node, err)
	}
	for _, n := range joint.Nodes {
		if known.peers[n.ID] == nil {
			return nil // another coordinator has just added it
		}
	}
	planned.members, planned.nextMembers = planned.seats(planned.ring), planned.seats(planned.next)
	answers := func(p *peer) bool { return p.replica.Unavailable() == nil }
	for _, s := range planned.shifts(factors) {
		if err := s.fenced(planned.change, factors, answers); err != nil {
			return fmt.Errorf("%w: what node %q held cannot be rebuilt without loss now: %w;"+
				" wait for them, or let accept_data_loss go on with those that are left", ErrNodeInUse, node, err)
		}
	}
	return nil
}

// SetReplicationFactor begins to change on how many nodes a tenant's keys are
// kept. It returns the tenant as it is until the migration has ended, which has
// no id where nothing is to be changed.
func (c *Coordinator) SetReplicationFactor(ctx context.Context, id string, replicationFactor int) (before Tenant, begun Migration, err error) {
	if before, err = c.metadata.Tenant(ctx, id); err != nil {
		return Tenant{}, Migration{}, err
	}
	if before.ReplicationFactor == replicationFactor {
		return before, Migration{}, nil
	}
	if err := c.view.Load().checkReplicationFactor(replicationFactor); err != nil {
		return Tenant{}, Migration{}, err
	}
	err = c.change(ctx, func(t *Topology) (step TopologyStep, err error) {
		begun = c.newMigration(MigrationResize, "")
		begun.Tenant, begun.Space, begun.From, begun.To = id, before.Space, before.ReplicationFactor, replicationFactor
		step.Next, err = t.Queue(begun)
		return step, err
	})
	if err != nil {
		return Tenant{}, Migration{}, err
	}
	c.migrations.look()
	return before, begun, nil
}

// Nodes lists the registered nodes by id, with what each answers when asked now.
func (c *Coordinator) Nodes(ctx context.Context) ([]NodeState, error) {
	v := c.view.Load()
	states := c.states(v)
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	var all sync.WaitGroup
	for i := range states {
		s := &states[i]
		if s.Unavailable != nil {
			continue
		}
		all.Go(func() {
			who, err := v.peers[s.ID].describe(ctx)
			if err != nil {
				s.Unavailable = err
				return
			}
			s.Keys, s.DiskUsedFraction = who.Keys, who.DiskUsedFraction
		})
	}
	all.Wait()
	return states, nil
}

// AwaitNodes waits until each node has been connected to, or that has failed
// once: requests that came before would fail although nodes are there. It
// waits no longer than ctx, nor for a node that does not answer at all.
func (c *Coordinator) AwaitNodes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, awaitNodes)
	defer cancel()
	tick := time.NewTicker(awaitNodes / 200)
	defer tick.Stop()
	peers := c.view.Load().peers
	began := make(map[string]error, len(peers))
	for id, p := range peers {
		began[id] = p.replica.Unavailable()
	}
	for id, p := range peers {
		for now := began[id]; now != nil && now == began[id]; now = p.replica.Unavailable() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// awaitNodes bounds AwaitNodes.
const awaitNodes = time.Second

// Status tells what this coordinator knows without asking anyone.
func (c *Coordinator) Status(context.Context) Status {
	v := c.view.Load()
	writer := c.identity.writer()
	return Status{
		NodeID:      writer.ID,
		Incarnation: writer.Incarnation,
		Epoch:       v.topology.Epoch,
		StartedAt:   c.startedAt,
		InFlight:    int(c.active.Load()),
		Nodes:       c.states(v),
		Chores:      c.chored(),
	}
}

func (c *Coordinator) states(v *view) []NodeState {
	now := c.now()
	var ledger map[string]Debt
	if c.handoff != nil {
		ledger = c.handoff.ledger()
	}
	states := make([]NodeState, 0, len(v.topology.Nodes))
	for _, n := range v.topology.Nodes {
		p := v.peers[n.ID]
		s := NodeState{StorageNode: n, Unavailable: p.replica.Unavailable(), Latency: time.Duration(p.mean.Load()), Debt: ledger[n.ID]}
		if who := p.described.Load(); who != nil {
			s.Keys, s.DiskUsedFraction = who.Keys, who.DiskUsedFraction
		}
		if s.Unavailable == nil && p.silent(now) {
			s.Unavailable = fmt.Errorf("%w: no answer for %v", ErrReplicaUnavailable,
				time.Duration(now-instant(p.answeredAt.Load())).Round(time.Millisecond))
		}
		states = append(states, s)
	}
	return states
}

func checkNode(n StorageNode) error {
	switch {
	case n.ID == "" || len(n.ID) > maxNodeIDBytes:
		return fmt.Errorf("%w: node id has %d bytes, want 1 to %d", ErrInvalidRequest, len(n.ID), maxNodeIDBytes)
	case n.VirtualNodes < 1 || n.VirtualNodes > ring.MaxVirtualNodes:
		return fmt.Errorf("%w: node %q has %d virtual nodes, want 1 to %d", ErrInvalidRequest, n.ID, n.VirtualNodes, ring.MaxVirtualNodes)
	}
	return nil
}

// identify connects to a node that may not be a member and asks who it is.
func (c *Coordinator) identify(ctx context.Context, n StorageNode) (NodeDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	n.UUID = "" // whichever data directory answers
	replica, err := c.options.Connect(n)
	if err != nil {
		return NodeDescription{}, fmt.Errorf("connect to node %q at %s: %w", n.ID, n.Address(), err)
	}
	defer replica.Close()
	who, err := replica.Describe(ctx)
	if err != nil {
		return NodeDescription{}, &QuorumError{Phase: "ask storage node who it is", Level: One, Need: 1,
			Replicas: []ReplicaError{{n.ID + " at " + n.Address(), err}}}
	}
	return who, nil
}

// admits checks a node's own description against its registration and the
// other members: replicas are counted by data directory, so none may be there
// twice or under a changed id.
func (t *Topology) admits(n StorageNode, who NodeDescription) error {
	if who.ID != n.ID {
		return fmt.Errorf("%w: the node at %s is %q, not %q", ErrNodeInUse, n.Address(), who.ID, n.ID)
	}
	for _, m := range t.Nodes {
		if m.ID != n.ID && m.UUID == who.UUID {
			return fmt.Errorf("%w: data directory %s belongs to node %q", ErrNodeInUse, who.UUID, m.ID)
		}
	}
	return nil
}
