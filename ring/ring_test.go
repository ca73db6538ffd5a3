package ring

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tokens below were computed without this package:
//
//	printf %s 'tenant:key' | sha256sum | cut -c1-16
//
// They place the data of existing clusters: a change here moves it.
func TestKeyTokenGolden(t *testing.T) {
	for _, test := range []struct {
		tenant, key string
		want        Token
	}{
		{"tenant", "key", 0x93582127e2bf98dc},
		{"default", "greeting", 0xf3c40f0566c60c3f},
		{"", "", 0xe7ac0786668e0ff0},
		{"a", "", 0xbfc622d4a6d410f2},
		{"a", "b:c", 0xb0ee04f880c4ff42},
		{"a:b", "c", 0xb0ee04f880c4ff42}, // why a tenant's id holds no colon
		{"Zürich", "日本", 0xe02e2faa9a044f26},
		{strings.Repeat("t", 91), strings.Repeat("k", 100), 0x59ee43cfa5c8c355}, // fills the small buffer
		{strings.Repeat("t", 92), strings.Repeat("k", 100), 0xac34ca582b04282e}, // does not fit it
		{strings.Repeat("t", 256), strings.Repeat("k", 1024), 0x3bcd8d7ab5bc6e61},
		{"t", strings.Repeat("k", 2000), 0x5f9eb8c600e16651}, // longer than any valid key
	} {
		if got := KeyToken(test.tenant, test.key); got != test.want {
			t.Errorf("token of %.20q, %.20q is %016x, want %016x", test.tenant, test.key, uint64(got), uint64(test.want))
		}
	}
}

// Likewise: printf %s 'storage-1-vnode-0' | sha256sum | cut -c1-16
func TestVnodeTokenGolden(t *testing.T) {
	for _, test := range []struct {
		id   string
		i    int
		want Token
	}{
		{"storage-1", 0, 0x369493bd459bdccd},
		{"storage-1", 149, 0x96d7bcddcde54132},
		{"storage-2", 7, 0x2deb88709fe2a25f},
		{strings.Repeat("n", 256), 4095, 0xfd73ad23278a9893},
	} {
		if got := VnodeToken(test.id, test.i); got != test.want {
			t.Errorf("token of virtual node %d of %.20q is %016x, want %016x", test.i, test.id, uint64(got), uint64(test.want))
		}
	}
}

