package coord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// groupStore keeps what a handoff stores, in the groups that it comes in.
type groupStore struct {
	mu     sync.Mutex // guards groups
	groups [][]Hint
	owed   map[string][]uint16
	err    error  // what every call fails with
	unread error  // what Debts fails with
	during func() // called while a group is being stored
}

func (s *groupStore) PutHints(_ context.Context, _ string, hints []Hint) error {
	if s.during != nil {
		s.during()
	}
	if s.err == nil {
		s.mu.Lock()
		s.groups = append(s.groups, hints)
		s.mu.Unlock()
	}
	return s.err
}

// stored is how many groups, and hints in them, it has been given.
func (s *groupStore) stored() (groups, hints int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, group := range s.groups {
		hints += len(group)
	}
	return len(s.groups), hints
}

func (s *groupStore) Owe(_ context.Context, node string, ranges []uint16) error {
	if s.err == nil {
		s.owed[node] = append(s.owed[node], ranges...)
	}
	return s.err
}

func (s *groupStore) Debts(context.Context) ([]Debt, error) {
	debts := map[string]Debt{}
	for _, group := range s.groups {
		for i := range group {
			d := debts[group[i].Node]
			d.Node = group[i].Node
			d.Hints++
			d.Bytes += group[i].Size()
			debts[d.Node] = d
		}
	}
	var list []Debt
	for _, d := range debts {
		list = append(list, d)
	}
	return list, errors.Join(s.err, s.unread)
}

func (s *groupStore) Hints(context.Context, string, string, time.Time, *Position, int, int64) ([]Hint, error) {
	return nil, s.err
}
func (s *groupStore) Owed(_ context.Context, node string) ([]uint16, error) {
	return slices.Sorted(slices.Values(s.owed[node])), s.err
}
func (s *groupStore) Settle(_ context.Context, node string, ranges []uint16) error {
	s.owed[node] = slices.DeleteFunc(s.owed[node], func(r uint16) bool { return slices.Contains(ranges, r) })
	return s.err
}
func (s *groupStore) DropHints(context.Context, []Hint) error { return s.err }
func (s *groupStore) ExpireHints(context.Context, time.Time, int) (int, error) {
	return 0, s.err
}

func newTestHandoff() (*handoff, *groupStore) {
	store := &groupStore{owed: map[string][]uint16{}}
	c := &Coordinator{issuer: issuer{writer: Writer{ID: "c1", Incarnation: 1}}}
	c.view.Store(&view{ring: &ring.Ring{}})
	return newHandoff(c, store), store
}

func testHint(node, key string, timestamp int64, value []byte) Hint {
	return Hint{Node: node, Tenant: "shop", Key: key, Token: ring.KeyToken("shop", key),
		Version: Version{Head: Head{Timestamp: timestamp, Writer: Writer{ID: "c1", Incarnation: 1}}, Value: value}}
}

// checkBytes recounts what is pending.
func (h *handoff) checkBytes(t *testing.T) {
	t.Helper()
	var bytes int64
	for _, hints := range []map[hintKey]Hint{h.pending, h.taken} {
		for _, hint := range hints {
			bytes += hint.Size()
		}
	}
	pending := len(h.pending) + len(h.taken)
	var waits Debt
	for _, d := range h.waits {
		waits.Hints += d.Hints
		waits.Bytes += d.Bytes
	}
	if waits.Hints != int64(pending) || waits.Bytes != bytes {
		t.Errorf("%d hints of %d bytes are pending, by node %d of %d", pending, bytes, waits.Hints, waits.Bytes)
	}
	if bytes != h.bytes || bytes > maxPendingHintBytes || pending > maxPendingHints {
		t.Errorf("%d hints of %d bytes are pending, and %d bytes are counted", pending, bytes, h.bytes)
	}
}

