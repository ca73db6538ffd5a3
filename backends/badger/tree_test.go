package badger

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// naiveTree keeps every key.
type naiveTree map[coord.Position]coord.Head

func (n naiveTree) sums(span ring.Span, space string) coord.SpanSums {
	table := sumTable{only: space, sums: map[string]coord.SpaceSum{}}
	for p, h := range n {
		if span.Contains(p.Token) {
			table.add(p.Tenant, 1, coord.VersionSum(p.Key, &h))
		}
	}
	return table.take()
}

// sumsOf is what a tree has in a span; the ends that it leaves come from a naive one.
func sumsOf(t *tree, span ring.Span, space string, rest naiveTree) (sums coord.SpanSums, left []ring.Span) {
	table := sumTable{only: space, sums: map[string]coord.SpaceSum{}}
	left = t.sums(span, &table)
	for _, part := range left {
		for _, s := range rest.sums(part, space) {
			table.add(s.Space, s.Keys, s.Sum)
		}
	}
	return table.take(), left
}

// TestTreeAgainstNaive changes keys, before and after the tree was counted from
// a snapshot, and narrows its room so that leaves widen.
func TestTreeAgainstNaive(t *testing.T) {
	const seed = 20_261_125
	t.Logf("seed %d", seed)
	for _, maxEntries := range []int{1 << 20, 300, 8} {
		t.Run(fmt.Sprint("entries ", maxEntries), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, uint64(maxEntries)))
			live, all := newTree(12, maxEntries), naiveTree{}
			at := uint64(0)
			change := func() {
				at++
				space, key := fmt.Sprint("s", rng.IntN(4)), fmt.Sprint("k", rng.IntN(1000))
				p := coord.Position{Token: ring.KeyToken(space, key), Tenant: space, Key: key}
				before := all[p]
				s := staged{token: p.Token, tenant: space, key: key, before: &held{head: before, length: 10}}
				if before.Exists() && rng.IntN(3) == 0 {
					delete(all, p)
				} else {
					s.head, s.value = testVersion(int64(at), nil).Head, make([]byte, 10)
					all[p] = s.head
				}
				live.committed([]staged{s}, at)
			}
			check := func() {
				t.Helper()
				for range 50 {
					a, b := ring.Token(rng.Uint64()), ring.Token(rng.Uint64())
					span := ring.Span{First: min(a, b), Last: max(a, b)}
					if rng.IntN(4) == 0 {
						span = ring.Everything()
					}
					space := []string{"", "s1", "none"}[rng.IntN(3)]
					got, left := sumsOf(live, span, space, all)
					if want := all.sums(span, space); !slices.Equal(got, want) {
						t.Fatalf("span %x, space %q: got %+v, want %+v", span, space, got, want)
					}
					if len(left) > 2 || span == ring.Everything() && len(left) > 0 {
						t.Fatalf("span %x: %x are left", span, left)
					}
				}
			}
			for range 500 {
				change()
			}
			snapshot := maps.Clone(all)
			_, counted, round, err := live.begin(func() (view, error) { return view{number: at}, nil })
			if err != nil {
				t.Fatal(err)
			}
			// A commit that the snapshot holds already may be told of late.
			late := testVersion(1, nil).Head
			live.committed([]staged{{token: 1, tenant: "late", key: "late", head: late, before: &held{}}}, at)
			for range 500 {
				change()
			}
			if _, left := sumsOf(live, ring.Everything(), "", nil); len(left) != 1 || left[0] != ring.Everything() {
				t.Fatalf("before it is counted, %x of everything are left", left)
			}
			for p, h := range snapshot {
				counted.add(p.Token, p.Tenant, 1, coord.VersionSum(p.Key, &h))
				counted.bytes += keyBytes(p.Tenant, p.Key, 10)
			}
			live.complete(round-1, counted)
			if live.ready() {
				t.Fatal("a count of another round was taken")
			}
			live.complete(round, counted)
			check()
			for range 500 {
				change()
			}
			check()
			var bytes int64
			for p := range all {
				bytes += keyBytes(p.Tenant, p.Key, 10)
			}
			if got, known := live.size(); got != bytes || !known {
				t.Errorf("%d bytes are counted, want %d", got, bytes)
			}
			entries := 0
			for _, leaf := range live.leaves {
				entries += len(leaf)
			}
			if entries != live.entries || entries > max(maxEntries, len(live.spaces)) {
				t.Errorf("%d entries, %d are counted, of %d spaces, at most %d are wanted", entries, live.entries, len(live.spaces), maxEntries)
			}
			for p, h := range all {
				at++
				live.committed([]staged{{token: p.Token, tenant: p.Tenant, key: p.Key, before: &held{head: h, length: 10}}}, at)
			}
			if len(live.spaces) != 0 || live.entries != 0 || live.bytes != 0 {
				t.Errorf("without keys there are %d spaces, %d entries and %d bytes", len(live.spaces), live.entries, live.bytes)
			}
		})
	}
}

// TestTreeIsCountedWhileKeysAreWritten: what the tree has is what a scan finds,
// though it was counted from a snapshot amid commits.
func TestTreeIsCountedWhileKeysAreWritten(t *testing.T) {
	dir := t.TempDir()
	n := openTestNode(t, NodeOptions{Dir: dir})
	for i := range 3000 {
		if call := apply(n, "t", fmt.Sprint("k", i), testVersion(1, []byte("v"))); call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = openTestNode(t, NodeOptions{Dir: dir})
	for i := 0; i < 300 || !n.tree.ready(); i++ {
		if call := apply(n, "t", fmt.Sprint("k", i*7%4000), testVersion(int64(i+2), []byte("longer"))); call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	wantTree(t, n)
}

// wantTree waits until the tree is counted and compares it with the database.
func wantTree(t *testing.T, n *Node) {
	t.Helper()
	eventually(t, "the tree is counted", n.tree.ready)
	table := sumTable{sums: map[string]coord.SpaceSum{}}
	if left := n.tree.sums(ring.Everything(), &table); len(left) != 0 {
		t.Fatalf("%x are left of everything", left)
	}
	got := table.take()
	if err := n.sumUp(t.Context(), ring.Everything(), &table); err != nil {
		t.Fatal(err)
	}
	if want := table.take(); !slices.Equal(got, want) {
		t.Errorf("the tree has %+v, the database %+v", got, want)
	}
}

// BenchmarkTreeCommitted is what a commit pays for the tree, a key.
func BenchmarkTreeCommitted(b *testing.B) {
	tr := newTree(16, 1<<20)
	batch := make([]staged, 64)
	clock := coord.Clock{{ID: "coordinator-1", Counter: 1, Updated: 1}}
	for i := range batch {
		key := fmt.Sprintf("key-%06d", i)
		head := coord.Head{Timestamp: 1, Writer: coord.Writer{ID: "coordinator-1", Incarnation: 1}, Clock: clock}
		batch[i] = staged{token: ring.KeyToken("default", key), tenant: "default", key: key, head: head, before: &held{head: head}}
	}
	tr.committed(batch, 1)
	b.ReportAllocs()
	for at, keys := uint64(2), 0; keys < b.N; at, keys = at+1, keys+len(batch) {
		tr.committed(batch, at)
	}
}
