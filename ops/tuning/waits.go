package tuning

import (
	"runtime/metrics"
	"sort"
	"time"
)

// lateAfter is how long a goroutine that can run may wait for a processor before
// it counts as late. Go interrupts what runs on and on after 10 ms, the kernel
// sooner.
const lateAfter = 8 * time.Millisecond

// waits reads how long goroutines have waited for a processor.
type waits struct {
	read []metrics.Sample
	from int    // the first bucket that counts as late
	last uint64 // late ones so far
}

func newWaits() *waits {
	w := &waits{read: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	metrics.Read(w.read)
	if w.read[0].Value.Kind() == metrics.KindFloat64Histogram {
		w.from = sort.SearchFloat64s(w.read[0].Value.Float64Histogram().Buckets, lateAfter.Seconds())
		w.late()
	}
	return w
}

// late tells whether a goroutine was late since the last call.
func (w *waits) late() bool {
	if w.read[0].Value.Kind() != metrics.KindFloat64Histogram {
		return false
	}
	metrics.Read(w.read)
	var count uint64
	for _, n := range w.read[0].Value.Float64Histogram().Counts[w.from:] {
		count += n
	}
	since := count - w.last
	w.last = count
	return since > 0
}