// TestPlacementGolden walks a ring small enough to follow by eye:
//
//	369493bd459bdccd storage-1    790792396a2ad19e storage-2    b71894177af172cf storage-2
//	3e73e626bc0203e0 storage-1    7a6d2c3245feef4e storage-1    caab14f92e24f475 storage-1
//	4970e9b81a33590e storage-3    a64884c7d3279dde storage-2    f5688bf331e618c3 storage-2
//	6aaf4fb24426c856 storage-3    ae6b939c1530d011 storage-3
//	6fa8dc83c3cdeaf7 storage-3
func TestPlacementGolden(t *testing.T) {
	r := mustNew(t, Node{"storage-3", 4}, Node{"storage-1", 4}, Node{"storage-2", 4})
	for _, test := range []struct {
		what  string
		token Token
		rf    int
		want  string
	}{
		{"before the first", 0, 3, "storage-1 storage-3 storage-2"},
		{"just before a virtual node", 0x369493bd459bdccc, 3, "storage-1 storage-3 storage-2"},
		{"at a virtual node", 0x4970e9b81a33590e, 3, "storage-3 storage-2 storage-1"},
		{"just after it", 0x4970e9b81a33590f, 3, "storage-3 storage-2 storage-1"},
		{"at the last of a run", 0x6fa8dc83c3cdeaf7, 3, "storage-3 storage-2 storage-1"},
		{"just after the run", 0x6fa8dc83c3cdeaf8, 3, "storage-2 storage-1 storage-3"},
		{"a key whose replicas wrap", KeyToken("default", "greeting"), 3, "storage-2 storage-1 storage-3"},
		{"at the last virtual node", 0xf5688bf331e618c3, 3, "storage-2 storage-1 storage-3"},
		{"after the last", 0xf5688bf331e618c4, 3, "storage-1 storage-3 storage-2"},
		{"the greatest token", math.MaxUint64, 3, "storage-1 storage-3 storage-2"},
		{"one replica", 0x7a6d2c3245feef4e, 1, "storage-1"},
		{"two replicas", 0x7a6d2c3245feef4e, 2, "storage-1 storage-2"},
		{"more than there are nodes", 0x7a6d2c3245feef4e, 10, "storage-1 storage-2 storage-3"},
		{"none", 0, 0, ""},
		{"fewer than none", 0, -1, ""},
	} {
		var ids []string
		for _, i := range r.Replicas(nil, test.token, test.rf) {
			ids = append(ids, r.Nodes()[i].ID)
		}
		if got := strings.Join(ids, " "); got != test.want {
			t.Errorf("%s (%016x, RF %d): %q, want %q", test.what, uint64(test.token), test.rf, got, test.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := Node{"a", 1}
	for what, test := range map[string]struct {
		nodes []Node
		says  string
	}{
		"empty id":               {[]Node{good, {"", 1}}, "empty"},
		"id twice":               {[]Node{{"b", 2}, good, {"b", 3}}, `"b"`},
		"no virtual nodes":       {[]Node{good, {"b", 0}}, `"b"`},
		"negative virtual nodes": {[]Node{{"b", -1}, good}, `"b"`},
		"too many virtual nodes": {[]Node{good, {"b", MaxVirtualNodes + 1}}, "4096"},
	} {
		r, err := New(1, test.nodes)
		if !errors.Is(err, ErrInvalidNode) || r != nil {
			t.Errorf("%s: got %v, %v; want no ring and ErrInvalidNode", what, r, err)
		} else if !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %q does not say %s", what, err, test.says)
		}
	}
	if _, err := New(1, []Node{good, {"b", MaxVirtualNodes}}); err != nil {
		t.Errorf("the greatest number of virtual nodes: %v", err)
	}
}

func TestEmptyRing(t *testing.T) {
	empty, err := New(7, nil)
	if err != nil {
		t.Fatal(err)
	}
	if empty.Epoch() != 7 || empty.Len() != 0 || len(empty.Nodes()) != 0 {
		t.Errorf("a ring of no nodes at epoch 7 is %+v", empty)
	}
	for what, r := range map[string]*Ring{"empty ring": empty, "zero ring": {}} {
		if got := r.Replicas([]uint32{9}, 1, 3); !slices.Equal(got, []uint32{9}) {
			t.Errorf("%s: replicas appended %v", what, got[1:])
		}
	}
}

func TestNewCopiesAndSorts(t *testing.T) {
	given := []Node{{"c", 3}, {"a", 1}, {"b", 2}}
	r, err := New(5, given)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(given, []Node{{"c", 3}, {"a", 1}, {"b", 2}}) {
		t.Errorf("New reordered its argument: %v", given)
	}
	given[0] = Node{"changed", 9}
	if want := []Node{{"a", 1}, {"b", 2}, {"c", 3}}; r.Epoch() != 5 || r.Len() != 3 || !slices.Equal(r.Nodes(), want) {
		t.Errorf("epoch %d, %d nodes %v; want epoch 5, nodes %v", r.Epoch(), r.Len(), r.Nodes(), want)
	}
}

// point is a virtual node as the naive reference keeps it.
type point struct {
	token Token
	id    string
}

// naiveReplicas is the rule as the contract words it, without an index: sort
// everything, go clockwise from the token, take each node once.
func naiveReplicas(points []point, token Token, rf int) []string {
	points = slices.Clone(points)
	slices.SortFunc(points, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.token, b.token), cmp.Compare(a.id, b.id))
	})
	var ids []string
	for _, half := range []bool{true, false} { // from the token on, then from the start
		for _, p := range points {
			if (p.token >= token) == half && len(ids) < rf && !slices.Contains(ids, p.id) {
				ids = append(ids, p.id)
			}
		}
	}
	return ids
}

