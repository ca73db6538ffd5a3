package badger

import (
	"bytes"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

func TestStatsFollowTheNode(t *testing.T) {
	n, err := OpenNode(NodeOptions{ID: "storage-1", Dir: t.TempDir(), MinFreeBytes: 1, Profile: Large})
	if err != nil {
		t.Fatal(err)
	}
	before := n.Stats()
	if before.Keys != 0 || before.DiskFreeBytes == 0 || before.DiskFull || before.HeadCacheKeys != 0 || len(before.Tables) == 0 {
		t.Errorf("empty: %+v", before)
	}
	for i, key := range []string{"a", "b", "c"} {
		value := bytes.Repeat([]byte{1}, 10)
		if key == "c" {
			value = make([]byte, fileBytes+1)
		}
		if call := apply(n, "t", key, testVersion(int64(i+1), value)); call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	after := n.Stats()
	if after.Keys != 3 || after.HeadCacheKeys != 3 || after.HeadCacheBytes == 0 || after.ValueFiles != 1 {
		t.Errorf("three keys, one of them large: %+v", after)
	}
	if after.QueuedReads != 0 || after.QueuedApplies != 0 || after.QueuedBytes != 0 {
		t.Errorf("nothing waits: %+v", after)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Stats() // must not reach into what is closed
}

func TestQueueLength(t *testing.T) {
	q := newQueue(10, 1<<20)
	call := &coord.Call{Key: "k"}
	q.push(call)
	q.push(call)
	if calls, bytes := q.length(); calls != 2 || bytes != 2*callBytes(call) {
		t.Errorf("%d calls of %d bytes", calls, bytes)
	}
	q.take(nil, 1, 1<<20)
	if calls, bytes := q.length(); calls != 1 || bytes != callBytes(call) {
		t.Errorf("after one was taken: %d calls of %d bytes", calls, bytes)
	}
}
