package ring

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func namedRing(t *testing.T, virtualNodes int, ids ...string) *Ring {
	t.Helper()
	nodes := make([]Node, len(ids))
	for i, id := range ids {
		nodes[i] = Node{id, virtualNodes}
	}
	r, err := New(1, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Ranges cover every token once, and say of each what Replicas says.
func TestRanges(t *testing.T) {
	three := namedRing(t, 20, "a", "b", "c")
	four := namedRing(t, 20, "a", "b", "c", "d")
	for _, c := range []struct {
		name       string
		from, to   *Ring
		rf, nextRF int
	}{
		{"a node joins", three, four, 3, 3},
		{"a node leaves", four, three, 2, 2},
		{"more replicas", four, four, 2, 3},
		{"more than there are nodes", three, three, 3, 5},
		{"nothing", three, three, 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			ranges := Ranges(c.from, c.rf, c.to, c.nextRF)
			want := Token(0)
			share := 0.0
			for i, r := range ranges {
				if r.First != want || r.Last < r.First {
					t.Fatalf("range %d is %x to %x, want one from %x", i, r.First, r.Last, want)
				}
				want = r.Last + 1
				share += r.Share()
				if i > 0 && slices.Equal(ranges[i-1].Old, r.Old) && slices.Equal(ranges[i-1].New, r.New) {
					t.Errorf("ranges %d and %d are one", i-1, i)
				}
				for _, token := range []Token{r.First, r.Last, r.First + (r.Last-r.First)/2} {
					if old := c.from.Replicas(nil, token, c.rf); !slices.Equal(old, r.Old) {
						t.Errorf("token %x: old replicas %v, the range says %v", token, old, r.Old)
					}
					if next := c.to.Replicas(nil, token, c.nextRF); !slices.Equal(next, r.New) {
						t.Errorf("token %x: new replicas %v, the range says %v", token, next, r.New)
					}
				}
			}
			if want != 0 {
				t.Errorf("the last range ends before %x", want)
			}
			if math.Abs(share-1) > 1e-9 {
				t.Errorf("the ranges have %v of all tokens", share)
			}
		})
	}
}

// A node that joins takes its share and moves nothing else.
func TestRangesMoveNoMoreThanTheyMust(t *testing.T) {
	three := namedRing(t, DefaultVirtualNodes, "a", "b", "c")
	four := namedRing(t, DefaultVirtualNodes, "a", "b", "c", "d")
	moved := 0.0
	for _, r := range Ranges(three, 3, four, 3) {
		old, next := names(three, r.Old), names(four, r.New)
		for _, id := range next {
			if !slices.Contains(old, id) {
				if id != "d" {
					t.Fatalf("range %x to %x moves to %s", r.First, r.Last, id)
				}
				moved += r.Share()
			}
		}
	}
	// Of three replicas each, d gets about a quarter.
	if part := moved / 3; part < 0.2 || part > 0.3 {
		t.Errorf("%.3f of all replicas move, want about a quarter", part)
	}
}

func names(r *Ring, at []uint32) []string {
	var ids []string
	for _, i := range at {
		ids = append(ids, r.Nodes()[i].ID)
	}
	return ids
}

func TestSpan(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		a, b := Token(random.Uint64()), Token(random.Uint64())
		s := Span{min(a, b), max(a, b)}
		token := Token(random.Uint64())
		if s.Contains(token) != (s.First <= token && token <= s.Last) || !s.Contains(s.First) || !s.Contains(s.Last) {
			t.Fatalf("%v and %x: %v", s, token, s.Contains(token))
		}
	}
	if share := Everything().Share(); share != 1 {
		t.Errorf("everything is %v of all tokens", share)
	}
	if share := (Span{0, 1<<63 - 1}).Share(); share != 0.5 {
		t.Errorf("the lower half is %v of all tokens", share)
	}
}
