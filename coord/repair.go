package coord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// repairs compares replicas span by span, by the sums of what they hold, and
// makes equal what differs (anti-entropy). The leader does so continuously,
// paced so that a round takes RepairInterval, ranges that are owed first; and
// any coordinator when it is asked to.
type repairs struct {
	c *Coordinator

	compared atomic.Int64
	differed atomic.Int64
	repaired atomic.Int64
	bytes    atomic.Int64
	rounds   atomic.Int64
}

// RepairStats counts what this coordinator has compared and repaired.
type RepairStats struct {
	Compared int64 // spans
	Differed int64 // of them
	Repaired int64 // keys
	Bytes    int64 // of their values
	Rounds   int64 // through all that there is
}

// RepairRequest asks for replicas to be compared.
type RepairRequest struct {
	Tenant string    // id; empty: all
	Span   ring.Span // of tokens
}

// RepairProgress is how far a repair has come.
type RepairProgress struct {
	Spans, Compared, Differed int64 // spans: to be compared, compared, found different
	Keys, Bytes               int64 // repaired
	// Skipped is how many spans could not be compared whole, since a replica
	// did not answer.
	Skipped int64
}

const (
	// repairBatch is how many spans are compared at a time.
	repairBatch = 256
	// leafKeys is how many keys a span may hold to be listed rather than split.
	leafKeys = 512
	// splitInto is how many parts a span that differs is split into.
	splitInto    = 16
	repairWindow = 32
)

// lead compares all replicas again and again until ctx ends.
func (r *repairs) lead(ctx context.Context) {
	c := r.c
	for ctx.Err() == nil {
		if err := r.payOwed(ctx); err != nil && ctx.Err() == nil {
			c.report("repair ranges that are owed", err)
		}
		began := time.Now()
		var progress RepairProgress
		err := r.round(ctx, RepairRequest{Span: ring.Everything()}, c.options.RepairInterval, &progress, func() {})
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrMigrationConflict): // what is compared has changed; the next round sees it
		case err != nil:
			c.report("compare replicas", err)
		default:
			r.rounds.Add(1)
		}
		// Few ranges are soon done.
		r.rest(ctx, c.options.RepairInterval-time.Since(began))
	}
}

// rest waits, paying what is owed meanwhile.
func (r *repairs) rest(ctx context.Context, wait time.Duration) {
	deadline := time.Now().Add(max(wait, 100*time.Millisecond))
	for time.Now().Before(deadline) {
		timer := time.NewTimer(min(time.Until(deadline), 5*time.Second))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := r.payOwed(ctx); err != nil && ctx.Err() == nil {
			r.c.report("repair ranges that are owed", err)
		}
	}
}

// Repair compares replicas now, at full speed, and tells progress from time to
// time, last when it has ended.
func (c *Coordinator) Repair(ctx context.Context, req RepairRequest, tell func(RepairProgress)) error {
	if req.Tenant != "" {
		if _, err := c.tenants.get(ctx, req.Tenant, 0); err != nil {
			return err
		}
	}
	var progress RepairProgress
	err := c.repairs.round(ctx, req, 0, &progress, func() { tell(progress) })
	tell(progress)
	return err
}

// RepairStats tells what this coordinator has compared and repaired so far.
func (c *Coordinator) RepairStats() RepairStats {
	r := &c.repairs
	return RepairStats{r.compared.Load(), r.differed.Load(), r.repaired.Load(), r.bytes.Load(), r.rounds.Load()}
}

// stretch is a span with the replicas that hold it, for the greatest
// replication factor in use.
type stretch struct {
	ring.Span
	replicas []*peer
}

// stretches lists what a view's replicas hold in a span.
func (v *view) stretches(span ring.Span, most int) (all []stretch) {
	if len(v.members) == 0 || most == 0 {
		return nil
	}
	for _, r := range ring.Ranges(v.ring, most, v.ring, most) {
		if r.Last < span.First || r.First > span.Last {
			continue
		}
		s := ring.Span{First: max(r.First, span.First), Last: min(r.Last, span.Last)}
		all = append(all, stretch{s, pick(v.members, r.Old)})
	}
	return all
}

