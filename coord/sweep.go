package coord

import (
	"context"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// anyUnswept tells whether a node may hold keys that it does not own.
func (t *Topology) anyUnswept() bool {
	for i := range t.Nodes {
		if t.Nodes[i].Unswept != 0 && t.Nodes[i].Status != NodeInactive {
			return true
		}
	}
	return false
}

// settledSince is when the last migration ended.
func (t *Topology) settledSince() (at time.Time) {
	for i := range t.Migrations {
		if m := &t.Migrations[i]; m.EndedAt.After(at) {
			at = m.EndedAt
		}
	}
	return at
}

const (
	sweepPage   = 1000
	sweepWindow = 256
)

// tidy sweeps a node that is due for it, some time after the change that took
// ranges from it, and tells whether it did.
func (m *migrations) tidy(ctx context.Context, v *view) (bool, error) {
	if m.c.options.Wall().Sub(v.topology.settledSince()) < m.c.options.SweepDelay {
		return false, nil
	}
	for i := range v.topology.Nodes {
		n := &v.topology.Nodes[i]
		if n.Unswept == 0 || n.Status == NodeInactive || v.peers[n.ID].replica.Unavailable() != nil {
			continue
		}
		return true, m.sweep(ctx, v, n.ID)
	}
	return false, nil
}

// sweep makes a node forget the keys that it does not own, between changes of
// topology. Every call of the present epoch goes to a key's owners only, and
// the node refuses those of older ones, so that nothing comes back.
func (m *migrations) sweep(ctx context.Context, v *view, id string) error {
	c := m.c
	p := v.peers[id]
	if err := p.replica.Unavailable(); err != nil {
		return err
	}
	for after := (*Position)(nil); ; {
		bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
		page, err := p.replica.Scan(bounded, ScanRequest{Epoch: v.topology.Epoch, Span: ring.Everything(), After: after, Limit: sweepPage})
		cancel()
		if err != nil {
			return err
		}
		var drops []ScanItem
		for _, item := range page.Items {
			tenant, err := c.tenantOf(ctx, v, item.Position.Tenant)
			if err != nil {
				return err
			}
			var where placement
			if tenant != nil {
				v.place(&where, tenant.Space, item.Position.Token, tenant.ReplicationFactor)
			}
			if tenant == nil || !contains(where.peers(), p) {
				drops = append(drops, item)
			}
		}
		if err := c.dropAll(ctx, v, p, drops); err != nil {
			return err
		}
		if after = page.Next; after == nil {
			break
		}
	}
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	return c.change(bounded, func(t *Topology) (step TopologyStep, err error) {
		step.Next, err = t.Swept(id, v.topology.Epoch)
		return step, err
	})
}

// dropAll makes a node forget versions, unless it holds others by now.
func (c *Coordinator) dropAll(ctx context.Context, v *view, p *peer, items []ScanItem) error {
	for len(items) > 0 {
		n := min(len(items), sweepWindow)
		group := newCallGroup()
		calls := make([]Call, n)
		for i := range calls {
			calls[i] = dropCall(v, p, &items[i])
			group.start(p.replica, &calls[i])
		}
		group.wait()
		for i := range calls {
			if err := calls[i].Err; err != nil {
				return fmt.Errorf("remove keys from storage node %s: %w", p.node.ID, err)
			}
		}
		items = items[n:]
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func dropCall(v *view, p *peer, item *ScanItem) Call {
	call := Call{
		Kind: CallDrop, Tenant: item.Position.Tenant, Key: item.Position.Key, Token: item.Position.Token,
		Epoch: v.topology.Epoch, Version: Version{Head: item.Head}, Deadline: time.Now().Add(migrationTimeout),
	}
	call.Boot, call.Heard = p.replica.Heard()
	return call
}
