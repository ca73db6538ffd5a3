package coord

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// describeTimeout bounds the question who a storage node is.
const describeTimeout = 2 * time.Second

// RegisterNode records a node of the configuration that was never known
// before, without asking it. It tells whether the node is a member now: one
// that was removed stays removed.
func (c *Coordinator) RegisterNode(ctx context.Context, n StorageNode) (member bool, err error) {
	for {
		if c.view.Load().peers[n.ID] != nil {
			return true, nil
		}
		known, err := c.metadata.NodeKnown(ctx, n.ID)
		if err != nil {
			return false, err
		}
		if known {
			if err := c.Refresh(ctx); err != nil {
				return false, err
			}
			return c.view.Load().peers[n.ID] != nil, nil
		}
		if err := checkNode(n); err != nil {
			return false, err
		}
		n.Status = NodeActive
		t, err := c.metadata.PutNode(ctx, c.view.Load().topology.Epoch, n)
		if errors.Is(err, ErrMigrationConflict) {
			// Another coordinator has changed the topology: look again.
			if err := c.Refresh(ctx); err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			return false, err
		}
		return true, c.reshape(t)
	}
}

// AddNode makes a storage node a member. It asks the node who it is: the same
// id with the same UUID is a success that takes over a new address; another
// UUID is ErrNodeInUse. While keys are stored a new member is refused with
// ErrMigrationConflict, since some of them would have to move to it.
func (c *Coordinator) AddNode(ctx context.Context, n StorageNode) error {
	if err := checkNode(n); err != nil {
		return err
	}
	if err := c.Refresh(ctx); err != nil {
		return err
	}
	who, err := c.identify(ctx, n)
	if err != nil {
		return err
	}
	v := c.view.Load()
	if err := v.admits(n, who); err != nil {
		return err
	}
	n.UUID, n.Status = who.UUID, NodeActive
	if p := v.peers[n.ID]; p != nil {
		n.VirtualNodes, n.Status = p.node.VirtualNodes, p.node.Status
	} else if err := c.clusterIsEmpty(ctx); err != nil {
		return err
	}
	t, err := c.metadata.PutNode(ctx, v.topology.Epoch, n)
	if err != nil {
		return err
	}
	return c.reshape(t)
}

// RemoveNode takes a member out. Until its keys can be moved to others it must
// have none, unless force gives them up.
func (c *Coordinator) RemoveNode(ctx context.Context, id string, force bool) error {
	if err := c.Refresh(ctx); err != nil {
		return err
	}
	v := c.view.Load()
	if v.peers[id] == nil {
		return fmt.Errorf("%w: %q", ErrNodeNotFound, id)
	}
	most, err := c.metadata.MaxReplicationFactor(ctx)
	if err != nil {
		return err
	}
	if left := v.ring.Len() - 1; left < most && !force {
		return fmt.Errorf("%w: %d nodes would be left, a tenant has replication factor %d", ErrNodeInUse, left, most)
	}
	if err := c.clusterIsEmpty(ctx); err != nil {
		return err
	}
	t, err := c.metadata.RemoveNode(ctx, v.topology.Epoch, id)
	if err != nil {
		return err
	}
	return c.reshape(t)
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
func (v *view) admits(n StorageNode, who NodeDescription) error {
	if who.ID != n.ID {
		return fmt.Errorf("%w: the node at %s is %q, not %q", ErrNodeInUse, n.Address(), who.ID, n.ID)
	}
	for _, m := range v.topology.Nodes {
		switch {
		case m.ID == n.ID && m.UUID != "" && m.UUID != who.UUID:
			return fmt.Errorf("%w: node %q has data directory %s, the node at %s has %s; a node with another disk cannot take its place in this release",
				ErrNodeInUse, n.ID, m.UUID, n.Address(), who.UUID)
		case m.ID != n.ID && m.UUID == who.UUID:
			return fmt.Errorf("%w: data directory %s belongs to node %q", ErrNodeInUse, who.UUID, m.ID)
		}
	}
	return nil
}

// clusterIsEmpty fails with ErrMigrationConflict unless every member says that
// it holds no key.
func (c *Coordinator) clusterIsEmpty(ctx context.Context) error {
	states, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, s := range states {
		if s.Unavailable != nil {
			return fmt.Errorf("%w: node %q cannot be asked whether it holds keys: %w", ErrMigrationConflict, s.ID, s.Unavailable)
		}
		if s.Keys > 0 {
			return fmt.Errorf("%w: node %q holds keys, and this release cannot move them", ErrMigrationConflict, s.ID)
		}
	}
	return nil
}