// round compares the replicas of a span once, in about so much time.
func (r *repairs) round(ctx context.Context, req RepairRequest, in time.Duration, progress *RepairProgress, tell func()) error {
	c := r.c
	v := c.view.Load()
	if v.change != nil {
		if in > 0 {
			return nil // the copy has precedence, and compares too
		}
		return fmt.Errorf("%w: migration %s is under way, which compares what it moves; repair again when it has ended", ErrMigrationConflict, v.change.ID)
	}
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	factors, err := c.metadata.ReplicationFactors(bounded)
	cancel()
	if err != nil || len(factors) == 0 {
		return err
	}
	all := v.stretches(req.Span, factors[len(factors)-1])
	progress.Spans = int64(len(all))
	pass := &comparison{r: r, v: v, progress: progress, pace: pace{rate: c.options.CopyRate}}
	if req.Tenant != "" {
		t, err := c.tenants.get(ctx, req.Tenant, v.topology.TenantsEpoch)
		if err != nil {
			return err
		}
		pass.space = t.Space
	}
	began := time.Now()
	for done := 0; done < len(all); {
		batch := all[done:min(done+repairBatch, len(all))]
		if err := pass.compare(ctx, batch); err != nil {
			return err
		}
		done += len(batch)
		tell()
		if ahead := time.Duration(float64(in)*float64(done)/float64(len(all))) - time.Since(began); in > 0 && done < len(all) {
			r.rest(ctx, ahead)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.view.Load().topology.Epoch != v.topology.Epoch {
			return fmt.Errorf("%w: the topology has changed meanwhile", ErrMigrationConflict)
		}
	}
	return nil
}

// comparison is one pass over replicas of one view.
type comparison struct {
	r        *repairs
	v        *view
	space    string // empty: of all tenants
	progress *RepairProgress
	pace     pace
}

// sums asks each replica for its sums of the stretches that it holds. What one
// has not answered is nil.
func (p *comparison) sums(ctx context.Context, batch []stretch, space string) []map[*peer]SpanSums {
	by := map[*peer][]int{}
	for i := range batch {
		for _, peer := range batch[i].replicas {
			by[peer] = append(by[peer], i)
		}
	}
	sums := make([]map[*peer]SpanSums, len(batch))
	for i := range sums {
		sums[i] = map[*peer]SpanSums{}
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	for peer, at := range by {
		if peer.replica.Unavailable() != nil {
			continue
		}
		all.Go(func() {
			req := SumRequest{Epoch: p.v.topology.Epoch, Space: space}
			for _, i := range at {
				req.Spans = append(req.Spans, batch[i].Span)
			}
			answer, err := peer.replica.Sums(bounded, req)
			if err != nil || len(answer) != len(at) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for n, i := range at {
				sums[i][peer] = answer[n]
			}
		})
	}
	all.Wait()
	return sums
}

// compare finds the stretches whose replicas differ, and repairs them.
func (p *comparison) compare(ctx context.Context, batch []stretch) error {
	c := p.r.c
	for i, answered := range p.sums(ctx, batch, p.space) {
		s := &batch[i]
		p.progress.Compared++
		p.r.compared.Add(1)
		if len(answered) < len(s.replicas) {
			p.progress.Skipped++
		}
		for _, space := range spacesOf(answered) {
			tenant, err := c.tenantOf(ctx, p.v, space)
			if err != nil {
				return err
			}
			if tenant == nil {
				continue // it was deleted, and is being removed
			}
			replicas := first(s.replicas, tenant.ReplicationFactor)
			if keys, equal := compareSums(answered, replicas, space); !equal {
				p.progress.Differed++
				p.r.differed.Add(1)
				if err := p.dig(ctx, stretch{s.Span, replicas}, tenant, keys); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func spacesOf(answered map[*peer]SpanSums) (spaces []string) {
	for _, sums := range answered {
		for _, s := range sums {
			spaces = append(spaces, s.Space)
		}
	}
	slices.Sort(spaces)
	return slices.Compact(spaces)
}

// compareSums tells whether the replicas that answered hold the same of a
// space, and how many keys the fullest one holds.
func compareSums(answered map[*peer]SpanSums, replicas []*peer, space string) (keys int64, equal bool) {
	equal = true
	var seen *SpaceSum
	for _, p := range replicas {
		sums, ok := answered[p]
		if !ok {
			continue
		}
		mine := SpaceSum{Space: space}
		if at := slices.IndexFunc(sums, func(s SpaceSum) bool { return s.Space == space }); at >= 0 {
			mine = sums[at]
		}
		keys = max(keys, mine.Keys)
		if seen != nil && *seen != mine {
			equal = false
		}
		seen = &mine
	}
	return keys, equal
}

// dig narrows down where replicas differ, and repairs what it finds there.
func (p *comparison) dig(ctx context.Context, s stretch, t *Tenant, keys int64) error {
	if keys <= leafKeys || s.Last-s.First < splitInto {
		return p.reconcile(ctx, s, t)
	}
	parts := make([]stretch, 0, splitInto)
	step := (s.Last-s.First)/splitInto + 1
	for at := s.First; ; at += step {
		last := min(at+step-1, s.Last)
		if last < at { // beyond the greatest token
			last = s.Last
		}
		parts = append(parts, stretch{ring.Span{First: at, Last: last}, s.replicas})
		if last == s.Last {
			break
		}
	}
	for i, answered := range p.sums(ctx, parts, t.Space) {
		if keys, equal := compareSums(answered, s.replicas, t.Space); !equal {
			if err := p.dig(ctx, parts[i], t, keys); err != nil {
				return err
			}
		}
	}
	return nil
}

// reconcile lists what replicas hold of a tenant in a span, and brings the
// newest version of each key to those that lack it.
func (p *comparison) reconcile(ctx context.Context, s stretch, t *Tenant) error {
	c := p.r.c
	for after := (*Position)(nil); ; {
		req := ScanRequest{Epoch: p.v.topology.Epoch, Span: s.Span, Tenant: t.Space, After: after, Limit: copyPage}
		answers, failure := scanAll(ctx, s.replicas, req)
		if len(answers) < 2 {
			p.progress.Skipped++
			return ctx.Err()
		}
		stale := (*StaleRingError)(nil)
		if errors.As(failure, &stale) {
			return failure
		}
		found, next := mergeScans(answers)
		var keys []errandKey
		for i := range found {
			if k := &found[i]; slices.ContainsFunc(k.heads, func(h Head) bool { return h.Compare(&k.newest) < 0 }) {
				keys = append(keys, errandKey{t, k.Key})
			}
		}
		for len(keys) > 0 {
			n := min(repairWindow, len(keys))
			bytes, err := c.runErrands(errandRepair, p.v, keys[:n])
			if err != nil {
				return fmt.Errorf("repair keys of tenant %q: %w", t.ID, err)
			}
			p.progress.Keys += int64(n)
			p.progress.Bytes += bytes
			p.r.repaired.Add(int64(n))
			p.r.bytes.Add(bytes)
			if err := p.pace.spend(ctx, bytes); err != nil {
				return err
			}
			keys = keys[n:]
		}
		if after = next; after == nil {
			return nil
		}
	}
}

// owedSpan is the tokens of an owed range.
func owedSpan(r uint16) ring.Span {
	const width = 64 - OwedRangeBits
	firstToken := ring.Token(r) << width
	return ring.Span{First: firstToken, Last: firstToken | (1<<width - 1)}
}

// payOwed compares the ranges that nodes are owed, and settles those that were
// compared with the node itself.
func (r *repairs) payOwed(ctx context.Context) error {
	c := r.c
	if c.handoff == nil || c.view.Load().change != nil {
		return nil
	}
	for _, d := range c.handoff.ledger() {
		if d.OwedRanges == 0 {
			continue
		}
		if err := r.payNode(ctx, d.Node); err != nil {
			return fmt.Errorf("node %s: %w", d.Node, err)
		}
	}
	return nil
}

func (r *repairs) payNode(ctx context.Context, node string) error {
	c := r.c
	bounded, cancel := context.WithTimeout(ctx, hintStoreTimeout)
	owed, err := c.options.Hints.Owed(bounded, node)
	cancel()
	if err != nil || len(owed) == 0 {
		return err
	}
	slices.Sort(owed)
	for len(owed) > 0 {
		// Neighbours are compared together, and settled before the next ones are.
		n := 1
		for n < min(len(owed), owedTogether) && owed[n] == owed[n-1]+1 {
			n++
		}
		v := c.view.Load()
		if p := v.peers[node]; p != nil { // a node that is gone is owed nothing
			if p.replica.Unavailable() != nil || v.change != nil {
				return nil
			}
			span := ring.Span{First: owedSpan(owed[0]).First, Last: owedSpan(owed[n-1]).Last}
			var progress RepairProgress
			if err := r.round(ctx, RepairRequest{Span: span}, 0, &progress, func() {}); err != nil {
				return err
			}
			if p.replica.Unavailable() != nil {
				return nil
			}
		}
		bounded, cancel := context.WithTimeout(ctx, hintStoreTimeout)
		err := c.options.Hints.Settle(bounded, node, owed[:n])
		cancel()
		if err != nil {
			return err
		}
		owed = owed[n:]
	}
	return nil
}

// owedTogether is how many owed ranges are compared at a time.
const owedTogether = 256
