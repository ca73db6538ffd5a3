package tuning

import "runtime/metrics"

// soon is the share of the heap's goal from which on the collector is about to
// start: the runtime begins a twentieth before the goal at the latest, and not
// much earlier where marking takes as little as here.
const soon = 0.85

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
