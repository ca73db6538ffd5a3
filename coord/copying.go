package coord

import (
	"context"
	"errors"
	"slices"
	"time"
)

// copying is the copy of one change of topology.
type copying struct {
	c       *Coordinator
	v       *view
	m       *Migration
	space   string // of the only tenant that moves; empty: all do
	factors []int
	window  int
	pace    pace
	saved   time.Time

	MigrationProgress
}

// errTenantGone ends the resizing of a tenant that was deleted.
var errTenantGone = errors.New("the tenant is gone")

func (cp *copying) run(ctx context.Context) error {
	c := cp.c
	err := cp.prepare(ctx)
	if errors.Is(err, errTenantGone) {
		return nil
	}
	if err != nil {
		return err
	}
	cp.pace = pace{rate: c.options.CopyRate}
	shifts := cp.v.shifts(cp.factors)
	if err := cp.moveFloors(ctx, shifts); err != nil {
		return err
	}
	whole := share(shifts, nil)
	if cp.Total == 0 {
		cp.Total = cp.count(ctx, shifts)
	}
	for i := range shifts {
		s := &shifts[i]
		if cp.After != nil && cp.After.Token > s.Last {
			continue
		}
		after := cp.After
		if after != nil && after.Token < s.First {
			after = nil
		}
		for more := true; more; {
			if after, err = cp.page(ctx, s, after); err != nil {
				return err
			}
			more = after != nil
			// Whatever is left of the span, its keys come after this.
			cp.After = after
			if !more {
				cp.After = &Position{Token: s.Last, Tenant: lastTenant}
			}
			cp.Part = share(shifts, cp.After) / whole
			if err := cp.checkpoint(ctx, i == len(shifts)-1 && !more); err != nil {
				return err
			}
			if c.view.Load().topology.Epoch != cp.v.topology.Epoch {
				return nil // it was cancelled, finished, or given other rules meanwhile
			}
		}
	}
	return nil
}

// lastTenant is after every tenant in the order of positions.
const lastTenant = "\U0010ffff"

func (cp *copying) prepare(ctx context.Context) (err error) {
	c, m := cp.c, cp.m
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	if cp.factors, err = c.metadata.ReplicationFactors(bounded); err != nil {
		return err
	}
	if cp.MigrationProgress, err = c.loadProgress(bounded, m); err != nil {
		return err
	}
	if m.Kind != MigrationResize {
		return nil
	}
	tenant, err := c.metadata.Tenant(bounded, m.Tenant)
	if errors.Is(err, ErrTenantNotFound) {
		return errTenantGone
	}
	if err == nil && !m.resizes(tenant.Space) {
		return errTenantGone // and another one has followed it
	}
	cp.space, cp.factors = tenant.Space, []int{m.From}
	return err
}

// page copies the next keys of a span and returns where to go on, nil at its end.
func (cp *copying) page(ctx context.Context, s *shift, after *Position) (*Position, error) {
	c := cp.c
	req := ScanRequest{Epoch: cp.v.topology.Epoch, Span: s.Span, Tenant: cp.space, After: after, Limit: copyPage}
	answers, failure := scanAll(ctx, s.asked(cp.m), req)
	answered := func(p *peer) bool {
		return slices.ContainsFunc(answers, func(a scanAnswer) bool { return a.peer == p })
	}
	if err := s.fenced(cp.m, cp.factors, answered); err != nil {
		return nil, errors.Join(err, failure)
	}
	found, next := mergeScans(answers)
	var keys []errandKey
	for i := range found {
		k := &found[i]
		tenant, err := c.tenantOf(ctx, cp.v, k.Tenant)
		if err != nil {
			return nil, err
		}
		if tenant == nil {
			continue
		}
		var where placement
		cp.v.place(&where, tenant.Space, k.Token, tenant.ReplicationFactor)
		if where.news > 0 && k.lacking(answers, where.new[:where.news]) {
			keys = append(keys, errandKey{tenant, k.Key})
		}
	}
	for len(keys) > 0 {
		n := min(cp.window, len(keys))
		started := c.now()
		bytes, err := c.runErrands(errandCopy, cp.v, keys[:n])
		if err != nil {
			return nil, err
		}
		cp.Bytes += bytes
		c.migrations.keys.Add(int64(n))
		c.migrations.bytes.Add(bytes)
		cp.adapt(time.Duration(c.now()-started), s)
		if err := cp.pace.spend(ctx, bytes); err != nil {
			return nil, err
		}
		keys = keys[n:]
	}
	cp.Keys += int64(len(found))
	c.migrations.copied.Store(&copied{cp.m.ID, cp.MigrationProgress})
	return next, ctx.Err()
}

// adapt makes the window larger while nodes answer quickly, and halves it when
// they do not: clients come first.
func (cp *copying) adapt(took time.Duration, s *shift) {
	limit := time.Duration(0)
	for _, p := range s.new {
		limit = max(limit, cp.c.unhurried(p.node.ID))
	}
	if took > limit {
		cp.window = max(cp.window/2, 1)
	} else {
		cp.window = min(2*cp.window, maxCopyWindow)
	}
}

func (cp *copying) checkpoint(ctx context.Context, last bool) error {
	if !last && time.Since(cp.saved) < checkpointEvery {
		return nil
	}
	cp.saved = time.Now()
	return cp.c.saveProgress(ctx, cp.m, &cp.MigrationProgress)
}

// count estimates how many keys are to be looked at; 0 where nobody can say.
func (cp *copying) count(ctx context.Context, shifts []shift) (keys int64) {
	for len(shifts) > 0 {
		group := shifts[:min(len(shifts), MaxSumSpans)]
		shifts = shifts[len(group):]
		by := map[*peer][]int{}
		for i := range group {
			for _, p := range group[i].asked(cp.m) {
				if p.replica.Unavailable() == nil {
					by[p] = append(by[p], i)
					break
				}
			}
		}
		for p, at := range by {
			req := SumRequest{Epoch: cp.v.topology.Epoch, Space: cp.space}
			for _, i := range at {
				req.Spans = append(req.Spans, group[i].Span)
			}
			bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
			sums, err := p.replica.Sums(bounded, req)
			cancel()
			if err != nil {
				return 0
			}
			for _, spaces := range sums {
				for _, s := range spaces {
					keys += s.Keys
				}
			}
		}
	}
	return keys
}
