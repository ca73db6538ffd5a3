package conformance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// HintStore is a handle on a store of hints.
type HintStore interface {
	coord.Hints
	Close() error
}

// HintBounds are what a store is made to keep to; a bound of 0 is out of the
// reach of the suite.
type HintBounds struct {
	Hints int64
	Bytes int64 // by coord.Hint.Size
}

// OpenHints opens another handle on one store, as another coordinator (or the
// same one after a restart) would. It fails the test where it cannot.
type OpenHints func(t *testing.T) HintStore

// Hints checks every sentence of coord.Hints. NewStore makes an empty store
// with bounds and returns how to open it; the suite opens several handles on it
// at a time and closes them. The store's clock must be this machine's.
func Hints(t *testing.T, newStore func(t *testing.T, bounds HintBounds) OpenHints) {
	tests := []struct {
		name   string
		bounds HintBounds
		run    func(t *testing.T, h *hintTest)
	}{
		{"empty", HintBounds{}, noHints},
		{"put", HintBounds{}, putHints},
		{"put large value", HintBounds{}, putLargeHint},
		{"put odd names", HintBounds{}, putOddHints},
		{"put newest", HintBounds{}, putNewestHint},
		{"put replaces whole", HintBounds{}, putReplacesWhole},
		{"put all or none", HintBounds{}, putAllOrNone},
		{"put concurrently", HintBounds{}, putHintsConcurrently},
		{"bounds/count", HintBounds{Hints: 10}, boundHintCount},
		{"bounds/bytes", HintBounds{Bytes: 10_000}, boundHintBytes},
		{"bounds/concurrently", HintBounds{Hints: 50}, boundHintsConcurrently},
		{"list/order and limit", HintBounds{}, listHintPages},
		{"list/bytes", HintBounds{}, listHintBytes},
		{"list/coordinators", HintBounds{}, listByCoordinator},
		{"list/orphans", HintBounds{}, listOrphans},
		{"drop", HintBounds{}, dropHints},
		{"drop what was replaced", HintBounds{}, dropReplacedHints},
		{"expire", HintBounds{}, expireHints},
		{"owe", HintBounds{}, oweRanges},
		{"settle", HintBounds{}, settleRanges},
		{"settle concurrently", HintBounds{}, settleConcurrently},
		{"debts", HintBounds{}, hintDebts},
		{"ended context", HintBounds{}, hintsEndedContext},
		{"closed", HintBounds{}, hintsClosed},
		{"reopen", HintBounds{}, hintsReopen},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			test.run(t, &hintTest{ctx: ctx, openStore: newStore(t, test.bounds)})
		})
	}
}

// hintTest is one test's store.
type hintTest struct {
	ctx       context.Context
	openStore OpenHints
}

// open opens a handle, to be closed when the test ends.
func (h *hintTest) open(t *testing.T) HintStore {
	t.Helper()
	s := h.openStore(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func (h *hintTest) put(t *testing.T, s coord.Hints, coordinator string, hints ...coord.Hint) {
	t.Helper()
	if err := s.PutHints(h.ctx, coordinator, hints); err != nil {
		t.Fatalf("put %d hints: %v", len(hints), err)
	}
}

func (h *hintTest) drop(t *testing.T, s coord.Hints, hints ...coord.Hint) {
	t.Helper()
	if err := s.DropHints(h.ctx, hints); err != nil {
		t.Fatalf("drop %d hints: %v", len(hints), err)
	}
}

func (h *hintTest) owe(t *testing.T, s coord.Hints, node string, ranges ...uint16) {
	t.Helper()
	if err := s.Owe(h.ctx, node, ranges); err != nil {
		t.Fatalf("owe %d ranges to %q: %v", len(ranges), node, err)
	}
}

// list lists all hints for a node, whoever wrote them.
func (h *hintTest) list(t *testing.T, s coord.Hints, node string) []coord.Hint {
	t.Helper()
	hints, err := s.Hints(h.ctx, node, "nobody", inAnHour(), nil, math.MaxInt32, math.MaxInt64)
	if err != nil {
		t.Fatalf("list hints for %q: %v", node, err)
	}
	return hints
}

func (h *hintTest) wantHints(t *testing.T, what, node string, want []coord.Hint, stores ...coord.Hints) {
	t.Helper()
	for i, s := range stores {
		sameHints(t, fmt.Sprintf("%s, by handle %d", what, i), h.list(t, s, node), want)
	}
}

// wantDebts compares with what every handle says.
func (h *hintTest) wantDebts(t *testing.T, what string, want []coord.Debt, stores ...coord.Hints) {
	t.Helper()
	for i, s := range stores {
		got, err := s.Debts(h.ctx)
		if err != nil {
			t.Fatalf("%s: debts: %v", what, err)
		}
		same := func(a, b coord.Debt) bool {
			return a.Oldest.Equal(b.Oldest) && a.Oldest.IsZero() == b.Oldest.IsZero() &&
				a.Node == b.Node && a.Hints == b.Hints && a.Bytes == b.Bytes && a.OwedRanges == b.OwedRanges
		}
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("%s: handle %d tells the debts %+v, want %+v", what, i, got, want)
		}
	}
}

// debtOf is what a node is owed in hints, and in ranges of which hints were lost.
func debtOf(ranges int, hints ...coord.Hint) coord.Debt {
	d := coord.Debt{OwedRanges: ranges}
	for i := range hints {
		h := &hints[i]
		d.Node = h.Node
		d.Hints++
		d.Bytes += h.Size()
		if d.Oldest.IsZero() || h.Since.Before(d.Oldest) {
			d.Oldest = h.Since
		}
	}
	return d
}

func sameHints(t *testing.T, what string, got, want []coord.Hint) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: got the %d hints %s, want the %d hints %s", what, len(got), nameHints(got), len(want), nameHints(want))
		return
	}
	for i := range want {
		g, w := &got[i], &want[i]
		if g.Node != w.Node || g.Tenant != w.Tenant || g.Key != w.Key || g.Token != w.Token || !g.Since.Equal(w.Since) ||
			g.Version.Compare(&w.Version.Head) != 0 || g.Version.Tombstone != w.Version.Tombstone ||
			!slices.Equal(g.Version.Clock, w.Version.Clock) || !bytes.Equal(g.Version.Value, w.Version.Value) {
			t.Errorf("%s: hint %d is %s, want %s", what, i, nameHint(g), nameHint(w))
		}
	}
}

