package badger

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// onDisk is how many bytes of the disk a directory takes.
func onDisk(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil && syscall.Lstat(path, &st) == nil { // else it was just replaced
			bytes += 512 * st.Blocks
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// applyAll hands the node versions of keys, many at a time.
func applyAll(t *testing.T, n *Node, kind coord.CallKind, keys int, version func(i int) coord.Version) {
	t.Helper()
	var all sync.WaitGroup
	for from := range 64 {
		all.Go(func() {
			for i := from; i < keys; i += 64 {
				call := do(n, &coord.Call{Kind: kind, Intent: coord.IntentRepair, Tenant: "t", Key: fmt.Sprint("k", i), Version: version(i)})
				if call.Err != nil {
					t.Error(call.Err)
					return
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// What was deleted gives its room back on a node that nobody writes to.
func TestDeletedSpaceComesBackOnAnIdleNode(t *testing.T) {
	const keys = 20_000
	dir := t.TempDir()
	n := openTestNode(t, NodeOptions{Dir: dir, reclaimLook: 100 * time.Millisecond})
	noise := rand.NewChaCha8([32]byte{1})
	values := make([][]byte, keys)
	for i := range values {
		values[i] = make([]byte, 2<<10)
		_, _ = noise.Read(values[i])
	}
	applyAll(t, n, coord.CallApply, keys, func(i int) coord.Version { return testVersion(1, values[i]) })
	kept := testVersion(1, []byte("kept"))
	apply(n, "t", "kept", kept)
	full := onDisk(t, dir)
	gone := testVersion(2, nil)
	gone.Tombstone = true
	applyAll(t, n, coord.CallApply, keys, func(int) coord.Version { return gone })
	applyAll(t, n, coord.CallDrop, keys, func(int) coord.Version { return gone })

	within := 60 * time.Second
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		now := onDisk(t, dir)
		if now < full/4 {
			t.Logf("%d MiB were used, %d MiB are: %+v", full>>20, now>>20, n.Stats())
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d MiB were used, %d MiB are %v after all was deleted: %+v", full>>20, now>>20, within, n.Stats())
		}
	}
	if got := n.Stats().Keys; got != 1 {
		t.Errorf("%d keys are held, want 1", got)
	}
	if got := read(n, "t", "kept"); got.Err != nil || string(got.Held.Value) != "kept" {
		t.Errorf("what was kept reads as %q, error %v", got.Held.Value, got.Err)
	}
	for _, i := range []int{0, 1, keys / 2, keys - 1} {
		key := fmt.Sprint("k", i)
		if got := read(n, "t", key); got.Err != nil || got.Held.Exists() || got.Floor < 2 {
			t.Errorf("%s: holds %s, floor %d, error %v; want that it is gone, and known to be", key, &got.Held.Head, got.Floor, got.Err)
		}
	}
}

// A busy node is left to merge as its writes go.
func TestReclaimingWaitsForAnIdleMoment(t *testing.T) {
	var r reclaimer
	s := &staged{key: "k", before: &held{}, value: make([]byte, reclaimBusy)}
	r.deleted.Store(reclaimLeast)
	r.note(s)
	for _, want := range []struct {
		due  bool
		tree int64
	}{{false, 0}, {true, 0}, {true, reclaimPart * reclaimLeast}, {false, reclaimPart*reclaimLeast + reclaimPart}, {false, reclaimMost + 1}} {
		if due := r.due(want.tree); due != want.due {
			t.Errorf("with a tree of %d bytes: due %t, want %t", want.tree, due, want.due)
		}
	}
	// Only deletions count, and what replaced nothing deletes nothing.
	r.deleted.Store(0)
	for _, s := range []*staged{s, {key: "k", before: &held{head: coord.Head{Timestamp: 1}, length: 100}, head: coord.Head{Timestamp: 2}}} {
		r.note(s)
	}
	if got := r.deleted.Load(); got != 0 {
		t.Errorf("%d bytes count as deleted, want none", got)
	}
	r.deleted.Store(0)
	r.note(&staged{key: "k", before: &held{head: coord.Head{Timestamp: 1}, length: 100}, head: coord.Head{Timestamp: 2, Tombstone: true}})
	if got, want := r.deleted.Load(), keyBytes("", "k", 100); got != want {
		t.Errorf("a deletion counts as %d bytes, want %d", got, want)
	}
}
