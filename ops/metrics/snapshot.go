package metrics

import (
	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc/codes"
)

// faults are the codes of failures for a reason that is not the client's.
var faults = []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.DataLoss}

// Snapshot is what a console shows: totals since the start, from which two
// snapshots give rates.
type Snapshot struct {
	// BoundsSeconds are the upper ends of all buckets but the last.
	BoundsSeconds []float64
	Reads, Writes Latencies // deletes are writes
	Failed        uint64    // of them, for a reason that is not the client's
	Conflicts     uint64
	Repairs       uint64
	QuorumFailed  uint64
	Replicas      []ReplicaTotals // by node
}

// Latencies count requests by how long they took.
type Latencies struct {
	Buckets []uint64 // not cumulative; one more than there are bounds
}

// ReplicaTotals are the calls on one storage node.
type ReplicaTotals struct {
	Node           string
	Errors, Hedges uint64
	Latencies
}

func (l *Latencies) add(h *histogram) {
	for i := range h.buckets {
		l.Buckets[i] += h.buckets[i].Load()
	}
}

// Snapshot reads the counts. It is safe for concurrent use, and locks nothing.
func (s *Set) Snapshot() Snapshot {
	empty := func() Latencies { return Latencies{make([]uint64, len(bounds)+1)} }
	n := Snapshot{Reads: empty(), Writes: empty(), Conflicts: s.conflicts.Get(), Repairs: s.repairs.Get()}
	for _, b := range bounds {
		n.BoundsSeconds = append(n.BoundsSeconds, b.Seconds())
	}
	for method, of := range map[string]*Latencies{"ReadKeyValue": &n.Reads, "WriteKeyValue": &n.Writes, "DeleteKeyValue": &n.Writes} {
		m := s.methods.get(method)
		of.add(&m.took)
		for _, c := range faults {
			n.Failed += m.codes[c].Get()
		}
	}
	s.quorumFailures.each(func(_ string, c *metrics.Counter) { n.QuorumFailed += c.Get() })
	s.replicas.each(func(node string, r *replica) {
		t := ReplicaTotals{Node: node, Errors: r.errors.Get(), Hedges: r.hedges.Get(), Latencies: empty()}
		for i := range r.calls {
			t.add(&r.calls[i])
		}
		n.Replicas = append(n.Replicas, t)
	})
	return n
}
