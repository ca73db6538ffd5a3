package rpc

import (
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

func (r *memoryReplica) at(boot uint64, clock time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boot, r.clock = boot, clock
}

func wantHeard(t *testing.T, client *StorageClient, boot uint64, clock time.Duration) {
	t.Helper()
	if gotBoot, got := client.Heard(); gotBoot != boot || got != clock {
		t.Errorf("heard life %d and clock %v, want %d and %v", gotBoot, got, boot, clock)
	}
}

// TestLifeAndClockAreHeard: with the hello, with each answer, and kept while
// the node is away.
func TestLifeAndClockAreHeard(t *testing.T) {
	replica := newMemoryReplica()
	replica.at(7, time.Hour)
	node := startStorage(t, replica)
	client := node.connect(StorageOptions{})
	wantHeard(t, client, 7, time.Hour)
	replica.at(7, 2*time.Hour)
	done := make(ended, 1)
	client.Do(readCall("k", time.Minute, done))
	done.wait(t)
	wantHeard(t, client, 7, 2*time.Hour)

	node.kill()
	eventually(t, "the node is away", func() bool { return client.Unavailable() != nil })
	wantHeard(t, client, 7, 2*time.Hour)
	replica.at(8, time.Minute)
	node.start()
	eventually(t, "the node is back", func() bool { return client.Unavailable() == nil })
	wantHeard(t, client, 8, time.Minute)
}

// TestIdleNodeIsHeard: the clock comes with pings too, well within the time
// that makes a message too old.
func TestIdleNodeIsHeard(t *testing.T) {
	if 2*pingEvery > coord.MessageLifetime/4 {
		t.Errorf("pings go each %v, of messages that live for %v", pingEvery, coord.MessageLifetime)
	}
	replica := newMemoryReplica()
	replica.at(1, time.Second)
	client := startStorage(t, replica).connect(StorageOptions{})
	wantHeard(t, client, 1, time.Second)
	replica.at(1, time.Minute)
	eventually(t, "a ping is answered", func() bool { _, clock := client.Heard(); return clock == time.Minute })
}

func TestCallsCarryWhatWasHeard(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{})
	done := make(ended, 1)
	apply, drop := applyCall("k", version(1, nil), done), applyCall("k", version(1, nil), done)
	apply.Boot, apply.Heard = 3, time.Hour
	drop.Kind, drop.Boot, drop.Heard = coord.CallDrop, 4, 2*time.Hour
	for _, call := range []*coord.Call{apply, drop} {
		client.Do(call)
		if done.wait(t).Err != nil {
			t.Fatal(call.Err)
		}
		replica.mu.Lock()
		if replica.callBoot != call.Boot || replica.callHeard != call.Heard {
			t.Errorf("%s of life %d and clock %v came with %d and %v", call.Kind, call.Boot, call.Heard, replica.callBoot, replica.callHeard)
		}
		replica.mu.Unlock()
	}
}

// TestNodeTime: two connections may bring what was said in another order.
func TestNodeTime(t *testing.T) {
	var heard nodeTime
	for _, step := range []struct {
		boot, clock         uint64
		wantBoot, wantClock uint64
	}{
		{0, 0, 0, 0}, {1, 50, 1, 50}, {1, 40, 1, 50}, {1, 60, 1, 60}, {2, 5, 2, 5}, {2, 4, 2, 5}, {1, 70, 1, 70}, {2, 6, 2, 6},
	} {
		heard.hear(step.boot, step.clock)
		if boot, clock := heard.last(); boot != step.wantBoot || uint64(clock) != step.wantClock {
			t.Errorf("after life %d and clock %d: got %d and %d", step.boot, step.clock, boot, clock)
		}
	}
}