// handMade is a ring of the given points, which no node's id would hash to.
func handMade(points []point) *Ring {
	r := &Ring{}
	for _, p := range points {
		if !slices.ContainsFunc(r.nodes, func(n Node) bool { return n.ID == p.id }) {
			r.nodes = append(r.nodes, Node{ID: p.id, VirtualNodes: 1})
		}
	}
	slices.SortFunc(r.nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	for _, p := range points {
		node := slices.IndexFunc(r.nodes, func(n Node) bool { return n.ID == p.id })
		r.vnodes = append(r.vnodes, vnode{p.token, uint32(node)})
	}
	slices.SortFunc(r.vnodes, func(a, b vnode) int {
		return cmp.Or(cmp.Compare(a.token, b.token), cmp.Compare(a.node, b.node))
	})
	r.index()
	return r
}

// compareWithNaive looks at every place where the answer may change, and at
// the given tokens.
func compareWithNaive(t *testing.T, r *Ring, points []point, rf int, tokens ...Token) {
	t.Helper()
	for _, p := range points {
		tokens = append(tokens, p.token-1, p.token, p.token+1) // wrapping is meant
	}
	tokens = append(tokens, 0, math.MaxUint64)
	var buf [16]uint32
	for _, token := range tokens {
		var got []string
		for _, i := range r.Replicas(buf[:0], token, rf) {
			got = append(got, r.nodes[i].ID)
		}
		if want := naiveReplicas(points, token, rf); !slices.Equal(got, want) {
			t.Fatalf("replicas of %016x at RF %d: %v, want %v (ring %v)", uint64(token), rf, got, want, points)
		}
	}
}

func random(t *testing.T) *rand.Rand {
	const seed = 20_260_301
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestReplicasAgainstNaive(t *testing.T) {
	rng := random(t)
	for range 60 {
		nodes := make([]Node, rng.IntN(7))
		var points []point
		for i := range nodes {
			nodes[i] = Node{fmt.Sprintf("node-%d-%d", rng.IntN(1000), i), 1 + rng.IntN(12)}
			for v := range nodes[i].VirtualNodes {
				points = append(points, point{VnodeToken(nodes[i].ID, v), nodes[i].ID})
			}
		}
		rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		tokens := make([]Token, 10)
		for i := range tokens {
			tokens[i] = Token(rng.Uint64())
		}
		compareWithNaive(t, mustNew(t, nodes...), points, rng.IntN(9), tokens...)
	}
}

// TestReplicasOfUnevenRings puts virtual nodes where hashes hardly ever do: on
// one another, all in one bucket of the index, at both ends of the tokens.
func TestReplicasOfUnevenRings(t *testing.T) {
	rng := random(t)
	spreads := []func() Token{
		func() Token { return Token(rng.Uint64N(4)) },                             // many collisions, at the start
		func() Token { return math.MaxUint64 - Token(rng.Uint64N(4)) },            // at the end
		func() Token { return Token(rng.Uint64N(4)) - 2 },                         // around the wrap
		func() Token { return Token(rng.Uint64N(4)) << 62 },                       // at the borders of buckets
		func() Token { return 1<<63 + Token(rng.Uint64N(1000)) },                  // one bucket
		func() Token { return Token(rng.Uint64()) },                               // anywhere
		func() Token { return Token(rng.Uint64() & rng.Uint64() & rng.Uint64()) }, // more at the start
	}
	for _, spread := range spreads {
		for range 30 {
			points := make([]point, 1+rng.IntN(40))
			for i := range points {
				points[i] = point{spread(), string(rune('a' + rng.IntN(6)))}
			}
			compareWithNaive(t, handMade(points), points, rng.IntN(8), spread(), Token(rng.Uint64()))
		}
	}
}

func FuzzReplicas(f *testing.F) {
	f.Add([]byte{}, uint64(0), 3)
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x01b"), uint64(1), 2)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xffa\x00\x00\x00\x00\x00\x00\x00\x00b"), uint64(math.MaxUint64), 2)
	f.Fuzz(func(t *testing.T, ring []byte, token uint64, rf int) {
		var points []point
		for ; len(ring) >= 9 && len(points) < 64; ring = ring[9:] {
			points = append(points, point{Token(binary.BigEndian.Uint64(ring)), string(rune('a' + ring[8]%8))})
		}
		compareWithNaive(t, handMade(points), points, rf, Token(token))
	})
}

