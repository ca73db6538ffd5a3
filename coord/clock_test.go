package coord

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// naive is a vector clock as a map, to compare with.
type naive map[string]int64

func (n naive) clock() Clock {
	var c Clock
	for _, id := range sortedKeys(n) {
		c = append(c, ClockEntry{ID: id, Counter: n[id], Updated: n[id]})
	}
	return c
}

func (n naive) compare(m naive) Relation {
	var more, less bool
	for _, id := range []string{"a", "b", "c", "d"} {
		more = more || n[id] > m[id]
		less = less || n[id] < m[id]
	}
	switch {
	case more && less:
		return Concurrent
	case more:
		return After
	case less:
		return Before
	}
	return Equal
}

func randomNaive(rng *rand.Rand) naive {
	n := naive{}
	for _, id := range []string{"a", "b", "c", "d"} {
		if c := rng.Int64N(4); c > 0 {
			n[id] = c
		}
	}
	return n
}

func TestClockAgainstMaps(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		n, m := randomNaive(rng), randomNaive(rng)
		c, d := n.clock(), m.clock()
		if got, want := c.Compare(d), n.compare(m); got != want {
			t.Fatalf("%v compared with %v is %v, want %v", c, d, got, want)
		}
		joined := c.Join(d)
		for _, id := range []string{"a", "b", "c", "d"} {
			if got, want := joined.Counter(id), max(n[id], m[id]); got != want {
				t.Fatalf("join of %v and %v has %s:%d, want %d", c, d, id, got, want)
			}
		}
		for i := 1; i < len(joined); i++ {
			if joined[i-1].ID >= joined[i].ID {
				t.Fatalf("join of %v and %v is not sorted: %v", c, d, joined)
			}
		}
		before := c.String()
		next := c.With("b", c.Counter("b")+1, 9)
		if next.Compare(c) != After || c.String() != before {
			t.Fatalf("%s with b counted up is %v, and left %v", before, next, c)
		}
	}
}

func TestClockPrunesTheOldest(t *testing.T) {
	var c Clock
	for i := range MaxClockEntries + 4 {
		c = c.With(fmt.Sprintf("c%02d", i), 1, int64(i))
	}
	if len(c) != MaxClockEntries || c[0].ID != "c04" {
		t.Errorf("clock has %d entries from %s, want %d from c04: %v", len(c), c[0].ID, MaxClockEntries, c)
	}
	// The writer's own entry stays however old the others make it look.
	c = c.With("a", 1, -1)
	if c.Counter("a") != 1 || c.Counter("c04") != 0 || len(c) != MaxClockEntries {
		t.Errorf("after a's write: %v", c)
	}
}
