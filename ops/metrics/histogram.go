package metrics

import (
	"strconv"
	"sync/atomic"
	"time"
)

// bounds are the upper ends of the buckets of every latency histogram. They
// are close together where the coordinator's latencies lie, and reach to the
// longest that a request may take by default.
var bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// histogram counts durations in fixed buckets, without a lock.
type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64 // not cumulative; the last is beyond all bounds
	sum     atomic.Int64                   // nanoseconds
}

func (h *histogram) observe(took time.Duration) {
	took = max(took, 0)
	i, end := 0, len(bounds)
	for i < end { // the first bound that is not below took
		if middle := (i + end) / 2; bounds[middle] < took {
			i = middle + 1
		} else {
			end = middle
		}
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(took))
}

// write prints the histogram. Its count is that of the buckets it printed, so
// that a page agrees with itself while observations go on.
func (h *histogram) write(w *writer, name, labels string) {
	sep := ""
	if labels != "" {
		sep = ","
	}
	total := uint64(0)
	for i := range h.buckets {
		le := "+Inf"
		if i < len(bounds) {
			le = strconv.FormatFloat(bounds[i].Seconds(), 'g', -1, 64)
		}
		total += h.buckets[i].Load()
		w.count(name+"_bucket", labels+sep+`le="`+le+`"`, total)
	}
	w.sample(name+"_sum", labels, time.Duration(h.sum.Load()).Seconds())
	w.count(name+"_count", labels, total)
}
