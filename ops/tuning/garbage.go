package tuning

import "runtime/metrics"

// soon is the share of the heap's goal from which on the collector is about to
// start: the runtime begins a twentieth before the goal at the latest, and not
// much earlier where marking takes as little as here. Where messages hold many
// operations a processor more than is busy is dear, and the heap is large enough
// for a look to come between soonMany and the goal: from 0.85 on a storage node
// had the second one for a quarter of the time, and used 1.04 of the time for a
// write. Without any for collecting p99.9 was 15 ms instead of 9.
const (
	soon     = 0.85
	soonMany = 0.93
)

// garbage tells when the collector is at work, or about to be.
type garbage struct{ read []metrics.Sample }

func newGarbage() *garbage {
	return &garbage{[]metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"}}}
}

// collecting tells whether so large a share of the heap's goal is reached.
func (g *garbage) collecting(share float64) bool {
	metrics.Read(g.read)
	for _, s := range g.read {
		if s.Value.Kind() != metrics.KindUint64 {
			return false
		}
	}
	return float64(g.read[0].Value.Uint64()) > share*float64(g.read[1].Value.Uint64())
}