func nameHint(h *coord.Hint) string {
	return fmt.Sprintf("%.40q %016x/%.40q/%.40q %v (%d bytes) since %v", h.Node, uint64(h.Token), h.Tenant, h.Key,
		&h.Version.Head, len(h.Version.Value), h.Since.UTC())
}

func nameHints(hints []coord.Hint) string {
	var names []string
	for i := range hints[:min(len(hints), 5)] {
		names = append(names, nameHint(&hints[i]))
	}
	return strings.Join(names, ", ")
}

func inAnHour() time.Time   { return time.Now().Add(2 * time.Hour) }
func anHourAgo() time.Time  { return time.Now().Add(-2 * time.Hour) }
func since(n int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(n)) }

// missed is a hint for key of tenant "shop" with a value as of a timestamp.
func missed(node, key string, timestamp int64, value string) coord.Hint {
	return coord.Hint{
		Node: node, Tenant: "shop", Key: key, Token: ring.KeyToken("shop", key), Since: since(int(timestamp)),
		Version: coord.Version{
			Head: coord.Head{
				Timestamp: timestamp, Writer: coord.Writer{ID: "c1", Incarnation: 3},
				Clock: coord.Clock{{ID: "c1", Counter: timestamp, Updated: timestamp}},
			},
			Value: []byte(value),
		},
	}
}

// missedMany are n hints in the order of their positions.
func missedMany(node string, n int, timestamp int64, value string) []coord.Hint {
	hints := make([]coord.Hint, n)
	for i := range hints {
		hints[i] = missed(node, fmt.Sprintf("key-%d", i), timestamp+int64(i), value)
	}
	sortHints(hints)
	return hints
}

func positionOf(h *coord.Hint) coord.Position {
	return coord.Position{Token: h.Token, Tenant: h.Tenant, Key: h.Key}
}

func sortHints(hints []coord.Hint) {
	slices.SortFunc(hints, func(a, b coord.Hint) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), positionOf(&a).Compare(positionOf(&b)))
	})
}

func rangesOf(hints []coord.Hint) int {
	ranges := map[uint16]bool{}
	for i := range hints {
		ranges[coord.OwedRange(hints[i].Token)] = true
	}
	return len(ranges)
}

func noHints(t *testing.T, h *hintTest) {
	s := h.open(t)
	h.wantHints(t, "of an empty store", "n1", nil, s)
	h.wantDebts(t, "of an empty store", nil, s)
	h.put(t, s, "c1")
	h.drop(t, s)
	h.owe(t, s, "n1")
	if n, err := s.ExpireHints(h.ctx, inAnHour(), 10); n != 0 || err != nil {
		t.Errorf("expire in an empty store: %d, %v", n, err)
	}
	h.wantDebts(t, "after nothing was put, dropped, owed and expired", nil, s)
}

