package coord

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// migrations carries out the changes of topology that wait, one at a time. Only
// the leader works at them, but nothing breaks where two do.
type migrations struct {
	c      *Coordinator
	wake   chan struct{} // capacity 1
	looked time.Time     // at the store; of the goroutine that leads

	keys  atomic.Int64 // copied
	bytes atomic.Int64

	copied atomic.Pointer[copied] // by this coordinator, of the migration that it works at

	mu    sync.Mutex
	stuck map[string]string // by migration: why it does not go on
}

// copied is how far this coordinator has come with a migration.
type copied struct {
	id string
	MigrationProgress
}

const (
	migrationLook     = 500 * time.Millisecond
	migrationPoll     = 2 * time.Second // of the store, whatever it tells by itself
	migrationRetryMax = 5 * time.Second
	migrationTimeout  = 5 * time.Second // of one call on a store or node
	copyPage          = 512             // keys
	maxCopyWindow     = 64              // keys under way
	checkpointEvery   = time.Second
)

// look makes the leader look for migrations now.
func (m *migrations) look() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// lead carries out migrations until ctx ends.
func (m *migrations) lead(ctx context.Context) {
	tick := time.NewTicker(migrationLook)
	defer tick.Stop()
	pause := migrationLook
	for ctx.Err() == nil {
		more, err := m.step(ctx)
		if err != nil && ctx.Err() == nil {
			m.c.report("change the topology", err)
			select {
			case <-ctx.Done():
			case <-m.wake:
			case <-time.After(pause):
			}
			pause = min(2*pause, migrationRetryMax)
			continue
		}
		pause = migrationLook
		if more {
			continue
		}
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-tick.C:
		}
	}
}

// step does the next thing that is to be done, and tells whether there may be more.
func (m *migrations) step(ctx context.Context) (more bool, err error) {
	c := m.c
	if v := c.view.Load(); v.change == nil && v.topology.Next() == nil && !v.topology.anyUnswept() && time.Since(m.looked) < migrationPoll {
		return false, nil // most stores tell this coordinator what others change
	}
	m.looked = time.Now()
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	err = c.Refresh(bounded)
	cancel()
	if err != nil {
		return false, err
	}
	v := c.view.Load()
	if v.change != nil {
		return true, m.note(v.change.ID, m.carryOut(ctx, v))
	}
	next := v.topology.Next()
	if next == nil {
		return m.tidy(ctx, v)
	}
	if must := v.topology.MustSweep(next); len(must) > 0 {
		for _, id := range must {
			if err := m.sweep(ctx, v, id); err != nil {
				return false, m.note(next.ID, fmt.Errorf("remove from node %s what it does not own, before it gets more: %w", id, err))
			}
		}
		return true, nil
	}
	return true, m.note(next.ID, m.begin(ctx, next.ID))
}

// note keeps why a migration does not go on, for whoever asks.
func (m *migrations) note(id string, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stuck == nil {
		m.stuck = map[string]string{}
	}
	if err == nil {
		delete(m.stuck, id)
	} else {
		m.stuck[id] = err.Error()
	}
	return err
}

func (m *migrations) waiting(id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck[id]
}

// begin takes a migration's first step, or gives it up where it has become
// impossible while it waited.
func (m *migrations) begin(ctx context.Context, id string) error {
	c := m.c
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	err := c.change(bounded, func(t *Topology) (step TopologyStep, err error) {
		next := t.Migration(id)
		if next == nil || next.Status != MigrationPending || t.Current() != nil {
			return TopologyStep{}, errUnchanged
		}
		if len(t.MustSweep(next)) > 0 {
			return TopologyStep{}, errUnchanged // it is looked at again
		}
		reason, err := c.impossible(bounded, t, next)
		if err != nil {
			return TopologyStep{}, err
		}
		if reason != "" {
			step.Next, err = t.Fail(id, reason, c.options.Wall().UTC())
		} else {
			step.Next, err = t.Begin(id, c.options.Wall().UTC())
			if next.Kind == MigrationRemove && !next.Force {
				step.MostReplicas = t.Members() - 1 // of tenants that were created since, too
			}
		}
		return step, err
	})
	if err != nil {
		return fmt.Errorf("begin migration %s: %w", id, err)
	}
	return nil
}

// impossible tells why a migration that waits cannot begin, ever.
func (c *Coordinator) impossible(ctx context.Context, t *Topology, m *Migration) (string, error) {
	members := t.Members()
	switch m.Kind {
	case MigrationResize:
		if m.To > members {
			return fmt.Sprintf("replication factor %d, but there are %d active nodes by now", m.To, members), nil
		}
		tenant, err := c.metadata.Tenant(ctx, m.Tenant)
		if errors.Is(err, ErrTenantNotFound) || err == nil && !m.resizes(tenant.Space) {
			return fmt.Sprintf("tenant %q was deleted", m.Tenant), nil
		}
		if err != nil {
			return "", err
		}
	case MigrationRemove:
		if t.Node(m.Node) == nil {
			return fmt.Sprintf("node %q is gone", m.Node), nil
		}
		factors, err := c.metadata.ReplicationFactors(ctx)
		if err != nil {
			return "", err
		}
		if len(factors) > 0 && members-1 < factors[len(factors)-1] && !m.Force {
			return fmt.Sprintf("%d nodes would be left, a tenant has replication factor %d", members-1, factors[len(factors)-1]), nil
		}
	case MigrationReplace:
		if t.Node(m.Node) == nil {
			return fmt.Sprintf("node %q is gone", m.Node), nil
		}
	}
	return "", nil
}

// announce tells all nodes of the topology, so that they refuse older epochs
// and can tell others of it. Those that do not answer learn the epoch with the
// first call that reaches them.
func (c *Coordinator) announce(ctx context.Context, v *view) {
	encoded, err := v.topology.Encode()
	if err != nil {
		c.report("tell storage nodes of the topology", err)
		return
	}
	bounded, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, p := range v.peers {
		if p.replica.Unavailable() == nil {
			all.Go(func() { _ = p.replica.Adopt(bounded, v.topology.Epoch, encoded) })
		}
	}
	all.Wait()
}

// carryOut copies what the migration under way moves, and takes its second step.
func (m *migrations) carryOut(ctx context.Context, v *view) error {
	c := m.c
	c.announce(ctx, v)
	cp := &copying{c: c, v: v, m: v.change, window: 4}
	if err := cp.run(ctx); err != nil {
		return fmt.Errorf("copy for migration %s: %w", v.change.ID, err)
	}
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	err := c.change(bounded, func(t *Topology) (step TopologyStep, err error) {
		if now := t.Current(); now == nil || now.ID != v.change.ID || now.Joint != v.change.Joint || t.Epoch != v.topology.Epoch {
			return TopologyStep{}, errUnchanged // cancelled, finished by another, or to be gone on with by other rules
		}
		step.Next, step.Resize, err = t.Finish(c.options.Wall().UTC())
		return step, err
	})
	if err != nil {
		return fmt.Errorf("finish migration %s: %w", v.change.ID, err)
	}
	c.announce(ctx, c.view.Load())
	return nil
}
