package metrics

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
)

func TestStorageNodeOnThePage(t *testing.T) {
	var p Page
	reads := 0
	p.Storage(func() Store {
		reads++
		return Store{Keys: 7, DiskUsedFraction: 0.5, DiskFreeBytes: 1000, DiskFull: true, QueuedReads: 1, QueuedApplies: 2,
			QueuedBytes: 3, Tables: []int{4, 5}, TreeBytes: 6, StaleBytes: 8, LogBytes: 9, CompactionScore: 1.5, ValueFiles: 10, Reclaims: 15, DeletedBytes: 16,
			BlockCacheHits: 11, BlockCacheMisses: 12, HeadCacheKeys: 13, HeadCacheBytes: 14}
	})
	expect(t, scrape(t, &p), map[string]float64{
		"storage_keys": 7, "storage_disk_used_ratio": 0.5, "storage_disk_free_bytes": 1000, "storage_disk_full": 1,
		`storage_queued_calls{kind="read"}`: 1, `storage_queued_calls{kind="apply"}`: 2, "storage_queued_bytes": 3,
		`storage_tables{level="0"}`: 4, `storage_tables{level="1"}`: 5, "storage_tree_bytes": 6, "storage_stale_bytes": 8,
		"storage_log_bytes": 9, "storage_compaction_score": 1.5, "storage_large_values_written_total": 10, "storage_reclaims_total": 15, "storage_deleted_bytes": 16,
		"storage_block_cache_hits_total": 11, "storage_block_cache_misses_total": 12,
		"storage_head_cache_keys": 13, "storage_head_cache_bytes": 14,
	})
	if reads != 1 {
		t.Errorf("the node was read %d times for one page", reads)
	}
}

func TestHealthAndEngineOnThePage(t *testing.T) {
	var p Page
	p.Health("coordinator", func() bool { return true }, func() []Dependency {
		return []Dependency{{Name: "metadata", Up: true, Seconds: 0.25}, {Name: "idempotency"}}
	})
	p.Engine(func() coord.Counters {
		return coord.Counters{HintsReplayed: 1, HintsGivenUp: 2, HintsInMemory: 3, CachedTenants: 4, EvictedTenants: 5}
	})
	expect(t, scrape(t, &p), map[string]float64{
		"coordinator_ready": 1,
		`coordinator_dependency_up{dependency="metadata"}`:              1,
		`coordinator_dependency_up{dependency="idempotency"}`:           0,
		`coordinator_dependency_latency_seconds{dependency="metadata"}`: 0.25,
		"coordinator_hints_replayed_total":                              1,
		"coordinator_hints_given_up_total":                              2,
		"coordinator_hints_memory_bytes":                                3,
		`coordinator_cache_entries{cache="tenant"}`:                     4,
		`coordinator_cache_evictions_total{cache="tenant"}`:             5,
	})
}

func TestPoolsAndMigrationsOnThePage(t *testing.T) {
	var p Page
	p.Pool("metadata", func() Pool {
		return Pool{Acquired: 1, Idle: 2, Total: 3, Max: 4, Waits: 5, Waited: 6 * time.Second, Cancelled: 7}
	})
	p.Migrations(func() []Migration { return []Migration{{ID: "m1", Type: "node_addition", Moved: 3, Keys: 10}} })
	expect(t, scrape(t, &p), map[string]float64{
		"coordinator_metadata_pool_acquired": 1, "coordinator_metadata_pool_idle": 2, "coordinator_metadata_pool_max": 4,
		"coordinator_metadata_pool_waits_total": 5, "coordinator_metadata_pool_waited_seconds": 6, "coordinator_metadata_pool_cancelled_total": 7,
		`coordinator_migration_keys_moved{migration="m1",type="node_addition"}`: 3,
		`coordinator_migration_keys{migration="m1",type="node_addition"}`:       10,
		"coordinator_migrations_running":                                        1,
	})
}

func TestSnapshotAddsUp(t *testing.T) {
	s := New("", "")
	s.Request("ReadKeyValue", codes.OK, 2*time.Millisecond)
	s.Request("WriteKeyValue", codes.Unavailable, time.Minute)
	s.Request("DeleteKeyValue", codes.NotFound, 0)
	s.Request("CreateTenant", codes.Internal, 0) // no operation on a key
	e := s.Events()
	e.ReplicaCall("storage-1", coord.CallRead, time.Millisecond, nil)
	e.ReplicaCall("storage-1", coord.CallApply, time.Millisecond, errors.New("down"))
	e.Hedge("storage-1")
	e.QuorumFailure("write", nil)
	got := s.Snapshot()
	sum := func(l Latencies) (n uint64) {
		for _, b := range l.Buckets {
			n += b
		}
		return n
	}
	if sum(got.Reads) != 1 || sum(got.Writes) != 2 || got.Failed != 1 || got.QuorumFailed != 1 || len(got.BoundsSeconds)+1 != len(got.Reads.Buckets) {
		t.Errorf("got %+v", got)
	}
	if last := len(got.Writes.Buckets) - 1; got.Writes.Buckets[last] != 1 {
		t.Errorf("a minute is not in the last bucket: %v", got.Writes.Buckets)
	}
	if r := got.Replicas; len(r) != 1 || r[0].Node != "storage-1" || r[0].Errors != 1 || r[0].Hedges != 1 || sum(r[0].Latencies) != 2 {
		t.Errorf("replicas %+v", r)
	}
}