// TestReplicasAppends: what dst holds already is kept, and does not count as a
// replica chosen before.
func TestReplicasAppends(t *testing.T) {
	r := mustNew(t, Node{"a", 8}, Node{"b", 8}, Node{"c", 8})
	for i := range 100 {
		token := KeyToken("t", strconv.Itoa(i))
		alone := r.Replicas(nil, token, 2)
		if got := r.Replicas([]uint32{0, 1, 2}, token, 2); !slices.Equal(got, append([]uint32{0, 1, 2}, alone...)) {
			t.Fatalf("appended to 0 1 2: %v, want %v behind them", got, alone)
		}
	}
}

// TestOneMoreNode: a new node takes keys over, and moves none between the
// others; taking it out again is the way back.
func TestOneMoreNode(t *testing.T) {
	nodes := []Node{{"a", 20}, {"b", 40}, {"c", 20}, {"d", 10}}
	small, large := mustNew(t, nodes...), mustNew(t, append(nodes, Node{"bb", 20})...)
	moved := 0
	const keys, rf = 2000, 3
	for i := range keys {
		token := KeyToken("t", strconv.Itoa(i))
		before, after := ids(small, token, rf), ids(large, token, rf)
		if at := slices.Index(after, "bb"); at >= 0 {
			moved++
			after = slices.Delete(after, at, at+1)
		}
		if !slices.Equal(after, before[:len(after)]) {
			t.Fatalf("key %d was on %v, and is on %v beside the new node", i, before, after)
		}
	}
	if moved == 0 || moved == keys {
		t.Errorf("the new node holds %d of %d keys", moved, keys)
	}
}

// TestShares: with the default virtual nodes each node is the first of about
// as many keys as the next; one of double weight of about twice as many.
func TestShares(t *testing.T) {
	nodes := []Node{{"heavy", 2 * DefaultVirtualNodes}}
	for i := range 8 {
		nodes = append(nodes, Node{"node-" + strconv.Itoa(i), DefaultVirtualNodes})
	}
	r := mustNew(t, nodes...)
	held := make([]float64, r.Len())
	const keys = 20_000
	for i := range keys {
		held[r.Replicas(nil, KeyToken("t", strconv.Itoa(i)), 1)[0]]++
	}
	for i, n := range r.Nodes() {
		fair := keys * float64(n.VirtualNodes) / float64(10*DefaultVirtualNodes)
		if ratio := held[i] / fair; ratio < 0.7 || ratio > 1.3 {
			t.Errorf("%s holds %.2f of its fair share", n.ID, ratio)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	r := mustNew(t, Node{"a", 150}, Node{"b", 150}, Node{"c", 150}, Node{"d", 150})
	dst := make([]uint32, 0, 3)
	for _, size := range []int{0, 20, 100, 192, 1024} {
		tenant, key := strings.Repeat("t", size/4), strings.Repeat("k", size)
		if n := testing.AllocsPerRun(100, func() { dst = r.Replicas(dst[:0], KeyToken(tenant, key), 3) }); n != 0 {
			t.Errorf("placing a key of %d bytes allocates %v times", size, n)
		}
	}
}

func mustNew(t testing.TB, nodes ...Node) *Ring {
	t.Helper()
	r, err := New(1, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ids(r *Ring, token Token, rf int) []string {
	var ids []string
	for _, i := range r.Replicas(nil, token, rf) {
		ids = append(ids, r.nodes[i].ID)
	}
	return ids
}

func benchmarkRing(b *testing.B) (*Ring, []string) {
	nodes := make([]Node, 100)
	for i := range nodes {
		nodes[i] = Node{"storage-" + strconv.Itoa(i), DefaultVirtualNodes}
	}
	keys := make([]string, 1<<14) // enough that the ring, not one place in it, is in the cache
	for i := range keys {
		keys[i] = "user:" + strconv.Itoa(i)
	}
	return mustNew(b, nodes...), keys
}

// BenchmarkReplicas is a key's whole placement, its token included.
func BenchmarkReplicas(b *testing.B) {
	r, keys := benchmarkRing(b)
	dst := make([]uint32, 0, 3)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		dst = r.Replicas(dst[:0], KeyToken("default", keys[i%len(keys)]), 3)
	}
}

func BenchmarkNew(b *testing.B) {
	r, _ := benchmarkRing(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New(1, r.nodes); err != nil {
			b.Fatal(err)
		}
	}
}
