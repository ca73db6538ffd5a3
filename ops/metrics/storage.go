package metrics

import "strconv"

// Store is how a storage node stands; badger.NodeStats has the same fields,
// and tells what they mean.
type Store struct {
	Keys             int64
	DiskUsedFraction float64
	DiskFreeBytes    uint64
	DiskFull         bool

	QueuedReads, QueuedApplies int
	QueuedBytes                int64

	Tables          []int
	TreeBytes       int64
	StaleBytes      int64
	LogBytes        int64
	CompactionScore float64
	ValueFiles      uint64
	Reclaims        uint64
	DeletedBytes    int64

	BlockCacheHits, BlockCacheMisses uint64
	HeadCacheKeys                    int
	HeadCacheBytes                   int64
}

// Storage puts a storage node on the page. Read is called for each page, from
// any goroutine, and must be quick.
func (p *Page) Storage(read func() Store) {
	each := func(name, kind, help string, write func(w *writer, name string, s Store)) {
		p.add(family{name, kind, help, func(w *writer) { write(w, name, w.store(read)) }})
	}
	gauge := func(name, help string, of func(Store) float64) {
		each(name, "gauge", help, func(w *writer, name string, s Store) { w.sample(name, "", of(s)) })
	}
	gauge("storage_keys", "Keys held, deleted ones included.", func(s Store) float64 { return float64(s.Keys) })
	gauge("storage_disk_used_ratio", "Used part of the file system, 0 to 1.", func(s Store) float64 { return s.DiskUsedFraction })
	gauge("storage_disk_free_bytes", "Room on the file system.", func(s Store) float64 { return float64(s.DiskFreeBytes) })
	gauge("storage_disk_full", "1 while writes are refused for lack of room, else 0.", func(s Store) float64 { return oneIf(s.DiskFull) })
	each("storage_queued_calls", "gauge", "Calls that wait, by kind.", func(w *writer, name string, s Store) {
		w.sample(name, label("kind", "apply"), float64(s.QueuedApplies))
		w.sample(name, label("kind", "read"), float64(s.QueuedReads))
	})
	gauge("storage_queued_bytes", "Size of the calls that wait.", func(s Store) float64 { return float64(s.QueuedBytes) })
	each("storage_tables", "gauge", "Tables of the tree, by level.", func(w *writer, name string, s Store) {
		for level, n := range s.Tables {
			w.sample(name, label("level", strconv.Itoa(level)), float64(n))
		}
	})
	gauge("storage_tree_bytes", "Size of the tables.", func(s Store) float64 { return float64(s.TreeBytes) })
	gauge("storage_stale_bytes", "What of the tables compaction will free.", func(s Store) float64 { return float64(s.StaleBytes) })
	gauge("storage_log_bytes", "Size of the value log.", func(s Store) float64 { return float64(s.LogBytes) })
	gauge("storage_compaction_score", "Size of the fullest level by its target; compaction falls behind while it stays far above 1.",
		func(s Store) float64 { return s.CompactionScore })
	each("storage_large_values_written_total", "counter", "Values written to files of their own since the directory was made.",
		func(w *writer, name string, s Store) { w.count(name, "", s.ValueFiles) })
	each("storage_reclaims_total", "counter", "Times that all tables were merged on an idle node to give deleted bytes back.",
		func(w *writer, name string, s Store) { w.count(name, "", s.Reclaims) })
	gauge("storage_deleted_bytes", "Bytes deleted since the last such time.", func(s Store) float64 { return float64(s.DeletedBytes) })
	each("storage_block_cache_hits_total", "counter", "Blocks found in memory.",
		func(w *writer, name string, s Store) { w.count(name, "", s.BlockCacheHits) })
	each("storage_block_cache_misses_total", "counter", "Blocks read from disk.",
		func(w *writer, name string, s Store) { w.count(name, "", s.BlockCacheMisses) })
	gauge("storage_head_cache_keys", "Keys whose version is known without a look at the tree.", func(s Store) float64 { return float64(s.HeadCacheKeys) })
	gauge("storage_head_cache_bytes", "Memory that they take, about.", func(s Store) float64 { return float64(s.HeadCacheBytes) })
}

// store reads the node once for a page.
func (w *writer) store(read func() Store) Store {
	if w.stored == nil {
		s := read()
		w.stored = &s
	}
	return *w.stored
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
