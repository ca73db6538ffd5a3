package coord

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// handoff gathers hints, stores them in groups, and replays them to nodes that
// answer again, no faster than those can take it.
//
// Hints wait in memory to be stored together, for storeEvery and longer where
// the store is slow (restAfter): while a busy node is down, storing each at once
// would cost more than the writes themselves. Newer versions meanwhile take the
// places of older ones. What is in memory is bounded; as the bounds come near it
// is stored sooner, and beyond them a hint is given up and its range owed, which
// comparing replicas pays later. No write waits for any of it.
type handoff struct {
	c     *Coordinator
	store Hints
	wake  chan struct{} // capacity 1: there is something to store, or much of it

	mu      sync.Mutex
	pending map[hintKey]Hint
	taken   map[hintKey]Hint                            // what was pending when a flush began
	bytes   int64                                       // of both
	waits   map[string]*Debt                            // both, by node
	storing []Hint                                      // a group between taken and debts
	owed    map[string]*[1 << OwedRangeBits / 64]uint64 // by node; not yet stored
	debts   []Debt                                      // stored ones, as they were last seen

	replaying sync.Map // node id -> struct{}
	replayed  atomic.Uint64
	lost      atomic.Uint64 // hints given up for owed ranges
}

type hintKey struct{ node, tenant, key string }

const (
	// maxPendingHints and maxPendingHintBytes bound the hints in memory.
	maxPendingHints     = 50_000
	maxPendingHintBytes = 64 << 20
	// From these on what waits is stored at once.
	manyPendingHints     = maxPendingHints / 2
	manyPendingHintBytes = maxPendingHintBytes / 2
	// hintGroup and hintGroupBytes bound one write to the store.
	hintGroup      = 4000
	expireFor      = time.Second
	hintGroupBytes = 16 << 20
	// expireGroup bounds how many hints are removed at a time.
	expireGroup = 1000

	// storeEvery and storeLatest bound how long hints wait to be stored. The
	// time between is storeRest times as long as storing took.
	storeEvery  = time.Second
	storeLatest = 5 * time.Second
	storeRest   = 9

	hintStoreTimeout = 5 * time.Second
	hintRetryMin     = 100 * time.Millisecond
	hintRetryMax     = 5 * time.Second

	// orphanAge is how old a hint is before other coordinators than its writer
	// replay it.
	orphanAge       = 30 * time.Second
	replayPage      = 256
	replayPageBytes = 4 << 20
	replayTimeout   = 3 * time.Second
	maxReplayWindow = 128
)

// DefaultHintLifetime is how long a hint is kept, counted from the start of
// the write that it belongs to.
const DefaultHintLifetime = 24 * time.Hour

func newHandoff(c *Coordinator, store Hints) *handoff {
	return &handoff{c: c, store: store, wake: make(chan struct{}, 1),
		pending: map[hintKey]Hint{}, waits: map[string]*Debt{}, owed: map[string]*[1 << OwedRangeBits / 64]uint64{}}
}

