package coord

// Counters are totals since the start, and sizes as they are now, for metrics.
type Counters struct {
	HintsReplayed  uint64 // versions that nodes which had missed them now have
	HintsGivenUp   uint64 // for lack of room; their ranges are owed instead
	HintsInMemory  int64  // bytes of hints that are not stored yet
	CachedTenants  int
	EvictedTenants uint64 // left out of the cache for lack of room
}

// Counters reads the engine's totals. It takes no longer than a lock.
func (c *Coordinator) Counters() Counters {
	n := Counters{CachedTenants: c.tenants.cache.EstimatedSize(), EvictedTenants: c.tenants.evicted.Load()}
	if h := c.handoff; h != nil {
		n.HintsReplayed, n.HintsGivenUp = h.replayed.Load(), h.lost.Load()
		h.mu.Lock()
		n.HintsInMemory = h.bytes
		h.mu.Unlock()
	}
	return n
}
