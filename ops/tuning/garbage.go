package tuning

import "runtime/metrics"

// soon is the share of the heap's goal from which on the collector is about to
// start: the runtime begins a twentieth before the goal at the latest, and not
// much earlier where marking takes as little as here. From 0.85 on a storage node
// had the second processor for a quarter of the time, and used 1.04 of what it
// uses now for a write; without any for collecting p99.9 was 15 ms instead of 9.
const soon = 0.93

// garbage tells when the collector is at work, or about to be.
type garbage struct{ read []metrics.Sample }

func newGarbage() *garbage {
	return &garbage{[]metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"}}}
}

func (g *garbage) collecting() bool {
	metrics.Read(g.read)
	for _, s := range g.read {
		if s.Value.Kind() != metrics.KindUint64 {
			return false
		}
	}
	return float64(g.read[0].Value.Uint64()) > soon*float64(g.read[1].Value.Uint64())
}
