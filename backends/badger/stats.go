package badger

// NodeStats is how a storage node stands, for metrics.
type NodeStats struct {
	Keys             int64   // that have a record, tombstones included
	DiskUsedFraction float64 // of the file system, 0 to 1
	DiskFreeBytes    uint64  // of it, to a process without privileges
	DiskFull         bool    // applies are refused for lack of room

	QueuedReads, QueuedApplies int   // calls that wait
	QueuedBytes                int64 // of both

	Tables     []int // of Badger's tree, by level
	TreeBytes  int64 // of its tables
	StaleBytes int64 // of them, that compaction will free
	LogBytes   int64 // of its value log
	// CompactionScore is how far the fullest level is over its size: tables
	// pile up while it stays above 1.
	CompactionScore float64
	ValueFiles      uint64 // large values written since the directory was made
	// Reclaims counts how often all tables were merged on an idle node, to give
	// deleted bytes back to the disk; DeletedBytes were deleted since the last time.
	Reclaims     uint64
	DeletedBytes int64

	BlockCacheHits, BlockCacheMisses uint64
	HeadCacheKeys                    int
	HeadCacheBytes                   int64
}

// Stats reads how the node stands. It looks at no file. A node that is closed
// has the zero stats.
func (n *Node) Stats() NodeStats {
	s := NodeStats{
		Keys: n.keys.Load(), DiskUsedFraction: n.disk.usedFraction(),
		DiskFreeBytes: n.disk.free.Load(), DiskFull: n.disk.full.Load(), ValueFiles: n.values.last.Load(),
		Reclaims: n.reclaimer.reclaims.Load(), DeletedBytes: n.reclaimer.deleted.Load(),
	}
	var bytes int64
	s.QueuedReads, bytes = n.reads.length()
	s.QueuedApplies, s.QueuedBytes = n.applies.length()
	s.QueuedBytes += bytes
	s.HeadCacheKeys, s.HeadCacheBytes = n.heads.size()
	n.store.stats(&s)
	return s
}

// stats adds what Badger knows of itself.
func (s *store) stats(to *NodeStats) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.usable() != nil {
		return
	}
	for _, level := range s.db.Levels() {
		to.Tables = append(to.Tables, level.NumTables)
		to.TreeBytes += level.Size
		to.StaleBytes += level.StaleDatSize
		to.CompactionScore = max(to.CompactionScore, level.Score)
	}
	_, to.LogBytes = s.db.Size()
	if m := s.db.BlockCacheMetrics(); m != nil {
		to.BlockCacheHits, to.BlockCacheMisses = m.Hits(), m.Misses()
	}
}

// length is how many calls wait, and their bytes.
func (q *queue) length() (calls int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls) - q.head, q.bytes
}

// size is how many keys the cache knows, and about how many bytes that takes.
func (c *headCache) size() (keys int, bytes int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		keys += len(s.entries)
		bytes += int64(s.bytes)
		s.mu.Unlock()
	}
	return keys, bytes
}
