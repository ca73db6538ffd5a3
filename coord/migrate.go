package coord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

// MigrationProgress is how far a migration's copy has come.
type MigrationProgress struct {
	Keys  int64 `json:"keys"`  // looked at
	Total int64 `json:"total"` // there are, as estimated when it began
	Bytes int64 `json:"bytes"` // of values that were read to be copied
	// Part is how much of the tokens that move is done, 0 to 1.
	Part float64 `json:"part"`
	// After is where the copy goes on: behind this position.
	After *Position `json:"after,omitempty"`
	// Waiting says what the migration waits for, where it does.
	Waiting string `json:"-"`
}

// MigrationState is a migration and how far it has come.
type MigrationState struct {
	Migration
	MigrationProgress
	// Ends is when it is expected to have ended; zero where nobody can say.
	Ends time.Time
}

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

func (m *Migration) checkpoint() string {
	if mutant == mutantSharedCheckpoint {
		return "migration"
	}
	return fmt.Sprintf("migration/%s/%d", m.ID, m.Joint)
}

// loadProgress reads a migration's checkpoint. It is that of this very change:
// what one change has copied says nothing of another.
func (c *Coordinator) loadProgress(ctx context.Context, m *Migration) (p MigrationProgress, err error) {
	saved, err := c.metadata.Checkpoint(ctx, m.checkpoint())
	if err != nil || saved == nil {
		return p, err
	}
	if err := json.Unmarshal(saved, &p); err != nil {
		return MigrationProgress{}, fmt.Errorf("read checkpoint of migration %s: %w: %w", m.ID, ErrCorrupt, err)
	}
	return p, nil
}

func (c *Coordinator) saveProgress(ctx context.Context, m *Migration, p *MigrationProgress) error {
	saved, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save checkpoint of migration %s: %w", m.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	return c.metadata.SaveCheckpoint(ctx, m.checkpoint(), saved)
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
		if now := t.Current(); now == nil || now.ID != v.change.ID || now.Joint != v.change.Joint {
			return TopologyStep{}, errUnchanged // cancelled, or finished by another
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
				return nil // it was cancelled or finished meanwhile
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
		cp.v.place(&where, tenant.ID, k.Token, tenant.ReplicationFactor)
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

// scanAll asks peers for the same page of a scan, and returns what those
// answered that did, and what failed.
func scanAll(ctx context.Context, peers []*peer, req ScanRequest) (answers []scanAnswer, failure error) {
	pages := make([]ScanPage, len(peers))
	errs := make([]error, len(peers))
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	var all sync.WaitGroup
	for i, p := range peers {
		if errs[i] = p.replica.Unavailable(); errs[i] == nil {
			all.Go(func() { pages[i], errs[i] = p.replica.Scan(bounded, req) })
		}
	}
	all.Wait()
	for i, p := range peers {
		if errs[i] == nil {
			answers = append(answers, scanAnswer{p, pages[i]})
		} else {
			failure = errors.Join(failure, fmt.Errorf("scan storage node %s: %w", p.node.ID, errs[i]))
		}
	}
	return answers, failure
}

// tenantOf is the tenant to which a space belongs, in a view that serves it;
// nil where that tenant was deleted.
func (c *Coordinator) tenantOf(ctx context.Context, v *view, space string) (*Tenant, error) {
	id := tenantOfSpace(space)
	t, ok := c.tenants.ready(id)
	if !ok || !v.serves(t) {
		var err error
		t, err = c.tenants.get(ctx, id, v.topology.TenantsEpoch)
		if errors.Is(err, ErrTenantNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if t.Space != space {
		return nil, nil
	}
	if !v.serves(t) {
		return nil, fmt.Errorf("%w: the ring has changed", ErrMigrationConflict)
	}
	return t, nil
}

// CancelMigration gives a migration up.
func (c *Coordinator) CancelMigration(ctx context.Context, id string) error {
	err := c.change(ctx, func(t *Topology) (step TopologyStep, err error) {
		step.Next, err = t.Cancel(id, c.options.Wall().UTC())
		return step, err
	})
	if err != nil {
		return err
	}
	c.announce(ctx, c.view.Load())
	c.migrations.look()
	return nil
}

// RunningMigration is the one under way, as far as this coordinator knows: how
// far it has come is known where it is worked at. Ok is false without one.
func (c *Coordinator) RunningMigration() (m MigrationState, ok bool) {
	v := c.view.Load()
	if v.change == nil {
		return MigrationState{}, false
	}
	m.Migration = *v.change
	if p := c.migrations.copied.Load(); p != nil && p.id == m.ID {
		m.MigrationProgress = p.MigrationProgress
	}
	m.Total = max(m.Total, m.Keys)
	return m, true
}

// Migration tells how far a migration has come; ErrMigrationNotFound.
func (c *Coordinator) Migration(ctx context.Context, id string) (MigrationState, error) {
	t, err := c.metadata.Topology(ctx)
	if err != nil {
		return MigrationState{}, err
	}
	m := t.Migration(id)
	if m == nil {
		return MigrationState{}, fmt.Errorf("%w: %q", ErrMigrationNotFound, id)
	}
	return c.stateOf(ctx, m)
}

// Migrations lists those that wait or are under way and the last that ended,
// oldest first.
func (c *Coordinator) Migrations(ctx context.Context) ([]MigrationState, error) {
	t, err := c.metadata.Topology(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]MigrationState, len(t.Migrations))
	for i := range t.Migrations {
		if states[i], err = c.stateOf(ctx, &t.Migrations[i]); err != nil {
			return nil, err
		}
	}
	return states, nil
}

func (c *Coordinator) stateOf(ctx context.Context, m *Migration) (MigrationState, error) {
	p, err := c.loadProgress(ctx, m)
	if err != nil {
		return MigrationState{}, err
	}
	s := MigrationState{Migration: *m, MigrationProgress: p}
	s.Total = max(s.Total, s.Keys)
	s.Waiting = c.migrations.waiting(m.ID)
	switch m.Status {
	case MigrationCompleted:
		s.Part, s.Total = 1, s.Keys
		s.Ends = m.EndedAt
	case MigrationFailed, MigrationCancelled:
		s.Ends = m.EndedAt
	case MigrationInProgress:
		if elapsed := c.options.Wall().Sub(m.StartedAt); s.Part > 0 && elapsed > 0 {
			s.Ends = m.StartedAt.Add(time.Duration(float64(elapsed) / s.Part))
		}
	}
	return s, nil
}
