package badger

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// blockedWrites lets the writing of values wait until it is released, and tells
// when each begins.
func blockedWrites(n *Node) (began chan struct{}, release func()) {
	began = make(chan struct{}, 100)
	gate := make(chan struct{})
	n.values.beforeWrite = func() {
		began <- struct{}{}
		<-gate
	}
	return began, sync.OnceFunc(func() { close(gate) })
}

func start(n *Node, key string, v coord.Version, deadline time.Time) finished {
	done := make(finished, 1)
	n.Do(&coord.Call{
		Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
		Version: v, Deadline: deadline, Caller: done,
	})
	return done
}

func TestLargeValueHoldsUpNoOtherWrite(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	began, release := blockedWrites(n)
	defer release()
	large := bytes.Repeat([]byte("x"), fileBytes+1)
	done := start(n, "k", testVersion(1, large), time.Time{})
	<-began
	// One of another key, and a newer and smaller one of the same.
	if call := apply(n, "t", "other", testVersion(1, []byte("small"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	if call := apply(n, "t", "k", testVersion(2, []byte("newer"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	select {
	case <-done:
		t.Fatal("a write was answered before its value was written")
	default:
	}
	release()
	if call := <-done; call.Err != nil || call.Held.Timestamp != 2 {
		t.Errorf("got %s, error %v, want the newer version", &call.Held.Head, call.Err)
	}
	if call := read(n, "t", "k"); call.Err != nil || string(call.Held.Value) != "newer" {
		t.Errorf("read %d bytes, error %v", len(call.Held.Value), call.Err)
	}
	eventually(t, "no file is left of the value that was not kept", func() bool { return len(valueFilesOf(t, n)) == 0 })
}

func TestLargeValuesOfOneBatchLeaveOneFile(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	began, release := blockedWrites(n)
	defer release()
	const versions = 6
	var calls []finished
	for i := range versions {
		value := bytes.Repeat([]byte{byte(i)}, fileBytes+1)
		calls = append(calls, start(n, "k", testVersion(int64(i+1), value), time.Time{}))
	}
	<-began
	release()
	for _, done := range calls {
		if call := <-done; call.Err != nil {
			t.Error(call.Err)
		}
	}
	call := read(n, "t", "k")
	if call.Err != nil || call.Held.Timestamp != versions || call.Held.Value[0] != versions-1 {
		t.Errorf("got %s, error %v, want the greatest version and its value", &call.Held.Head, call.Err)
	}
	eventually(t, "one file is left", func() bool { return len(valueFilesOf(t, n)) == 1 })
}

func TestLargeValueThatIsHeldIsNotWrittenAgain(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	large := make([]byte, fileBytes+1)
	if call := apply(n, "t", "k", testVersion(2, large)); call.Err != nil {
		t.Fatal(call.Err)
	}
	n.values.beforeWrite = func() { t.Error("a value was written that the node has") }
	for timestamp := range int64(2) {
		if call := apply(n, "t", "k", testVersion(timestamp+1, large)); call.Err != nil || call.Held.Timestamp != 2 {
			t.Errorf("got %s, error %v", &call.Held.Head, call.Err)
		}
	}
}

func TestLargeValueIsAnsweredWithItsDeadline(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	began, release := blockedWrites(n)
	defer release()
	large := make([]byte, fileBytes+1)
	soon := time.Now().Add(50 * time.Millisecond)
	var writing, waiting []finished
	for i := range spillers {
		writing = append(writing, start(n, fmt.Sprint("writing", i), testVersion(1, large), soon))
		<-began
	}
	waiting = append(waiting, start(n, "waiting", testVersion(1, large), soon))
	for _, done := range waiting {
		if call := <-done; !errors.Is(call.Err, coord.ErrReplicaRefused) {
			t.Errorf("got error %v, want that it was refused", call.Err)
		}
	}
	release()
	for _, done := range writing {
		if call := <-done; !errors.Is(call.Err, coord.ErrReplicaRefused) {
			t.Errorf("got error %v, want that it was refused", call.Err)
		}
	}
	eventually(t, "no file is left", func() bool { return len(valueFilesOf(t, n)) == 0 })
}

func TestCloseRefusesLargeValues(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	began, release := blockedWrites(n)
	large := make([]byte, fileBytes+1)
	var calls []finished
	for i := range spillers + 2 {
		calls = append(calls, start(n, fmt.Sprint(i), testVersion(1, large), time.Time{}))
		if i < spillers {
			<-began
		}
	}
	closed := make(chan error)
	go func() { closed <- n.Close() }()
	for _, done := range calls[spillers:] {
		if call := <-done; !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
			t.Errorf("got error %v", call.Err)
		}
	}
	eventually(t, "no apply is taken", func() bool {
		n.applies.mu.Lock()
		defer n.applies.mu.Unlock()
		return n.applies.closed
	})
	release()
	for _, done := range calls[:spillers] {
		if call := <-done; !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
			t.Errorf("got error %v", call.Err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if files := valueFilesOf(t, n); len(files) != 0 {
		t.Errorf("%d files are left of values that were refused", len(files))
	}
	if call := <-start(n, "late", testVersion(1, large), time.Time{}); !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
		t.Errorf("got error %v after Close", call.Err)
	}
}