func TestPendingHintsAreBoundedInNumber(t *testing.T) {
	h, store := newTestHandoff()
	lost := map[uint16]bool{}
	for i := range maxPendingHints + 100 {
		hint := testHint("n1", fmt.Sprint(i), 1, nil)
		h.add(hint)
		if i >= maxPendingHints {
			lost[OwedRange(hint.Token)] = true
		}
	}
	h.checkBytes(t)
	// A newer version of a key that is there takes no more room.
	h.add(testHint("n1", "7", 2, []byte("newer")))
	h.add(testHint("n1", "7", 1, []byte("older")))
	h.checkBytes(t)
	if d := h.ledger()["n1"]; d.Hints != maxPendingHints || d.OwedRanges != len(lost) || h.lost.Load() != 100 {
		t.Errorf("the ledger says %+v, %d lost; want %d hints and the ranges of 100", d, h.lost.Load(), maxPendingHints)
	}
	if err := h.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored := 0
	for _, group := range store.groups {
		stored += len(group)
		if len(group) > hintGroup {
			t.Errorf("a group of %d hints, want at most %d", len(group), hintGroup)
		}
		for i := range group {
			if group[i].Key == "7" && string(group[i].Version.Value) != "newer" {
				t.Errorf("of two versions %q was stored", group[i].Version.Value)
			}
		}
	}
	if stored != maxPendingHints || len(store.groups) != (maxPendingHints+hintGroup-1)/hintGroup || len(store.owed["n1"]) != len(lost) {
		t.Errorf("%d hints in %d groups and %d owed ranges were stored", stored, len(store.groups), len(store.owed["n1"]))
	}
	for _, r := range store.owed["n1"] {
		if !lost[r] {
			t.Errorf("range %d is owed, of which no hint was lost", r)
		}
	}
	if len(h.pending) != 0 || h.bytes != 0 || len(h.owed) != 0 {
		t.Errorf("after all was stored %d hints, %d bytes and %d owed nodes are pending", len(h.pending), h.bytes, len(h.owed))
	}
}

func TestPendingHintsAreBoundedInBytes(t *testing.T) {
	h, store := newTestHandoff()
	value := make([]byte, 9<<20)
	for i := range 9 { // 81 MiB, of which 64 MiB may wait
		h.add(testHint("n1", fmt.Sprint(i), 1, value))
	}
	h.checkBytes(t)
	if d := h.ledger()["n1"]; d.Hints != 7 || d.OwedRanges != 2 {
		t.Errorf("the ledger says %+v, want 7 hints and 2 ranges", d)
	}
	// A version that grows beyond the bound takes the one before it along: that
	// one is outdated.
	h.add(testHint("n2", "small", 1, nil))
	h.add(testHint("n2", "small", 2, value))
	h.checkBytes(t)
	if d := h.ledger()["n2"]; d.Hints != 0 || d.OwedRanges != 1 {
		t.Errorf("the ledger says %+v of a hint that grew too large, want its range", d)
	}
	if err := h.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.groups) != 7 {
		t.Errorf("7 hints of 9 MiB were stored in %d groups, want one each", len(store.groups))
	}
}

// What the store did not take stays in memory, within its bounds and behind
// what came meanwhile.
func TestHintsThatWereNotStored(t *testing.T) {
	h, store := newTestHandoff()
	store.err = errors.New("planted")
	for i := range hintGroup {
		h.add(testHint("n1", fmt.Sprint(i), 1, nil))
	}
	h.owe("n2", 5)
	store.during = func() { // newer versions, and then as many others as there is room for
		h.add(testHint("n1", "3", 2, nil))
		for i := range maxPendingHints - 1 {
			h.add(testHint("n3", fmt.Sprint(i), 1, nil))
		}
	}
	if err := h.flush(t.Context()); !errors.Is(err, store.err) {
		t.Errorf("flush: %v", err)
	}
	h.checkBytes(t)
	if newest := h.pending[hintKey{"n1", "shop", "3"}]; newest.Version.Timestamp != 2 {
		t.Errorf("the newer version was replaced by %v", &newest.Version.Head)
	}
	ledger := h.ledger()
	if n := h.lost.Load(); n != hintGroup-1 || ledger["n1"].Hints != 1 || ledger["n1"].OwedRanges == 0 || ledger["n2"].OwedRanges != 1 {
		t.Errorf("%d hints were lost, and the ledger says %+v", n, ledger)
	}
	store.err, store.during = nil, nil
	if err := h.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(store.owed["n2"], []uint16{5}) || len(store.owed["n1"]) != ledger["n1"].OwedRanges {
		t.Errorf("stored as owed: %v", store.owed)
	}
}

