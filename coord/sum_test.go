package coord

import (
	"fmt"
	"testing"
)

// TestVersionSumIsStable: nodes of different releases compare their sums.
func TestVersionSumIsStable(t *testing.T) {
	for _, c := range []struct {
		key  string
		head Head
		want uint64
	}{
		{"", Head{Timestamp: 1, Writer: Writer{ID: "c", Incarnation: 1}}, 0x87444067b49c7c76},
		{"key", Head{Timestamp: 1_700_000_000_000_000_000, Writer: Writer{ID: "coordinator-1", Incarnation: 7}}, 0x526e9932568929e2},
		{"a key of more than eight bytes", Head{Timestamp: 1 << 62, Writer: Writer{ID: "coordinator-1", Incarnation: 1 << 60}}, 0xf68051819129e6b5},
	} {
		if got := VersionSum(c.key, &c.head); got != c.want {
			t.Errorf("key %q, %s: sum %#x, want %#x", c.key, &c.head, got, c.want)
		}
	}
}

// TestVersionSumTellsApart: whatever makes up an identity changes the sum, and
// sums of many versions that are alike do not cancel each other out.
func TestVersionSumTellsApart(t *testing.T) {
	seen := map[uint64]string{}
	total := map[uint64]string{}
	var all uint64
	for k := range 20 {
		for ts := range 20 {
			for w := range 10 {
				for inc := range 10 {
					h := Head{Timestamp: int64(1 + ts), Writer: Writer{ID: fmt.Sprint("c", w), Incarnation: uint64(inc)}}
					key := fmt.Sprint("key", k)
					name := fmt.Sprintf("%s %s", key, &h)
					sum := VersionSum(key, &h)
					if other, ok := seen[sum]; ok {
						t.Fatalf("%s and %s have the sum %#x", name, other, sum)
					}
					seen[sum] = name
					all ^= sum
					if other, ok := total[all]; ok {
						t.Fatalf("all up to %s and all up to %s have the sum %#x", name, other, all)
					}
					total[all] = name
				}
			}
		}
	}
	a := VersionSum("ab", &Head{Timestamp: 1, Writer: Writer{ID: "c"}})
	b := VersionSum("a", &Head{Timestamp: 1, Writer: Writer{ID: "bc"}})
	if a == b || VersionSum("a\x00", &Head{Timestamp: 1, Writer: Writer{ID: "c"}}) == VersionSum("a", &Head{Timestamp: 1, Writer: Writer{ID: "c"}}) {
		t.Error("keys and writers run into each other")
	}
	// Every bit of the timestamp reaches about half of the sum's bits.
	h := Head{Timestamp: 1_700_000_000_000_000_000, Writer: Writer{ID: "coordinator-1", Incarnation: 1}}
	base := VersionSum("key", &h)
	for bit := range 62 {
		other := h
		other.Timestamp ^= 1 << bit
		if n := onesCount(base ^ VersionSum("key", &other)); n < 12 || n > 52 {
			t.Errorf("bit %d of the timestamp changes %d bits of the sum", bit, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { VersionSum("key", &h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func onesCount(x uint64) (n int) {
	for ; x != 0; x &= x - 1 {
		n++
	}
	return n
}

func BenchmarkVersionSum(b *testing.B) {
	h := Head{Timestamp: 1_700_000_000_000_000_000, Writer: Writer{ID: "coordinator-1", Incarnation: 7}}
	var sum uint64
	for b.Loop() {
		sum ^= VersionSum("user:0000001234", &h)
	}
	_ = sum
}
