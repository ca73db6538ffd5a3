package metrics

import "github.com/pairdb/coordinator/coord"

// Engine puts the engine's totals on the page. Read is called for each page,
// from any goroutine, and must be quick.
func (p *Page) Engine(read func() coord.Counters) {
	p.Counter("coordinator_hints_replayed_total", "Versions replayed to nodes that had missed them.",
		func() uint64 { return read().HintsReplayed })
	p.Counter("coordinator_hints_given_up_total", "Hints given up for lack of room; the ranges are owed instead.",
		func() uint64 { return read().HintsGivenUp })
	p.Gauge("coordinator_hints_memory_bytes", "Size of the hints that are not stored yet.",
		func() float64 { return float64(read().HintsInMemory) })
	p.add(family{"coordinator_cache_entries", "gauge", "Entries in a cache.", func(w *writer) {
		w.sample("coordinator_cache_entries", `cache="tenant"`, float64(read().CachedTenants))
	}})
	p.add(family{"coordinator_cache_evictions_total", "counter", "Entries that left a cache for lack of room.", func(w *writer) {
		w.count("coordinator_cache_evictions_total", `cache="tenant"`, read().EvictedTenants)
	}})
}