// A flush that ends halfway leaves the rest to the next one.
func TestFlushIsTakenUpAgain(t *testing.T) {
	h, store := newTestHandoff()
	const hints = 2*hintGroup + 1
	for i := range hints {
		h.add(testHint("n1", fmt.Sprint(i), 1, nil))
	}
	store.unread = errors.New("planted")
	if err := h.flush(t.Context()); !errors.Is(err, store.unread) {
		t.Errorf("flush: %v", err)
	}
	h.checkBytes(t)
	if n := len(h.pending); n != hints-hintGroup {
		t.Errorf("%d hints are pending after one group was stored, want %d", n, hints-hintGroup)
	}
	store.unread = nil
	if err := h.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	for _, group := range store.groups {
		for i := range group {
			stored[group[i].Key] = true
		}
	}
	if len(stored) != hints || h.ledger()["n1"].Hints != hints {
		t.Errorf("%d of %d hints are stored, and the ledger says %+v", len(stored), hints, h.ledger()["n1"])
	}
}

// A flush ends although hints never do, and the ledger never loses sight of one.
func TestFlushEndsWhileHintsKeepComing(t *testing.T) {
	h, store := newTestHandoff()
	n := 0
	more := func() {
		h.add(testHint("n1", fmt.Sprint(n), 1, nil))
		n++
	}
	more()
	store.during = func() {
		more()
		if d := h.ledger()["n1"]; d.Hints != int64(n) {
			t.Errorf("of %d hints the ledger counts %d", n, d.Hints)
		}
		if n > 100 {
			t.Fatal("a flush went on with hints that came after it had begun")
		}
	}
	for range 3 {
		if err := h.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := h.ledger()["n1"]; d.Hints != int64(n) {
			t.Errorf("of %d hints the ledger counts %d", n, d.Hints)
		}
	}
}

// While a node is down, hints come with every write. They are stored in few
// large groups, the fewer the slower the store is, and yet soon.
func TestHintsAreStoredTogether(t *testing.T) {
	const writing = 20 * time.Second
	for name, test := range map[string]struct {
		slow   time.Duration // how long the store takes for a group
		groups int           // at most
	}{
		"quick store":     {time.Millisecond, int(writing/storeEvery) + 2},
		"slow store":      {200 * time.Millisecond, int(writing/(storeRest*200*time.Millisecond)) + 2},
		"very slow store": {2 * time.Second, int(writing/storeLatest) + 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, store := newTestHandoff()
				h.c.options.ReplayInterval, h.c.options.Wall = time.Hour, time.Now
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					h.run(ctx)
				}()
				var latest time.Duration
				store.during = func() {
					time.Sleep(test.slow)
					for _, hint := range h.storing {
						latest = max(latest, time.Since(hint.Since))
					}
				}
				timestamp := int64(0)
				for began := time.Now(); time.Since(began) < writing; time.Sleep(time.Millisecond) {
					timestamp++
					hint := testHint("n1", fmt.Sprint(timestamp), timestamp, []byte("value"))
					hint.Since = time.Now()
					h.add(hint)
				}
				groups, _ := store.stored()
				if groups > test.groups || groups < 3 {
					t.Errorf("%d groups were stored in %v, want at most %d", groups, writing, test.groups)
				}
				time.Sleep(storeLatest + 6*test.slow)
				if _, stored := store.stored(); stored != int(timestamp) {
					t.Errorf("%d of %d hints are stored", stored, timestamp)
				}
				cancel()
				<-ended
				// Three groups may be on their way when the last of them came.
				if most := storeLatest + 6*test.slow; latest > most {
					t.Errorf("a hint waited for %v, want at most %v", latest, most)
				}
			})
		})
	}
}

// As the bounds of memory come near, hints are stored without a pause.
func TestManyHintsAreStoredAtOnce(t *testing.T) {
	for name, few := range map[string]int{"in number": 0, "in bytes": 40} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, store := newTestHandoff()
				h.c.options.ReplayInterval, h.c.options.Wall = time.Hour, time.Now
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					h.run(ctx)
				}()
				h.add(testHint("n1", "the first", 1, nil))
				synctest.Wait() // it is stored, and the next ones wait for storeEvery
				hints, value := manyPendingHints, []byte(nil)
				if few > 0 {
					hints, value = few, make([]byte, manyPendingHintBytes/few)
				}
				for i := range hints {
					h.add(testHint("n1", fmt.Sprint(i), 1, value))
				}
				synctest.Wait()
				if _, stored := store.stored(); stored != hints+1 {
					t.Errorf("%d of %d hints were stored at once", stored, hints+1)
				}
				cancel()
				<-ended
			})
		})
	}
}