// add takes a hint in. It never blocks for longer than a map takes.
func (h *handoff) add(hint Hint) {
	h.mu.Lock()
	first := !h.waiting()
	h.admit(hint)
	wake := first || h.crowded()
	h.mu.Unlock()
	if wake {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

// waiting tells whether there is anything to store; mu is held.
func (h *handoff) waiting() bool { return len(h.pending) > 0 || len(h.owed) > 0 }

// crowded tells whether so much waits that it is to be stored now; mu is held.
func (h *handoff) crowded() bool {
	return len(h.pending)+len(h.taken) >= manyPendingHints || h.bytes >= manyPendingHintBytes
}

// state is waiting and crowded.
func (h *handoff) state() (waiting, crowded bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waiting(), h.crowded()
}

// restAfter is how long the store is left alone after what was stored has kept
// it busy for so long.
func restAfter(took time.Duration) time.Duration {
	return min(max(storeRest*took, storeEvery), storeLatest)
}

// admit keeps the newest hint for its node and key; mu is held.
func (h *handoff) admit(hint Hint) {
	k := hintKey{hint.Node, hint.Tenant, hint.Key}
	old, replaces := h.pending[k]
	if replaces && old.Version.Compare(&hint.Version.Head) >= 0 {
		return
	}
	if replaces {
		delete(h.pending, k)
		h.discount(&old)
	}
	if len(h.pending)+len(h.taken) >= maxPendingHints || h.bytes+hint.Size() > maxPendingHintBytes {
		h.owe(hint.Node, OwedRange(hint.Token))
		h.lost.Add(1)
		return
	}
	h.pending[k] = hint
	h.bytes += hint.Size()
	if h.waits[hint.Node] == nil {
		h.waits[hint.Node] = &Debt{Node: hint.Node}
	}
	h.waits[hint.Node].count(&hint)
}

// discount notes that a hint is not pending any more; mu is held.
func (h *handoff) discount(hint *Hint) {
	h.bytes -= hint.Size()
	d := h.waits[hint.Node]
	d.Hints--
	d.Bytes -= hint.Size()
	if d.Hints == 0 { // until then Oldest may be that of one that is gone
		delete(h.waits, hint.Node)
	}
}

func (d *Debt) count(hint *Hint) {
	d.Hints++
	d.Bytes += hint.Size()
	if d.Oldest.IsZero() || hint.Since.Before(d.Oldest) {
		d.Oldest = hint.Since
	}
}

func (h *handoff) owe(node string, r uint16) {
	if h.owed[node] == nil {
		h.owed[node] = new([1 << OwedRangeBits / 64]uint64)
	}
	h.owed[node][r/64] |= 1 << (r % 64)
}

// run stores and replays until ctx ends, and then stores what is left.
func (h *handoff) run(ctx context.Context) {
	tick := time.NewTicker(h.c.options.ReplayInterval)
	defer tick.Stop()
	var due <-chan time.Time // set while a flush is to come
	resting := time.Now()    // until then, unless much waits
	failing, pause := false, hintRetryMin
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.Background(), hintStoreTimeout)
			defer cancel()
			if err := h.flush(last); err != nil {
				h.report("store hints at shutdown", err)
			}
			return
		case <-tick.C:
			h.look(ctx)
			continue
		case <-h.wake:
			_, crowded := h.state()
			if !crowded || failing { // a store that failed is left alone for a moment
				if due == nil {
					due = time.After(time.Until(resting))
				}
				continue
			}
		case <-due:
		}
		due = nil
		began := time.Now()
		err := h.flush(ctx)
		failing = err != nil && ctx.Err() == nil
		if failing {
			h.report("store hints", err)
			due = time.After(pause)
			pause = min(2*pause, hintRetryMax)
			continue
		}
		pause = hintRetryMin
		resting = time.Now().Add(restAfter(time.Since(began)))
		if waiting, _ := h.state(); waiting {
			due = time.After(time.Until(resting))
		}
	}
}

func (h *handoff) report(what string, err error) {
	if f := h.c.events.Background; f != nil {
		f(what, err)
	}
}

// flush stores the pending hints and owed ranges, in groups. Hints that are
// added meanwhile are left for the next flush: while a busy node is down they
// never end, and other nodes' replays would wait.
func (h *handoff) flush(ctx context.Context) error {
	h.mu.Lock()
	h.taken, h.pending = h.pending, map[hintKey]Hint{}
	h.mu.Unlock()
	for {
		group := h.takeGroup()
		if len(group) == 0 {
			break
		}
		if err := h.storeGroup(ctx, group); err != nil {
			h.restore()
			return err
		}
	}
	return h.flushOwed(ctx)
}

func (h *handoff) storeGroup(ctx context.Context, group []Hint) error {
	ctx, cancel := context.WithTimeout(ctx, hintStoreTimeout)
	defer cancel()
	if err := h.store.PutHints(ctx, h.c.options.Identity.Writer.ID, group); err != nil {
		h.mu.Lock()
		for _, hint := range group {
			h.admit(hint)
		}
		h.storing = nil
		h.mu.Unlock()
		return err
	}
	return h.refresh(ctx)
}

// restore makes pending again what was taken and is not stored.
func (h *handoff) restore() {
	h.mu.Lock()
	defer h.mu.Unlock()
	taken := h.taken
	h.taken = nil
	for _, hint := range taken {
		h.discount(&hint)
		h.admit(hint)
	}
}

// refresh reads what nodes are owed. The hints that were being stored are
// among it from then on, so the ledger counts them all along.
func (h *handoff) refresh(ctx context.Context) error {
	debts, err := h.store.Debts(ctx)
	if err != nil {
		return fmt.Errorf("read what storage nodes are owed: %w", err)
	}
	h.mu.Lock()
	h.storing, h.debts = nil, debts
	h.mu.Unlock()
	for id, p := range h.c.view.Load().peers {
		p.indebted.Store(slices.ContainsFunc(debts, func(d Debt) bool { return d.Node == id }))
	}
	return nil
}

