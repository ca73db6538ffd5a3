package coord

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// view is the cluster as operations see it: a ring and its nodes, opened. It is
// immutable; a change of topology makes a new one.
type view struct {
	topology Topology
	ring     *ring.Ring
	members  []*peer          // of the ring, by the ring's index
	peers    map[string]*peer // every registered node
}

func (v *view) close() error {
	var errs []error
	for _, p := range v.peers {
		if err := p.replica.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close storage node %s: %w", p.node.ID, err))
		}
	}
	return errors.Join(errs...)
}

// reshape makes the view of a topology, unless the current one is as new. Nodes
// that have not changed stay open.
func (c *Coordinator) reshape(t Topology) error {
	c.reshaping.Lock()
	defer c.reshaping.Unlock()
	old := c.view.Load()
	if t.Epoch < old.topology.Epoch {
		return nil
	}
	next := &view{topology: t, peers: make(map[string]*peer, len(t.Nodes))}
	var err error
	if next.ring, err = t.Ring(); err != nil {
		return fmt.Errorf("build ring of epoch %d: %w", t.Epoch, err)
	}
	for _, n := range t.Nodes {
		if p := old.peers[n.ID]; p != nil && p.node.UUID == n.UUID && p.node.Address() == n.Address() {
			next.peers[n.ID] = p
			continue
		}
		replica, err := c.options.Connect(n)
		if err != nil {
			next.closeNew(old)
			return fmt.Errorf("open storage node %s at %s: %w", n.ID, n.Address(), err)
		}
		next.peers[n.ID] = &peer{node: n, replica: replica}
	}
	for _, n := range next.ring.Nodes() {
		next.members = append(next.members, next.peers[n.ID])
	}
	c.view.Store(next)
	for id, p := range old.peers {
		if next.peers[id] != p {
			c.retire(p)
		}
	}
	return nil
}

func (v *view) closeNew(old *view) {
	for id, p := range v.peers {
		if old.peers[id] != p {
			p.replica.Close()
		}
	}
}

// retire closes a node once no operation that began with it can still be
// under way, or at once when the coordinator closes.
func (c *Coordinator) retire(p *peer) {
	c.background.Go(func() {
		timer := time.NewTimer(max(c.options.WriteTimeout, c.options.ReadTimeout) + time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.retired:
		}
		if err := p.replica.Close(); err != nil && c.events.Background != nil {
			c.events.Background("close storage node "+p.node.ID, err)
		}
	})
}

// watchTopology looks at the registered nodes now and then: another
// coordinator may have changed them. It also learns the UUIDs of nodes that
// were registered before they could be reached.
func (c *Coordinator) watchTopology(ctx context.Context) {
	interval := time.NewTicker(c.options.TopologyInterval)
	defer interval.Stop()
	learn := time.NewTimer(0)
	defer learn.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-interval.C:
			if err := c.Refresh(ctx); err != nil && ctx.Err() == nil && c.events.Background != nil {
				c.events.Background("refresh topology", err)
			}
			learn.Reset(0)
		case <-learn.C:
			if c.learnUUIDs(ctx) {
				learn.Reset(learnInterval)
				continue
			}
			// For metrics: how full each node is.
			if _, err := c.Nodes(ctx); err != nil && ctx.Err() == nil && c.events.Background != nil {
				c.events.Background("describe storage nodes", err)
			}
		}
	}
}

// noteChange acts on what another coordinator may have changed.
func (c *Coordinator) noteChange(ctx context.Context, change Change) {
	if change.Lost {
		c.tenants.doubt()
	}
	if change.Tenant != "" {
		c.tenants.cache.Invalidate(change.Tenant)
	}
	if change.Topology || change.Lost {
		if err := c.Refresh(ctx); err != nil && ctx.Err() == nil && c.events.Background != nil {
			c.events.Background("refresh topology", err)
		}
	}
}

// learnInterval is how often a node that never answered is asked who it is.
const learnInterval = 500 * time.Millisecond

// learnUUIDs asks nodes without a UUID for it and records the answers. It
// tells whether some are still unknown.
func (c *Coordinator) learnUUIDs(ctx context.Context) (unknown bool) {
	for _, n := range c.view.Load().topology.Nodes {
		if n.UUID != "" {
			continue
		}
		unknown = true
		err := c.learnUUID(ctx, n)
		if err != nil && !errors.Is(err, ErrReplicaUnavailable) && ctx.Err() == nil && c.events.Background != nil {
			c.events.Background("identify storage node "+n.ID, err)
		}
	}
	return unknown
}

func (c *Coordinator) learnUUID(ctx context.Context, n StorageNode) error {
	v := c.view.Load()
	p := v.peers[n.ID]
	if p == nil {
		return nil
	}
	if err := p.replica.Unavailable(); err != nil {
		return fmt.Errorf("%w: %w", ErrReplicaUnavailable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	who, err := p.describe(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReplicaUnavailable, err)
	}
	if err := v.admits(n, who); err != nil {
		return err
	}
	n.UUID = who.UUID
	t, err := c.metadata.PutNode(ctx, v.topology.Epoch, n)
	if errors.Is(err, ErrMigrationConflict) {
		return c.Refresh(ctx) // another coordinator was first
	}
	if err != nil {
		return fmt.Errorf("record UUID of storage node %s: %w", n.ID, err)
	}
	return c.reshape(t)
}

// Refresh looks at the registered nodes now.
func (c *Coordinator) Refresh(ctx context.Context) error {
	t, err := c.metadata.Topology(ctx)
	if err != nil {
		return err
	}
	return c.reshape(t)
}
