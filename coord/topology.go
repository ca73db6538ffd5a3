package coord

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// view is the cluster as operations see it: a ring, the one that a change under
// way leads to, and their nodes, opened. It is immutable; each step of a change
// makes a new one.
type view struct {
	topology    Topology
	change      *Migration // under way; nil without one
	ring        *ring.Ring // of the members, as they were before the change
	members     []*peer    // of ring, by its index
	next        *ring.Ring // of the members after the change; nil where they stay
	nextMembers []*peer
	peers       map[string]*peer // every registered node
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
	if old.peers != nil && t.Version <= old.topology.Version {
		return nil
	}
	next := &view{topology: t, change: t.Current(), peers: make(map[string]*peer, len(t.Nodes))}
	var err error
	if next.ring, err = t.Ring(); err == nil {
		next.next, err = t.NextRing()
	}
	if err != nil {
		return fmt.Errorf("build ring of epoch %d: %w", t.Epoch, err)
	}
	for _, n := range t.Nodes {
		if p := old.peers[n.ID]; p != nil && p.node.UUID == n.UUID && p.node.Address() == n.Address() {
			next.peers[n.ID] = p
			continue // what is registered of it is in the topology
		}
		replica, err := c.options.Connect(n)
		if err != nil {
			next.closeNew(old)
			return fmt.Errorf("open storage node %s at %s: %w", n.ID, n.Address(), err)
		}
		next.peers[n.ID] = &peer{node: n, replica: replica}
	}
	next.members = next.seats(next.ring)
	if next.next != nil {
		next.nextMembers = next.seats(next.next)
	}
	c.view.Store(next)
	c.rings.look()
	for id, p := range old.peers {
		if next.peers[id] != p {
			c.retire(p)
		}
	}
	return nil
}

// seats is the peers of a ring's nodes, by the ring's index.
func (v *view) seats(r *ring.Ring) []*peer {
	peers := make([]*peer, 0, r.Len())
	for _, n := range r.Nodes() {
		peers = append(peers, v.peers[n.ID])
	}
	return peers
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
	if err := v.topology.admits(n, who); err != nil {
		return err
	}
	return c.change(ctx, func(t *Topology) (TopologyStep, error) {
		now := t.Node(n.ID)
		if now == nil || now.UUID != "" {
			return TopologyStep{}, errUnchanged // another coordinator was first
		}
		known := *now
		known.UUID = who.UUID
		return TopologyStep{Next: t.WithNode(known)}, nil
	})
}

// Refresh looks at the registered nodes now.
func (c *Coordinator) Refresh(ctx context.Context) error {
	t, err := c.metadata.Topology(ctx)
	if err != nil {
		return err
	}
	return c.reshape(t)
}

// errUnchanged ends a change of topology that is not needed.
var errUnchanged = errors.New("nothing to change")

// changeAttempts bounds how often a change is decided again because another
// coordinator has changed the topology in between.
const changeAttempts = 10

// change takes a step: decide makes it from the topology as it stands, or
// returns errUnchanged. Where another coordinator is quicker it decides again.
func (c *Coordinator) change(ctx context.Context, decide func(*Topology) (TopologyStep, error)) error {
	for attempt := 1; ; attempt++ {
		now, err := c.metadata.Topology(ctx)
		if err != nil {
			return err
		}
		step, err := decide(&now)
		if errors.Is(err, errUnchanged) {
			return c.reshape(now)
		}
		if err != nil {
			return err
		}
		err = c.metadata.SetTopology(ctx, step)
		if errors.Is(err, ErrMigrationConflict) && attempt < changeAttempts {
			continue
		}
		if err != nil {
			return err
		}
		return c.reshape(step.Next)
	}
}