func (h *handoff) takeGroup() []Hint {
	h.mu.Lock()
	defer h.mu.Unlock()
	var group []Hint
	size := int64(0)
	for k, hint := range h.taken {
		if len(group) == hintGroup || len(group) > 0 && size+hint.Size() > hintGroupBytes {
			break
		}
		group = append(group, hint)
		size += hint.Size()
		delete(h.taken, k)
		h.discount(&hint)
	}
	h.storing = group
	return group
}

func (h *handoff) flushOwed(ctx context.Context) error {
	h.mu.Lock()
	owed := h.owed
	h.owed = map[string]*[1 << OwedRangeBits / 64]uint64{}
	h.mu.Unlock()
	if len(owed) == 0 {
		return nil
	}
	var errs []error
	for node, words := range owed {
		var ranges []uint16
		for r := range uint16(1 << OwedRangeBits) {
			if words[r/64]&(1<<(r%64)) != 0 {
				ranges = append(ranges, r)
			}
		}
		bounded, cancel := context.WithTimeout(ctx, hintStoreTimeout)
		err := h.store.Owe(bounded, node, ranges)
		cancel()
		if err != nil {
			errs = append(errs, err)
			h.mu.Lock()
			for _, r := range ranges {
				h.owe(node, r)
			}
			h.mu.Unlock()
		}
	}
	if len(errs) == 0 {
		bounded, cancel := context.WithTimeout(ctx, hintStoreTimeout)
		defer cancel()
		return h.refresh(bounded)
	}
	return errors.Join(errs...)
}

// look refreshes what nodes are owed and starts replays to those that answer.
func (h *handoff) look(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, hintStoreTimeout)
	defer cancel()
	// All that have expired, unless they are so many that replays would wait.
	for began := time.Now(); time.Since(began) < expireFor; {
		expired, err := h.store.ExpireHints(bounded, h.c.options.Wall().Add(-h.c.options.HintLifetime), expireGroup)
		if err != nil {
			if ctx.Err() == nil {
				h.report("expire hints", err)
			}
			return
		}
		if expired < expireGroup {
			break
		}
	}
	if err := h.refresh(bounded); err != nil {
		if ctx.Err() == nil {
			h.report("look for hints to replay", err)
		}
		return
	}
	v := h.c.view.Load()
	for _, d := range h.debts { // only this goroutine changes it
		p := v.peers[d.Node]
		if d.Hints == 0 || p != nil && (p.replica.Unavailable() != nil || p.silent(h.c.now())) {
			continue
		}
		if _, busy := h.replaying.LoadOrStore(d.Node, struct{}{}); busy {
			continue
		}
		h.c.background.Go(func() {
			defer h.replaying.Delete(d.Node)
			if err := h.replay(ctx, d.Node); err != nil && ctx.Err() == nil {
				h.report("replay hints to storage node "+d.Node, err)
			}
		})
	}
}

// replay sends a node's hints until there are none left or one fails. It keeps
// a window of calls out, which grows while answers come quickly and halves
// when they slow down, so that recovery does not become an overload.
func (h *handoff) replay(ctx context.Context, node string) error {
	window := 1
	var after *Position
	for {
		bounded, cancel := context.WithTimeout(ctx, hintStoreTimeout)
		page, err := h.store.Hints(bounded, node, h.c.options.Identity.Writer.ID, h.c.options.Wall().Add(-orphanAge), after, replayPage, replayPageBytes)
		cancel()
		if err != nil || len(page) == 0 {
			return err
		}
		for len(page) > 0 {
			n := min(window, len(page))
			started := h.c.now()
			settled, failure := h.deliver(ctx, page[:n])
			took := time.Duration(h.c.now() - started)
			if len(settled) > 0 {
				h.replayed.Add(uint64(len(settled)))
				bounded, cancel := context.WithTimeout(ctx, hintStoreTimeout)
				err := h.store.DropHints(bounded, settled)
				cancel()
				if err != nil {
					return err
				}
			}
			if failure != nil {
				return failure
			}
			if took > h.c.unhurried(node) {
				window = max(window/2, 1)
			} else {
				window = min(2*window, maxReplayWindow)
			}
			last := page[n-1]
			after = &Position{Token: last.Token, Tenant: last.Tenant, Key: last.Key}
			page = page[n:]
		}
	}
}

