package badger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

// wantInSyncedLog checks that the log which was synced last holds a change: it
// would not if Badger named or filled its logs in another way.
func wantInSyncedLog(t *testing.T, s *store, what []byte) {
	t.Helper()
	log, err := io.ReadAll(io.NewSectionReader(s.wal.file, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, what) {
		t.Fatalf("%s was synced, but holds not what was committed last", s.wal.file.Name())
	}
}

func TestEachCommitIsInTheSyncedLog(t *testing.T) {
	n := openTestNode(t, NodeOptions{Sync: true})
	first := n.store.wal.number
	value := make([]byte, fileBytes)
	logs := map[int]bool{}
	// The logs of the small profile take 8 MiB.
	for i := range 500 {
		key := fmt.Sprintf("key-%06d", i)
		if call := apply(n, "t", key, testVersion(int64(i+1), value)); call.Err != nil {
			t.Fatal(call.Err)
		}
		if number := n.store.wal.number; !logs[number] || i%100 == 0 {
			logs[number] = true
			wantInSyncedLog(t, n.store, []byte(key))
		}
	}
	if len(logs) < 3 || !logs[first] {
		t.Errorf("%d logs were written, want the first and several more", len(logs))
	}
}

func TestClaimsAreInTheSyncedLog(t *testing.T) {
	c := openTestClaims(t, ClaimsOptions{Sync: true})
	key := coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: "some-idempotency-key"}
	if _, err := c.Reserve(t.Context(), key, coord.Fingerprint{}, coord.AttemptID{1}, 1e9); err != nil {
		t.Fatal(err)
	}
	wantInSyncedLog(t, c.store, []byte(key.IdempotencyKey))
}

func TestWithoutSyncNoLogIsOpened(t *testing.T) {
	if n := openTestNode(t, NodeOptions{}); n.store.wal.file != nil {
		t.Error("a store without sync syncs its log")
	}
}

// TestFailedSyncAcknowledgesNothing lets the sync behind a commit fail: the
// write is in doubt, is not shown, and the store recovers.
func TestFailedSyncAcknowledgesNothing(t *testing.T) {
	n := openTestNode(t, NodeOptions{Sync: true, Warn: func(string) {}})
	if call := apply(n, "t", "k", testVersion(1, []byte("one"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	if err := n.store.wal.file.Close(); err != nil {
		t.Fatal(err)
	}
	call := apply(n, "t", "k", testVersion(2, []byte("two")))
	if !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
		t.Fatalf("got error %v, want that the outcome is unknown", call.Err)
	}
	eventually(t, "the store is usable again", func() bool { return n.Unavailable() == nil })
	if call := apply(n, "t", "k", testVersion(3, []byte("three"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	wantInSyncedLog(t, n.store, []byte("three"))
}