func putHints(t *testing.T, h *hintTest) {
	a, b := h.open(t), h.open(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	pruned := make(coord.Clock, coord.MaxClockEntries)
	for i := range pruned {
		pruned[i] = coord.ClockEntry{ID: fmt.Sprintf("c%02d", i), Counter: math.MaxInt64, Updated: int64(i)}
	}
	plain := missed("n1", "plain", 17, "value")
	empty := missed("n1", "empty", 17, "")
	empty.Version.Value = []byte{}
	absent := missed("n1", "no slice", 17, "")
	absent.Version.Value = nil
	binary := missed("n1", "binary", 17, string(all))
	tombstone := missed("n1", "tombstone", 17, "")
	tombstone.Version.Tombstone = true
	clockless := missed("n1", "clockless", 17, "v")
	clockless.Version.Clock = nil
	greatest := missed("n1", "greatest", math.MaxInt64, "v")
	greatest.Since = since(5)
	greatest.Version.Writer = coord.Writer{ID: strings.Repeat("w", 256), Incarnation: math.MaxUint64}
	greatest.Version.Clock = pruned
	want := []coord.Hint{plain, empty, absent, binary, tombstone, clockless, greatest}
	h.put(t, a, "c1", want...)
	sortHints(want)
	h.wantHints(t, "as they were put", "n1", want, a, b)
	h.wantDebts(t, "as they were put", []coord.Debt{debtOf(0, want...)}, a, b)
	h.wantHints(t, "of another node", "n2", nil, a, b)
}

func putLargeHint(t *testing.T, h *hintTest) {
	a, b := h.open(t), h.open(t)
	value := strings.Repeat("0123456789abcdef", 10<<20/16)
	large := missed("n1", "large", 1, value)
	h.put(t, a, "c1", large)
	h.wantHints(t, "a value of 10 MiB", "n1", []coord.Hint{large}, b)
	h.wantDebts(t, "a value of 10 MiB", []coord.Debt{debtOf(0, large)}, b)
	h.drop(t, b, large)
	h.wantDebts(t, "dropped", nil, a, b)
}

func putOddHints(t *testing.T, h *hintTest) {
	s, other := h.open(t), h.open(t)
	var all []coord.Hint
	byNode := map[string][]coord.Hint{}
	for i, id := range sortedOddIDs(t) {
		for _, odd := range []coord.Hint{
			{Node: id, Tenant: "shop", Key: "k"}, {Node: "n1", Tenant: id, Key: "k"}, {Node: "n1", Tenant: "shop", Key: id},
			{Node: "n1", Tenant: "cafe", Key: id + strings.Repeat("=", 1024-len(id))},
		} {
			hint := missed(odd.Node, odd.Key, int64(i+1), odd.Key)
			hint.Tenant, hint.Token = odd.Tenant, ring.KeyToken(odd.Tenant, odd.Key)
			all = append(all, hint)
			byNode[hint.Node] = append(byNode[hint.Node], hint)
		}
	}
	h.put(t, s, "c1", all...)
	var debts []coord.Debt
	for node, hints := range byNode {
		sortHints(hints)
		h.wantHints(t, fmt.Sprintf("of node %q", node), node, hints, s, other)
		debts = append(debts, debtOf(0, hints...))
	}
	slices.SortFunc(debts, func(a, b coord.Debt) int { return cmp.Compare(a.Node, b.Node) })
	h.wantDebts(t, "by node", debts, s, other)
	h.drop(t, other, all...)
	h.wantDebts(t, "dropped", nil, s, other)
}

// versionsOfOneKey are hints for one key, from the least version to the greatest.
func versionsOfOneKey(node, key string) []coord.Hint {
	least := missed(node, key, 10, "least")
	incarnation := missed(node, key, 10, "of a later incarnation")
	incarnation.Version.Writer.Incarnation = 10
	writer := missed(node, key, 10, "of a greater writer, a little longer")
	writer.Version.Writer = coord.Writer{ID: "c10", Incarnation: 1}
	later := missed(node, key, 11, "later")
	tombstone := missed(node, key, 1<<40, "")
	tombstone.Version.Tombstone = true
	tombstone.Version.Clock = nil
	return []coord.Hint{least, incarnation, writer, later, tombstone}
}

func putNewestHint(t *testing.T, h *hintTest) {
	a, b := h.open(t), h.open(t)
	for i, node := range []string{"rising", "falling", "one group", "one group falling"} {
		versions := versionsOfOneKey(node, "k")
		greatest := versions[len(versions)-1]
		if strings.HasSuffix(node, "falling") {
			slices.Reverse(versions)
		}
		if i < 2 {
			for _, v := range versions {
				h.put(t, a, "c1", v)
			}
		} else {
			h.put(t, a, "c1", versions...)
		}
		h.wantHints(t, node, node, []coord.Hint{greatest}, a, b)
		h.put(t, b, "c2", greatest)
		h.put(t, a, "c1", greatest, greatest)
		h.wantHints(t, node+", then the same again", node, []coord.Hint{greatest}, a, b)
	}
	var debts []coord.Debt
	for _, node := range []string{"falling", "one group", "one group falling", "rising"} {
		debts = append(debts, debtOf(0, versionsOfOneKey(node, "k")[4]))
	}
	h.wantDebts(t, "one hint each", debts, a, b)
	// Every pair, in both orders.
	for _, x := range versionsOfOneKey("pairs", "") {
		for _, y := range versionsOfOneKey("pairs", "") {
			greater := x
			if y.Version.Compare(&x.Version.Head) > 0 {
				greater = y
			}
			h.put(t, a, "c1", x)
			h.put(t, b, "c1", y)
			h.wantHints(t, fmt.Sprintf("%v and then %v", &x.Version.Head, &y.Version.Head), "pairs", []coord.Hint{greater}, a)
			h.drop(t, a, greater)
		}
	}
}

// putReplacesWhole: size, age and coordinator are the greater version's, and
// the lesser one changes none of them.
func putReplacesWhole(t *testing.T, h *hintTest) {
	s := h.open(t)
	old, current := missed("n1", "k", 10, strings.Repeat("x", 5000)), missed("n1", "k", 20, "short")
	other := missed("n1", "other", 15, "stays")
	h.put(t, s, "c1", old, other)
	h.wantDebts(t, "before", []coord.Debt{debtOf(0, old, other)}, s)
	h.put(t, s, "c2", current)
	h.wantDebts(t, "replaced by a smaller one", []coord.Debt{debtOf(0, current, other)}, s)
	h.put(t, s, "c1", old)
	h.wantDebts(t, "then the old one again", []coord.Debt{debtOf(0, current, other)}, s)
	for coordinator, want := range map[string][]coord.Hint{"c1": {other}, "c2": {current}, "c3": nil} {
		got, err := s.Hints(h.ctx, "n1", coordinator, anHourAgo(), nil, 10, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		sameHints(t, "of "+coordinator, got, want)
	}
	larger := missed("n1", "k", 30, strings.Repeat("y", 9000))
	h.put(t, s, "c1", larger)
	h.wantDebts(t, "replaced by a larger one", []coord.Debt{debtOf(0, larger, other)}, s)
}

// putAllOrNone cuts groups short at any moment: whatever the caller is told,
// each is there whole or not at all, and what the caller is told was stored is.
func putAllOrNone(t *testing.T, h *hintTest) {
	s, reader := h.open(t), h.open(t)
	const group = 200
	outcomes := map[string]error{}
	for i := range 40 {
		node := fmt.Sprintf("n%d", i)
		ctx, cancel := context.WithTimeout(h.ctx, time.Duration(i*i)*20*time.Microsecond)
		outcomes[node] = s.PutHints(ctx, "c1", missedMany(node, group, 1, "value"))
		cancel()
		if err := outcomes[node]; err != nil && !errors.Is(err, coord.ErrMetadataUnavailable) {
			t.Errorf("group %d was cut short: %v, want ErrMetadataUnavailable", i, err)
		}
	}
	whole := 0
	for node, err := range outcomes {
		switch n := len(h.list(t, reader, node)); {
		case n != 0 && n != group:
			t.Errorf("%s has %d hints of a group of %d", node, n, group)
		case n == 0 && err == nil:
			t.Errorf("%s has no hint of a group that was stored", node)
		case n == group:
			whole++
		}
	}
	debts, err := reader.Debts(h.ctx)
	if err != nil || len(debts) != whole {
		t.Errorf("%d nodes are owed hints, %v; want %d", len(debts), err, whole)
	}
	for _, d := range debts {
		if d.Hints != group {
			t.Errorf("debt %+v, want %d hints", d, group)
		}
	}
}

func putHintsConcurrently(t *testing.T, h *hintTest) {
	stores := []coord.Hints{h.open(t), h.open(t)}
	const writers, groups, group = 4, 10, 20
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { // hints of a group appear at once
		for {
			debts, err := stores[0].Debts(h.ctx)
			if err != nil {
				t.Errorf("debts: %v", err)
				return
			}
			for _, d := range debts {
				if d.Node != "shared" && d.Hints%group != 0 {
					t.Errorf("%d hints are stored while groups of %d are being put", d.Hints, group)
				}
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for _, err := range concurrently(writers, func(w int) error {
		for g := range groups {
			hints := make([]coord.Hint, 0, group+1)
			for i := range group {
				hints = append(hints, missed(fmt.Sprintf("n%d", w), fmt.Sprintf("%d/%d", g, i), 1, "v"))
			}
			shared := missed("shared", "k", int64(1+(g*7+w*3)%41), "v")
			if err := stores[w%2].PutHints(h.ctx, fmt.Sprintf("c%d", w), append(hints, shared)); err != nil {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	close(done)
	reader.Wait()
	greatest := int64(0)
	for w := range writers {
		for g := range groups {
			greatest = max(greatest, int64(1+(g*7+w*3)%41))
		}
		if n := len(h.list(t, stores[1], fmt.Sprintf("n%d", w))); n != groups*group {
			t.Errorf("writer %d put %d hints, %d are there", w, groups*group, n)
		}
	}
	h.wantHints(t, "the key that all put", "shared", []coord.Hint{missed("shared", "k", greatest, "v")}, stores...)
}

func boundHintCount(t *testing.T, h *hintTest) {
	s, other := h.open(t), h.open(t)
	first := missedMany("n1", 6, 100, "v")
	second := missedMany("n2", 3, 100, "v")
	h.put(t, s, "c1", first...)
	h.put(t, other, "c2", second...)
	// One more fits, whichever it is; the bound is that of all nodes together.
	third := []coord.Hint{missed("n3", "a", 1, "v"), missed("n3", "b", 1, "v"), missed("n3", "c", 1, "v")}
	h.put(t, s, "c1", third...)
	kept := h.list(t, other, "n3")
	if len(kept) != 1 {
		t.Fatalf("with room for one hint %d were stored: %s", len(kept), nameHints(kept))
	}
	lost := slices.DeleteFunc(slices.Clone(third), func(x coord.Hint) bool { return x.Key == kept[0].Key })
	full := []coord.Debt{debtOf(0, first...), debtOf(0, second...), debtOf(rangesOf(lost), kept...)}
	h.wantDebts(t, "full", full, s, other)
	// No more of the same, repeated or older, is not beyond the bound.
	h.put(t, s, "c1", first[2], missed("n1", first[3].Key, 1, "older"))
	h.wantDebts(t, "full, and the same again", full, s, other)
	newer := missed("n1", first[2].Key, 500, "newer")
	h.put(t, s, "c2", newer)
	first[2] = newer
	full[0] = debtOf(0, first...)
	h.wantHints(t, "full, and one replaced", "n1", first, s, other)
	h.wantDebts(t, "full, and one replaced", full, s, other)
	h.put(t, s, "c1", lost...)
	h.wantDebts(t, "full, and those without room again", full, s, other)
	// What is dropped makes room.
	h.drop(t, s, first[0])
	h.put(t, other, "c1", lost[0])
	h.wantDebts(t, "one dropped and one put", []coord.Debt{
		debtOf(0, first[1:]...), full[1], debtOf(rangesOf(lost), kept[0], lost[0]),
	}, s, other)
}

func boundHintBytes(t *testing.T, h *hintTest) {
	s := h.open(t)
	bare := missed("n1", "a", 1, "")
	overhead := bare.Size()
	at := func(node, key string, timestamp, size int64) coord.Hint {
		hint := missed(node, key, timestamp, strings.Repeat("x", int(size-overhead)))
		if hint.Size() != size {
			t.Fatalf("a hint of %d bytes has %d", size, hint.Size())
		}
		return hint
	}
	a, b := at("n1", "a", 1, 6000), at("n2", "b", 1, 4000) // exactly the bound
	h.put(t, s, "c1", a, b)
	h.wantDebts(t, "at the bound", []coord.Debt{debtOf(0, a), debtOf(0, b)}, s)
	none := missed("n3", "c", 1, "")
	h.put(t, s, "c1", none)
	owed := coord.Debt{Node: "n3", OwedRanges: 1}
	h.wantDebts(t, "one beyond the bound", []coord.Debt{debtOf(0, a), debtOf(0, b), owed}, s)
	// Of a hint that grows beyond the bound the version before it may stay or
	// go, but the node is owed the range.
	h.put(t, s, "c1", at("n1", "a", 2, 6001))
	debts, err := s.Debts(h.ctx)
	if err != nil || len(debts) != 3 || debts[0].OwedRanges != 1 || debts[0].Bytes+debts[1].Bytes > 10_000 {
		t.Errorf("a hint that grew beyond the bound: debts %+v, %v; want its range owed to n1 and the bound kept", debts, err)
	}
	for _, hint := range h.list(t, s, "n1") {
		if hint.Version.Compare(&a.Version.Head) != 0 {
			t.Errorf("a hint that grew beyond the bound was stored: %s", nameHint(&hint))
		}
	}
	// One that shrinks makes room for others of its group or later.
	b = at("n2", "b", 2, 500)
	h.put(t, s, "c1", b)
	d := at("n4", "d", 1, 3500)
	h.put(t, s, "c1", d)
	h.wantHints(t, "after one shrank", "n4", []coord.Hint{d}, s)
	h.wantHints(t, "that shrank", "n2", []coord.Hint{b}, s)
	// One alone that is larger than the bound fits nowhere.
	h.drop(t, s, a, b, d)
	h.put(t, s, "c1", at("n5", "e", 1, 10_001))
	h.wantHints(t, "one larger than the bound", "n5", nil, s)
}

func boundHintsConcurrently(t *testing.T, h *hintTest) {
	stores := []coord.Hints{h.open(t), h.open(t)}
	for _, err := range concurrently(6, func(i int) error {
		return stores[i%2].PutHints(h.ctx, "c1", missedMany(fmt.Sprintf("n%d", i), 20, 1, "v"))
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	debts, err := stores[0].Debts(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	stored := int64(0)
	for _, d := range debts {
		stored += d.Hints
		if lost := 20 - d.Hints; lost > 0 && d.OwedRanges == 0 || int64(d.OwedRanges) > lost {
			t.Errorf("%s has %d of 20 hints and is owed %d ranges", d.Node, d.Hints, d.OwedRanges)
		}
	}
	if stored != 50 || len(debts) != 6 {
		t.Errorf("%d hints of %d nodes are stored, want 50 of 6", stored, len(debts))
	}
}

// listHintPages spreads hints over all tokens, and has some that share one.
func listHintPages(t *testing.T, h *hintTest) {
	s := h.open(t)
	var all []coord.Hint
	for i, token := range []uint64{0, 1, 1<<63 - 1, 1 << 63, 1<<63 + 1, math.MaxUint64 - 1, math.MaxUint64} {
		for _, tenant := range []string{"a", "a b", "aB", "\u00e9"} {
			for _, key := range []string{"", "k", "k\x01", "kk", "\U0001f600"} {
				hint := missed("n1", key, int64(i+1), tenant+key)
				hint.Tenant, hint.Token = tenant, ring.Token(token)
				all = append(all, hint)
			}
		}
	}
	h.put(t, s, "c1", all...)
	h.put(t, s, "c1", missedMany("n0", 10, 1, "v")...)
	h.put(t, s, "c1", missedMany("n2", 10, 1, "v")...)
	sortHints(all)
	for _, limit := range []int{1, 7, len(all) - 1, len(all), len(all) + 1} {
		var got []coord.Hint
		var after *coord.Position
		for pages := 0; ; pages++ {
			page, err := s.Hints(h.ctx, "n1", "c1", anHourAgo(), after, limit, math.MaxInt64)
			if err != nil || len(page) > limit {
				t.Fatalf("page of %d: %d hints, %v", limit, len(page), err)
			}
			if len(page) < limit && len(got)+len(page) < len(all) {
				t.Fatalf("limit %d: a page of %d hints, and it was not the last", limit, len(page))
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			last := positionOf(&page[len(page)-1])
			after = &last
		}
		sameHints(t, fmt.Sprintf("pages of %d", limit), got, all)
	}
	for _, limit := range []int{0, -1, math.MinInt32} {
		if page, err := s.Hints(h.ctx, "n1", "c1", anHourAgo(), nil, limit, math.MaxInt64); len(page) != 0 || err != nil {
			t.Errorf("limit %d: %d hints, %v", limit, len(page), err)
		}
	}
	// A position need not be there; those of other nodes do not matter.
	for _, after := range []coord.Position{
		{}, {Token: 1, Tenant: "a b"}, {Token: 5, Tenant: "zzz", Key: "k"}, {Token: 1<<63 - 1, Tenant: "\uffff"},
		{Token: 1 << 63, Tenant: "aB", Key: "kj"}, {Token: math.MaxUint64, Tenant: "\uffff", Key: ""},
	} {
		want := slices.DeleteFunc(slices.Clone(all), func(x coord.Hint) bool { return positionOf(&x).Compare(after) <= 0 })
		got, err := s.Hints(h.ctx, "n1", "c1", anHourAgo(), &after, math.MaxInt32, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		sameHints(t, fmt.Sprintf("after %+v", after), got, want)
	}
	// What is dropped between two pages is no gap.
	page, err := s.Hints(h.ctx, "n1", "c1", anHourAgo(), nil, 10, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	h.drop(t, s, page...)
	after := positionOf(&page[9])
	rest, err := s.Hints(h.ctx, "n1", "c1", anHourAgo(), &after, math.MaxInt32, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	sameHints(t, "after a page that was dropped", rest, all[10:])
}

func listHintBytes(t *testing.T, h *hintTest) {
	s := h.open(t)
	hints := missedMany("n1", 12, 1, strings.Repeat("x", 1000))
	h.put(t, s, "c1", hints...)
	for _, maxBytes := range []int64{0, 1, hints[0].Size() - 1, hints[0].Size(), hints[0].Size() + 1, 5000, 1 << 20, math.MaxInt64} {
		var got []coord.Hint
		var after *coord.Position
		for len(got) < len(hints) {
			page, err := s.Hints(h.ctx, "n1", "c1", anHourAgo(), after, 1000, maxBytes)
			if err != nil || len(page) == 0 {
				t.Fatalf("at most %d bytes: %d hints after %d of %d, %v", maxBytes, len(page), len(got), len(hints), err)
			}
			got = append(got, page...)
			last := positionOf(&page[len(page)-1])
			after = &last
			size := debtOf(0, page...).Bytes
			if size-page[len(page)-1].Size() > maxBytes {
				t.Errorf("at most %d bytes: a page of %d hints goes on beyond them", maxBytes, len(page))
			}
			if size <= maxBytes && len(got) < len(hints) {
				t.Errorf("at most %d bytes: a page of %d bytes, and it was not the last", maxBytes, size)
			}
		}
		sameHints(t, fmt.Sprintf("pages of %d bytes", maxBytes), got, hints)
	}
}

func listByCoordinator(t *testing.T, h *hintTest) {
	s, other := h.open(t), h.open(t)
	byWriter := map[string][]coord.Hint{}
	for i, hint := range missedMany("n1", 60, 1, "v") {
		writer := []string{"c1", "C1", "c10"}[i%3]
		byWriter[writer] = append(byWriter[writer], hint)
	}
	for writer, hints := range byWriter {
		h.put(t, s, writer, hints...)
	}
	byWriter["c2"] = nil
	for writer, want := range byWriter {
		for _, store := range []coord.Hints{s, other} {
			var got []coord.Hint
			var after *coord.Position
			for {
				page, err := store.Hints(h.ctx, "n1", writer, anHourAgo(), after, 7, math.MaxInt64)
				if err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
				last := positionOf(&page[len(page)-1])
				after = &last
			}
			sameHints(t, "of "+writer, got, want)
		}
	}
}

func listOrphans(t *testing.T, h *hintTest) {
	s := h.open(t)
	hints := missedMany("n1", 4, 1, "v")
	early, late := hints[0], hints[1]
	early.Since, late.Since = since(1<<30), since(1) // it is the time of storing that counts
	h.put(t, s, "c1", early)
	between := nextInstant(h.ctx)
	h.put(t, s, "c2", late)
	for _, test := range []struct {
		what        string
		coordinator string
		before      time.Time
		want        []coord.Hint
	}{
		{"long ago", "c3", anHourAgo(), nil},
		{"no time", "c3", time.Time{}, nil},
		{"long ago, own", "c1", anHourAgo(), []coord.Hint{early}},
		{"between", "c3", between, []coord.Hint{early}},
		{"between, own and orphans", "c2", between, []coord.Hint{early, late}},
		{"between, own is the orphan", "c1", between, []coord.Hint{early}},
		{"in the future", "c3", inAnHour(), []coord.Hint{early, late}},
		{"in the far future", "", time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), []coord.Hint{early, late}},
	} {
		sortHints(test.want)
		got, err := s.Hints(h.ctx, "n1", test.coordinator, test.before, nil, 10, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		sameHints(t, "orphaned before "+test.what, got, test.want)
	}
	// A greater version by another coordinator was stored when it came.
	newer := missed("n1", early.Key, 1000, "newer")
	h.put(t, s, "c2", newer)
	got, err := s.Hints(h.ctx, "n1", "c1", between, nil, 10, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	sameHints(t, "after another coordinator has replaced it", got, nil)
}

// nextInstant returns a time such that all that was done before lies before
// it, and all that will be done after, by clocks of a millisecond's resolution.
func nextInstant(ctx context.Context) time.Time {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now().Truncate(time.Millisecond)
	wait := func(until time.Time) {
		for time.Now().Before(until) && ctx.Err() == nil {
			<-tick.C
		}
	}
	between := began.Add(5 * time.Millisecond)
	wait(between.Add(5 * time.Millisecond))
	return between
}

func dropHints(t *testing.T, h *hintTest) {
	a, b := h.open(t), h.open(t)
	hints, others := missedMany("n1", 10, 1, "v"), missedMany("n2", 10, 1, "v")
	h.put(t, a, "c1", hints...)
	h.put(t, b, "c2", others...)
	h.drop(t, b, hints[1], hints[4], others[9])
	others = others[:9]
	left := slices.Delete(slices.Delete(slices.Clone(hints), 4, 5), 1, 2)
	for range 2 { // the same again, and what was never there, changes nothing
		h.wantHints(t, "after a drop", "n1", left, a, b)
		h.wantHints(t, "after a drop", "n2", others, a, b)
		h.wantDebts(t, "after a drop", []coord.Debt{debtOf(0, left...), debtOf(0, others...)}, a, b)
		h.drop(t, a, hints[1], hints[4], hints[4], missed("n1", "never", 1, "v"), missed("n3", hints[0].Key, 1, "v"))
	}
	// The value and the age of what is dropped do not matter.
	bare := left[0]
	bare.Version.Value, bare.Since = nil, time.Time{}
	h.drop(t, a, bare)
	h.wantHints(t, "after a drop without the value", "n1", left[1:], a, b)
	h.drop(t, a, left...)
	h.drop(t, b, others...)
	h.wantDebts(t, "after the last drop", nil, a, b)
	// A dropped hint may come back.
	h.put(t, a, "c1", hints[1])
	h.wantHints(t, "put again", "n1", hints[1:2], a, b)
}

func dropReplacedHints(t *testing.T, h *hintTest) {
	a, b := h.open(t), h.open(t)
	versions := versionsOfOneKey("n1", "k")
	for i, stored := range versions {
		for j, dropped := range versions {
			h.put(t, a, "c1", stored)
			h.drop(t, b, dropped)
			want := []coord.Hint{stored}
			if j >= i {
				want = nil
			}
			h.wantHints(t, fmt.Sprintf("%v after a drop of %v", &stored.Version.Head, &dropped.Version.Head), "n1", want, a)
			h.drop(t, a, stored)
		}
	}
	h.wantDebts(t, "after all drops", nil, a, b)
}

func expireHints(t *testing.T, h *hintTest) {
	s, other := h.open(t), h.open(t)
	var one, two []coord.Hint
	for i := range 30 {
		one = append(one, missed("n1", fmt.Sprint("a", i), int64(i), "v"))
		one[i].Version.Timestamp = int64(1000 - i) // its age is not its version's
		one[i].Version.Clock = nil
	}
	for i := range 10 {
		two = append(two, missed("n2", fmt.Sprint("b", i), int64(100+i), "v"))
	}
	h.put(t, s, "c1", one...)
	h.put(t, s, "c2", two...)
	expire := func(what string, before time.Time, limit, want int) {
		t.Helper()
		if n, err := other.ExpireHints(h.ctx, before, limit); n != want || err != nil {
			t.Errorf("expire %s: %d, %v; want %d", what, n, err, want)
		}
	}
	expire("before the first", since(0), 100, 0)
	expire("with a limit of none", since(100), 0, 0)
	h.wantDebts(t, "nothing expired", []coord.Debt{debtOf(0, one...), debtOf(0, two...)}, s, other)
	expire("the first five", since(5), 100, 5) // that of the time itself stays
	h.wantDebts(t, "five expired", []coord.Debt{debtOf(rangesOf(one[:5]), one[5:]...), debtOf(0, two...)}, s, other)
	expire("at most four of the next ten", since(15), 4, 4)
	expire("the others of the next ten", since(15), 6, 6)
	expire("no more of them", since(15), 6, 0)
	left := slices.Clone(one[15:])
	h.wantDebts(t, "fifteen expired", []coord.Debt{debtOf(rangesOf(one[:15]), left...), debtOf(0, two...)}, s, other)
	sortHints(left)
	h.wantHints(t, "fifteen expired", "n1", left, s, other)
	expire("more than there are", since(1000), 20, 20)
	expire("all that are left", since(1000), 20, 5)
	h.wantDebts(t, "all expired", []coord.Debt{
		{Node: "n1", OwedRanges: rangesOf(one)}, {Node: "n2", OwedRanges: rangesOf(two)},
	}, s, other)
	h.wantHints(t, "all expired", "n1", nil, s, other)
	// Replaying a hint that has expired meanwhile changes nothing.
	h.drop(t, s, one...)
	h.wantDebts(t, "all expired, then dropped", []coord.Debt{
		{Node: "n1", OwedRanges: rangesOf(one)}, {Node: "n2", OwedRanges: rangesOf(two)},
	}, s, other)
}

func oweRanges(t *testing.T, h *hintTest) {
	a, b := h.open(t), h.open(t)
	const all = 1 << coord.OwedRangeBits
	h.owe(t, a, "n1", 0, 7, all-1, 7)
	h.wantDebts(t, "three ranges", []coord.Debt{{Node: "n1", OwedRanges: 3}}, a, b)
	h.owe(t, b, "n1", 7, 0, all-1)
	h.wantDebts(t, "the same ranges again", []coord.Debt{{Node: "n1", OwedRanges: 3}}, a, b)
	hint := missed("n2", "k", 1, "v")
	h.put(t, a, "c1", hint)
	h.owe(t, b, "n2", coord.OwedRange(hint.Token))
	h.owe(t, b, "n1", 8)
	h.wantDebts(t, "of two nodes", []coord.Debt{{Node: "n1", OwedRanges: 4}, debtOf(1, hint)}, a, b)
	h.drop(t, a, hint)
	h.wantDebts(t, "dropping hints pays no ranges", []coord.Debt{{Node: "n1", OwedRanges: 4}, {Node: "n2", OwedRanges: 1}}, a, b)
	every := make([]uint16, all)
	for i := range every {
		every[i] = uint16(i)
	}
	for range 2 {
		h.owe(t, a, "n1", every...)
		h.wantDebts(t, "every range", []coord.Debt{{Node: "n1", OwedRanges: all}, {Node: "n2", OwedRanges: 1}}, a, b)
	}
	// Callers at once lose none.
	stores := []coord.Hints{a, b}
	for _, err := range concurrently(8, func(i int) error {
		return stores[i%2].Owe(h.ctx, "n3", []uint16{uint16(2 * i), uint16(2*i + 1)})
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	h.wantDebts(t, "by eight callers", []coord.Debt{{Node: "n1", OwedRanges: all}, {Node: "n2", OwedRanges: 1}, {Node: "n3", OwedRanges: 16}}, a, b)
}

func (h *hintTest) settle(t *testing.T, s coord.Hints, node string, ranges ...uint16) {
	t.Helper()
	if err := s.Settle(h.ctx, node, ranges); err != nil {
		t.Fatalf("settle %d ranges of %q: %v", len(ranges), node, err)
	}
}

// wantOwed compares with what every handle lists.
func (h *hintTest) wantOwed(t *testing.T, what, node string, want []uint16, stores ...coord.Hints) {
	t.Helper()
	for i, s := range stores {
		if got, err := s.Owed(h.ctx, node); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: handle %d lists the ranges %d as owed to %q, %v; want %d", what, i, got, node, err, want)
		}
	}
}

func settleRanges(t *testing.T, h *hintTest) {
	a, b := h.open(t), h.open(t)
	const last = 1<<coord.OwedRangeBits - 1
	h.wantOwed(t, "nothing was owed", "n1", nil, a, b)
	h.settle(t, a, "n1", 0, 1, last)
	h.wantDebts(t, "what was not owed is settled", nil, a, b)
	h.owe(t, a, "n1", last, 9, 0, 8, 7, 255, 256)
	h.owe(t, b, "n2", 8, 9)
	h.wantOwed(t, "in order", "n1", []uint16{0, 7, 8, 9, 255, 256, last}, a, b)
	h.wantOwed(t, "of another node", "n2", []uint16{8, 9}, a, b)
	h.wantOwed(t, "of a node owed nothing", "n", nil, a, b)
	h.settle(t, b, "n1", 8, last, 10, 8)
	h.wantOwed(t, "settled, one of them never owed", "n1", []uint16{0, 7, 9, 255, 256}, a, b)
	h.wantOwed(t, "those of another node stay", "n2", []uint16{8, 9}, a, b)
	h.settle(t, a, "n1")
	h.wantDebts(t, "none settled", []coord.Debt{{Node: "n1", OwedRanges: 5}, {Node: "n2", OwedRanges: 2}}, a, b)
	h.settle(t, a, "n1", 0, 7, 9, 255, 256)
	h.wantDebts(t, "a node that is owed nothing is left out", []coord.Debt{{Node: "n2", OwedRanges: 2}}, a, b)
	h.owe(t, a, "n1", 8)
	h.wantOwed(t, "owed again", "n1", []uint16{8}, a, b)
	// Hints are not settled with their ranges.
	hint := missed("n2", "k", 1, "v")
	h.put(t, a, "c1", hint)
	h.settle(t, b, "n2", 8, 9, coord.OwedRange(hint.Token))
	h.wantDebts(t, "a hint is left", []coord.Debt{{Node: "n1", OwedRanges: 1}, debtOf(0, hint)}, a, b)
	h.wantHints(t, "a hint is left", "n2", []coord.Hint{hint}, a, b)
	h.wantOwed(t, "a hint is left", "n2", nil, a, b)
	every := make([]uint16, last+1)
	for i := range every {
		every[i] = uint16(i)
	}
	h.owe(t, a, "n3", every...)
	h.wantOwed(t, "every range", "n3", every, a, b)
	h.settle(t, b, "n3", every...)
	h.wantOwed(t, "every range settled", "n3", nil, a, b)
	for _, err := range []error{a.Settle(h.ctx, "n1", []uint16{8, last + 1}), a.Owe(h.ctx, "n1", []uint16{9, last + 1})} {
		if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) {
			t.Errorf("a range that does not exist: got %v, want a plain error", err)
		}
	}
	h.wantOwed(t, "after what was refused", "n1", []uint16{8}, a, b)
}

// settleConcurrently: those who owe and settle at once lose nothing of each other's.
func settleConcurrently(t *testing.T, h *hintTest) {
	stores := []coord.Hints{h.open(t), h.open(t)}
	for i := range uint16(8) {
		h.owe(t, stores[0], "n1", i)
	}
	for _, err := range concurrently(16, func(i int) error {
		if i < 8 {
			return stores[i%2].Settle(h.ctx, "n1", []uint16{uint16(i)})
		}
		return stores[i%2].Owe(h.ctx, "n1", []uint16{uint16(i)})
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	h.wantOwed(t, "eight settled and eight owed", "n1", []uint16{8, 9, 10, 11, 12, 13, 14, 15}, stores...)
}

func hintDebts(t *testing.T, h *hintTest) {
	s, other := h.open(t), h.open(t)
	zero, ten, nine := missedMany("n0", 1, 50, "v"), missedMany("n10", 7, 30, "longer"), missedMany("n9", 5, 40, "")
	h.put(t, s, "c1", nine...)
	h.put(t, s, "c2", ten...)
	h.put(t, s, "c1", zero...)
	h.owe(t, s, "n5", 1, 2)
	h.owe(t, s, "n9", 3)
	five := coord.Debt{Node: "n5", OwedRanges: 2}
	h.wantDebts(t, "by node", []coord.Debt{debtOf(0, zero...), debtOf(0, ten...), five, debtOf(1, nine...)}, s, other)
	// The oldest is found anew when it goes, and may be one that came later.
	oldest := slices.IndexFunc(ten, func(x coord.Hint) bool { return x.Since.Equal(debtOf(0, ten...).Oldest) })
	h.drop(t, s, ten[oldest])
	ten = slices.Delete(ten, oldest, oldest+1)
	older := missed("n9", "came later", 39, "v")
	h.put(t, s, "c3", older)
	h.wantDebts(t, "the oldest changed", []coord.Debt{
		debtOf(0, zero...), debtOf(0, ten...), five, debtOf(1, append(nine, older)...),
	}, s, other)
	h.drop(t, s, zero...)
	h.drop(t, s, nine...)
	h.drop(t, s, older)
	h.wantDebts(t, "without hints", []coord.Debt{debtOf(0, ten...), five, {Node: "n9", OwedRanges: 1}}, s, other)
}

// everyHintCall makes each call of the interface.
func everyHintCall(ctx context.Context, s coord.Hints, call func(name string, err error)) {
	hint := missed("n1", "new", 1, "v")
	call("PutHints", s.PutHints(ctx, "c1", []coord.Hint{hint}))
	_, err := s.Hints(ctx, "n1", "c1", inAnHour(), nil, 10, math.MaxInt64)
	call("Hints", err)
	call("DropHints", s.DropHints(ctx, []coord.Hint{missed("n1", "k", 1, "v")}))
	_, err = s.ExpireHints(ctx, inAnHour(), 10)
	call("ExpireHints", err)
	call("Owe", s.Owe(ctx, "n1", []uint16{1}))
	_, err = s.Owed(ctx, "n2")
	call("Owed", err)
	call("Settle", s.Settle(ctx, "n2", []uint16{5}))
	_, err = s.Debts(ctx)
	call("Debts", err)
}

func hintsEndedContext(t *testing.T, h *hintTest) {
	s := h.open(t)
	hint := missed("n1", "k", 1, "v")
	h.put(t, s, "c1", hint)
	h.owe(t, s, "n2", 5)
	cancelled, cancel := context.WithCancel(h.ctx)
	cancel()
	expired, cancel := context.WithDeadline(h.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{cancelled, expired} {
		everyHintCall(ctx, s, func(name string, err error) {
			wantErr(t, name, err, coord.ErrMetadataUnavailable, ctx.Err())
		})
	}
	// None of it had an effect, and the handle goes on working.
	h.wantHints(t, "after cancelled calls", "n1", []coord.Hint{hint}, s)
	h.wantDebts(t, "after cancelled calls", []coord.Debt{debtOf(0, hint), {Node: "n2", OwedRanges: 1}}, s)
}

func hintsClosed(t *testing.T, h *hintTest) {
	s, other := h.openStore(t), h.open(t)
	hint := missed("n1", "k", 1, "v")
	h.put(t, s, "c1", hint)
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	everyHintCall(h.ctx, s, func(name string, err error) {
		wantErr(t, name+" of a closed handle", err, coord.ErrMetadataUnavailable)
	})
	h.wantHints(t, "by a handle that is still open", "n1", []coord.Hint{hint}, other)
}

func hintsReopen(t *testing.T, h *hintTest) {
	s := h.openStore(t)
	hints := missedMany("n1", 20, 1, "v")
	h.put(t, s, "c1", hints...)
	h.drop(t, s, hints[3])
	h.owe(t, s, "n2", 1, 2)
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	hints = slices.Delete(hints, 3, 4)
	s = h.open(t)
	h.wantHints(t, "after a restart", "n1", hints, s)
	h.wantDebts(t, "after a restart", []coord.Debt{debtOf(0, hints...), {Node: "n2", OwedRanges: 2}}, s)
	h.wantOwed(t, "after a restart", "n2", []uint16{1, 2}, s)
	own, err := s.Hints(h.ctx, "n1", "c1", anHourAgo(), nil, 100, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	sameHints(t, "of the coordinator that put them before the restart", own, hints)
}