// unhurried is how long a window of replayed calls may take at a node that is
// not under strain.
func (c *Coordinator) unhurried(node string) time.Duration {
	if p := c.view.Load().peers[node]; p != nil {
		return max(8*time.Duration(p.mean.Load()), 50*time.Millisecond)
	}
	return 50 * time.Millisecond
}

// deliver sends hints to the nodes that now own their keys, all at once, and
// returns those that need not be kept. The owners are looked up now: if the
// node has given a range away, the hint goes to those who have it.
func (h *handoff) deliver(ctx context.Context, hints []Hint) (settled []Hint, failure error) {
	v := h.c.view.Load()
	out := newCallGroup()
	deadline := time.Now().Add(replayTimeout)
	owners := make([][]*Call, len(hints))
	for i := range hints {
		hint := &hints[i]
		id := tenantOfSpace(hint.Tenant)
		tenant, err := h.c.tenants.get(ctx, id, v.topology.TenantsEpoch)
		if errors.Is(err, ErrTenantNotFound) || err == nil && tenant.Space != hint.Tenant {
			continue // its data is gone with it
		}
		if err == nil && !v.serves(tenant) {
			err = fmt.Errorf("%w: the ring is older than tenant %q", ErrMetadataUnavailable, id)
		}
		if err != nil {
			failure = err
			owners[i] = []*Call{{Err: err}}
			continue
		}
		var where placement
		v.place(&where, tenant.Space, hint.Token, tenant.ReplicationFactor)
		// While the key's replicas change, both sets get what one of them missed.
		targets := where.peers()
		at := slices.IndexFunc(targets, func(p *peer) bool { return p.node.ID == hint.Node })
		if at >= 0 && where.news == 0 {
			targets = targets[at : at+1]
		}
		if len(targets) == 0 {
			owners[i] = []*Call{{Err: errNoOwner}}
		}
		for _, p := range targets {
			call := &Call{
				Kind: CallApply, Intent: IntentRepair,
				Tenant: hint.Tenant, Key: hint.Key, Token: hint.Token, Epoch: v.topology.Epoch,
				Version: hint.Version, Deadline: deadline,
			}
			call.Boot, call.Heard = p.replica.Heard()
			owners[i] = append(owners[i], call)
			// The process may have stood still since the hint was read: by now what
			// has replaced its version may be collected. Stood still after this, the
			// node refuses the call as too old.
			if h.c.options.Wall().Sub(hint.Since) >= h.c.options.HintLifetime {
				call.Err = errHintExpired
				continue
			}
			out.start(p.replica, call)
		}
	}
	out.wait()
	for i, calls := range owners {
		kept := false
		for _, call := range calls {
			if call.Err != nil {
				kept = true
				failure = fmt.Errorf("hint for %s: %w", hints[i].Node, call.Err)
			}
		}
		if !kept {
			settled = append(settled, hints[i])
		}
	}
	return settled, failure
}

var (
	errNoOwner     = errors.New("no storage node owns the key now")
	errHintExpired = errors.New("its lifetime has passed")
)

// ledger is what every node is owed, hints and ranges that wait in memory
// included. One that is both stored and in memory counts twice for a moment,
// but none ever counts for nothing.
func (h *handoff) ledger() map[string]Debt {
	ledger := map[string]Debt{}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.debts {
		ledger[d.Node] = d
	}
	for node, pending := range h.waits {
		d := ledger[node]
		d.Node = node
		d.Hints += pending.Hints
		d.Bytes += pending.Bytes
		if d.Oldest.IsZero() || pending.Oldest.Before(d.Oldest) {
			d.Oldest = pending.Oldest
		}
		ledger[node] = d
	}
	for i := range h.storing {
		d := ledger[h.storing[i].Node]
		d.Node = h.storing[i].Node
		d.count(&h.storing[i])
		ledger[d.Node] = d
	}
	for node, ranges := range h.owed {
		unstored := 0
		for _, word := range ranges {
			unstored += bits.OnesCount64(word)
		}
		d := ledger[node]
		d.Node = node
		d.OwedRanges = max(d.OwedRanges, unstored) // which of them are stored too is not known
		ledger[node] = d
	}
	return ledger
}

// noteMissed makes hints of the replicas that have missed a write's version.
func (o *operation) noteMissed(missed set) {
	if o.c.handoff == nil {
		return
	}
	w := &o.write
	for ; missed != 0; missed = missed.without(missed.first()) {
		o.c.handoff.add(Hint{
			Node: w.targets[missed.first()].node, Tenant: w.tenant, Key: w.key, Token: w.token,
			Version: w.version, Since: o.began,
		})
	}
}
