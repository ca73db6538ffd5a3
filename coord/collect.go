package coord

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// collector removes tombstones, and values that have expired, once nothing can
// bring back what they replaced: when all replicas of the key have held them
// for the grace period, each by its own clock and in its present life. By then
// every hint, every keyed request that might be repeated and every message that
// is under way has ended, or is refused.
type collector struct {
	c         *Coordinator
	collected atomic.Int64
}

// TombstonesCollected is how many keys this coordinator has collected.
func (c *Coordinator) TombstonesCollected() int64 { return c.collector.collected.Load() }

// lead collects again and again until ctx ends.
func (k *collector) lead(ctx context.Context) {
	c := k.c
	every := min(max(c.options.TombstoneGrace/24, 5*time.Second), time.Hour)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := k.pass(ctx); err != nil && ctx.Err() == nil {
			c.report("collect tombstones", err)
		}
	}
}

func (k *collector) pass(ctx context.Context) error {
	c := k.c
	v := c.view.Load()
	if v.change != nil {
		return nil // the replicas are about to be others
	}
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	factors, err := c.metadata.ReplicationFactors(bounded)
	cancel()
	if err != nil || len(factors) == 0 {
		return err
	}
	for _, s := range v.stretches(ring.Everything(), factors[len(factors)-1]) {
		if err := k.stretch(ctx, v, &s); err != nil {
			return err
		}
		if c.view.Load().topology.Epoch != v.topology.Epoch {
			return nil
		}
	}
	return nil
}

func (k *collector) stretch(ctx context.Context, v *view, s *stretch) error {
	c := k.c
	for after := (*Position)(nil); ; {
		answers, _ := scanAll(ctx, s.replicas, ScanRequest{
			Epoch: v.topology.Epoch, Span: s.Span, After: after, DeadFor: c.options.TombstoneGrace, Limit: copyPage,
		})
		if len(answers) == 0 {
			return ctx.Err()
		}
		found, next := mergeScans(answers)
		drops := map[*peer][]ScanItem{}
		for i := range found {
			key := &found[i]
			tenant, err := c.tenantOf(ctx, v, key.Tenant)
			if err != nil {
				return err
			}
			if tenant == nil {
				continue
			}
			natural := first(s.replicas, tenant.ReplicationFactor)
			if len(natural) < tenant.ReplicationFactor || !key.collectable(answers, natural) {
				continue
			}
			for _, p := range natural {
				drops[p] = append(drops[p], ScanItem{Position: key.Position, Head: key.newest})
			}
			k.collected.Add(1)
		}
		for p, items := range drops {
			if err := c.dropAll(ctx, v, p, items); err != nil {
				return fmt.Errorf("collect tombstones: %w", err)
			}
		}
		if after = next; after == nil {
			return nil
		}
	}
}

// collectable tells whether a dead version may be forgotten: every natural
// replica answered that it holds that very one, and has for long enough.
func (k *foundKey) collectable(answers []scanAnswer, natural []*peer) bool {
	holders := 0
	for _, p := range natural {
		i := slices.IndexFunc(answers, func(a scanAnswer) bool { return a.peer == p })
		if i >= 0 && k.heads[i].Exists() && k.heads[i].Compare(&k.newest) == 0 {
			holders++
		}
	}
	if mutant == mutantCollectAtMajority {
		return holders >= Majority(len(natural))
	}
	return holders == len(natural)
}
