package badger

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pairdb/coordinator/coord"
)

func valueFilesOf(t *testing.T, n *Node) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(n.opts.Dir, "values", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestReplacedLargeValuesFreeTheirSpace(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	large := make([]byte, fileBytes+1)
	for i := range 60 {
		if call := apply(n, "t", fmt.Sprint(i%3), testVersion(int64(i+1), large)); call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	if files := valueFilesOf(t, n); len(files) != 3 {
		t.Errorf("%d files hold the values of 3 keys", len(files))
	}
	apply(n, "t", "0", testVersion(100, []byte("small")))
	gone := testVersion(100, nil)
	gone.Tombstone = true
	apply(n, "t", "1", gone)
	if files := valueFilesOf(t, n); len(files) != 1 {
		t.Errorf("%d files hold the value of 1 key", len(files))
	}
	if call := read(n, "t", "2"); call.Err != nil || !bytes.Equal(call.Held.Value, large) {
		t.Errorf("read %d bytes, error %v", len(call.Held.Value), call.Err)
	}
}

func TestValuesThatNothingRefersToAreRemoved(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	large := make([]byte, fileBytes+1)
	apply(n, "t", "k", testVersion(1, large))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.values.write(large, nil); err != nil { // as if killed before the commit
		t.Fatal(err)
	}
	n = openTestNode(t, n.opts)
	eventually(t, "one file is left", func() bool { return len(valueFilesOf(t, n)) == 1 })
	if call := read(n, "t", "k"); call.Err != nil || !bytes.Equal(call.Held.Value, large) {
		t.Errorf("read %d bytes, error %v", len(call.Held.Value), call.Err)
	}

	var failed atomic.Bool
	n.store.commitFault = func() error {
		if failed.CompareAndSwap(false, true) {
			return errors.New("input/output error")
		}
		return nil
	}
	if call := apply(n, "t", "k", testVersion(2, large)); !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
		t.Fatalf("got error %v, want ErrReplicaUnavailable", call.Err)
	}
	eventually(t, "one file is left after a failed commit", func() bool { return len(valueFilesOf(t, n)) == 1 })
	eventually(t, "the value of before is there", func() bool {
		call := read(n, "t", "k")
		return call.Err == nil && call.Held.Timestamp == 1 && bytes.Equal(call.Held.Value, large)
	})
}

func TestDamagedValueIsAnError(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	large := make([]byte, fileBytes+1)
	for name, damage := range map[string]func(path string) error{
		"lost":      os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, fileBytes) },
		"changed": func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte{1}, len(large)), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			at := int64(n.store.versions.committed.Load() + 1)
			apply(n, "t", "k", testVersion(at, large))
			if err := damage(valueFilesOf(t, n)[0]); err != nil {
				t.Fatal(err)
			}
			if call := read(n, "t", "k"); !errors.Is(call.Err, coord.ErrCorrupt) {
				t.Errorf("got %d bytes, error %v, want ErrCorrupt", len(call.Held.Value), call.Err)
			}
			head := do(n, &coord.Call{Kind: coord.CallHead, Tenant: "t", Key: "k"})
			if head.Err != nil || head.Held.Timestamp != at {
				t.Errorf("head: got %s, error %v", &head.Held.Head, head.Err)
			}
		})
	}
}

func TestValueThatCannotBeWrittenIsRefused(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	apply(n, "t", "k", testVersion(1, []byte("small")))
	if err := os.RemoveAll(filepath.Join(n.opts.Dir, "values")); err != nil {
		t.Fatal(err)
	}
	if call := apply(n, "t", "k", testVersion(2, make([]byte, fileBytes+1))); !errors.Is(call.Err, coord.ErrReplicaRefused) {
		t.Errorf("got error %v, want ErrReplicaRefused", call.Err)
	}
	if call := read(n, "t", "k"); call.Err != nil || string(call.Held.Value) != "small" {
		t.Errorf("got %q, error %v", call.Held.Value, call.Err)
	}
	if call := apply(n, "t", "k", testVersion(3, []byte("again"))); call.Err != nil {
		t.Errorf("a small value after it: %v", call.Err)
	}
}

// TestReadsWhileLargeValuesAreReplaced reads values whose files go away.
func TestReadsWhileLargeValuesAreReplaced(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	large := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, fileBytes+1) }
	apply(n, "t", "k", testVersion(1, large(1)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 2; i < 300; i++ {
			apply(n, "t", "k", testVersion(int64(i), large(i)))
		}
	}()
	for {
		call := read(n, "t", "k")
		if call.Err != nil || !bytes.Equal(call.Held.Value, large(int(call.Held.Timestamp))) {
			t.Fatalf("got %s, error %v", &call.Held.Head, call.Err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// TestPiecesOfAValue: between the pieces of a large value others are let
// through.
func TestPiecesOfAValue(t *testing.T) {
	f, err := openValueFiles(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int]int{1: 0, pieceBytes: 0, pieceBytes + 1: 1, 4 * pieceBytes: 3, 4*pieceBytes + 5: 4} {
		value := make([]byte, size)
		for i := range value {
			value[i] = byte(rand.Uint32())
		}
		rests := 0
		ref, err := f.write(value, func() { rests++ })
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.read(ref); err != nil || !bytes.Equal(got, value) {
			t.Errorf("%d bytes were not read as they were written: %v", size, err)
		}
		if rests != want {
			t.Errorf("%d rests while %d bytes were written, want %d", rests, size, want)
		}
	}
}

// TestSpillerRests only while its node is asked by others.
func TestSpillerRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{reads: newQueue(10, 1<<20), applies: newQueue(10, 1<<20)}
		s := &spiller{node: n}
		took := func() time.Duration {
			began := time.Now()
			s.rest()
			return time.Since(began)
		}
		if d := took(); d != 0 {
			t.Errorf("it rested for %v alone", d)
		}
		for _, q := range []*queue{n.reads, n.applies} {
			q.push(new(coord.Call))
			for range 3 {
				if d := took(); d != restTime {
					t.Errorf("it rested for %v after a call, want %v", d, restTime)
				}
			}
			time.Sleep(restFor)
			if d := took(); d != 0 {
				t.Errorf("it rested for %v long after the call", d)
			}
		}
	})
}
