package badger

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// testClock is a node's own clock that a test moves.
type testClock struct{ now atomic.Int64 }

func (c *testClock) read() time.Duration     { return time.Duration(c.now.Load()) }
func (c *testClock) advance(d time.Duration) { c.now.Add(int64(d)) }

func deletion(timestamp int64) coord.Version {
	v := testVersion(timestamp, nil)
	v.Tombstone = true
	return v
}

// TestOldMessagesAreRefused: by the node's own clock, when they are decided on.
func TestOldMessagesAreRefused(t *testing.T) {
	var clock testClock
	clock.advance(time.Hour)
	n := openTestNode(t, NodeOptions{Clock: clock.read})
	boot, heard := n.Heard()
	if heard != time.Hour || boot != 1 {
		t.Fatalf("heard life %d and clock %v, want 1 and 1h", boot, heard)
	}
	messages := func() []*coord.Call {
		return []*coord.Call{
			{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: "k", Version: testVersion(1, []byte("v")), Boot: boot, Heard: heard},
			{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: "k", Version: testVersion(1, []byte("v")), Boot: boot, Heard: heard},
			{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: "large", Version: testVersion(1, make([]byte, 2*fileBytes)), Boot: boot, Heard: heard},
			{Kind: coord.CallDrop, Tenant: "t", Key: "k", Version: testVersion(1, nil), Boot: boot, Heard: heard},
		}
	}
	clock.advance(coord.MessageLifetime + 1)
	for _, call := range messages() {
		if do(n, call); !errors.Is(call.Err, coord.ErrReplicaRefused) || !strings.Contains(call.Err.Error(), "old") {
			t.Errorf("%s of a message that is too old: error %v", call.Kind, call.Err)
		}
	}
	for _, key := range []string{"k", "large"} {
		if got := read(n, "t", key); got.Err != nil || got.Held.Exists() {
			t.Errorf("key %s: got %s, error %v", key, &got.Held.Head, got.Err)
		}
	}
	clock.advance(-1)
	for _, call := range messages() {
		if do(n, call); call.Err != nil {
			t.Errorf("%s of a message as old as may be: %v", call.Kind, call.Err)
		}
	}
}

// TestDeadFor: what ends is held since the node took it in, by its own clock,
// and after a restart since that.
func TestDeadFor(t *testing.T) {
	var clock testClock
	var wall atomic.Int64
	wall.Store(int64(1000 * time.Hour))
	opts := NodeOptions{Dir: t.TempDir(), Clock: clock.read, Wall: func() time.Time { return time.Unix(0, wall.Load()) }}
	n := openTestNode(t, opts)
	dead := func(age time.Duration) (keys []string) {
		t.Helper()
		page, err := n.Scan(t.Context(), coord.ScanRequest{Span: ring.Everything(), DeadFor: age, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			keys = append(keys, item.Position.Key)
		}
		slices.Sort(keys)
		return keys
	}
	want := func(age time.Duration, keys ...string) {
		t.Helper()
		if got := dead(age); !slices.Equal(got, keys) {
			t.Errorf("dead for %v: %q, want %q", age, got, keys)
		}
	}
	clock.advance(time.Hour)
	ends := testVersion(wall.Load()-1, []byte("v"))
	ends.Expires = wall.Load() + int64(30*time.Minute)
	for key, v := range map[string]coord.Version{"gone": deletion(1), "ends": ends, "stays": testVersion(1, []byte("v"))} {
		if call := apply(n, "t", key, v); call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	want(time.Nanosecond)
	clock.advance(20 * time.Minute)
	wall.Add(int64(20 * time.Minute))
	want(20*time.Minute, "gone")
	want(20*time.Minute + 1)
	clock.advance(20 * time.Minute)
	wall.Add(int64(20 * time.Minute))
	want(40*time.Minute, "gone")
	want(10*time.Minute, "ends", "gone") // it ended 10 minutes ago
	want(10*time.Minute+1, "gone")
	// A wall clock that jumps ahead does not make it held any longer.
	wall.Add(int64(100 * time.Hour))
	want(40*time.Minute, "ends", "gone")
	want(40*time.Minute + 1)
	// Another delivery of the same version is no news.
	if call := apply(n, "t", "gone", deletion(1)); call.Err != nil {
		t.Fatal(call.Err)
	}
	want(40*time.Minute, "ends", "gone")

	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	clock.now.Store(0)
	n = openTestNode(t, opts)
	want(time.Nanosecond)
	clock.advance(30 * time.Minute)
	want(30*time.Minute, "ends", "gone")
	want(30*time.Minute + 1)
}

// TestAdoptionFails: a call of an epoch that cannot be made durable has no
// effect, and the epoch is adopted once the store works again.
func TestAdoptionFails(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	if call := apply(n, "t", "k", testVersion(1, []byte("v"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	eventually(t, "the tree is counted", n.tree.ready)
	var failing atomic.Bool
	failing.Store(true)
	n.store.commitFault = func() error {
		if failing.Load() {
			return errors.New("the disk is gone")
		}
		return nil
	}
	call := do(n, &coord.Call{Kind: coord.CallApply, Intent: coord.IntentRepair, Epoch: 5, Tenant: "t", Key: "k", Version: testVersion(2, []byte("w"))})
	if !errors.Is(call.Err, coord.ErrReplicaRefused) {
		t.Errorf("apply at an epoch that cannot be adopted: error %v", call.Err)
	}
	if n.ring.current.Load() != 0 {
		t.Errorf("the node knows epoch %d, which is not durable", n.ring.current.Load())
	}
	failing.Store(false)
	eventually(t, "the store is open again", func() bool {
		got := do(n, &coord.Call{Kind: coord.CallRead, Epoch: 5, Tenant: "t", Key: "k"})
		return got.Err == nil && string(got.Held.Value) == "v"
	})
	if n.ring.current.Load() != 5 {
		t.Errorf("the node knows epoch %d, want 5", n.ring.current.Load())
	}
	if call := apply(n, "t", "other", testVersion(3, []byte("x"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	wantTree(t, n)
}

// TestDropOfAFullDisk: room comes back.
func TestDropOfAFullDisk(t *testing.T) {
	var disk space
	disk.free.Store(900 << 20)
	n := openTestNode(t, NodeOptions{MinFreeBytes: 100 << 20, Space: disk.probe})
	v := testVersion(1, make([]byte, 2*fileBytes))
	if call := apply(n, "t", "k", v); call.Err != nil {
		t.Fatal(call.Err)
	}
	files := func() int {
		entries, err := os.ReadDir(n.values.dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if files() != 1 {
		t.Fatalf("%d value files, want 1", files())
	}
	disk.free.Store(99 << 20)
	eventually(t, "applies are refused", func() bool { return apply(n, "t", "k2", testVersion(1, nil)).Err != nil })
	if call := do(n, &coord.Call{Kind: coord.CallDrop, Tenant: "t", Key: "k", Version: coord.Version{Head: v.Head}}); call.Err != nil || call.Held.Exists() {
		t.Errorf("drop on a full disk: left %s, error %v", &call.Held.Head, call.Err)
	}
	if files() != 0 {
		t.Errorf("%d value files are left, want none", files())
	}
}

// runReaper deletes, drops and adopts, says so a line each, and goes on until
// it is killed.
func runReaper(dir string) error {
	n, err := OpenNode(NodeOptions{ID: "victim", Dir: dir, MinFreeBytes: 1})
	if err != nil {
		return err
	}
	for i := uint64(1); ; i++ {
		key := fmt.Sprint("k", i)
		for _, call := range []*coord.Call{
			{Kind: coord.CallApply, Intent: coord.IntentRepair, Epoch: i, Tenant: "t", Key: key, Version: deletion(int64(i))},
			{Kind: coord.CallDrop, Epoch: i, Tenant: "t", Key: key, Version: deletion(int64(i))},
		} {
			if do(n, call); call.Err != nil {
				return call.Err
			}
		}
		fmt.Println("acknowledged", i)
	}
}

// TestKillKeepsEpochsAndFloors kills a process that drops tombstones at rising
// epochs, and finds each acknowledged epoch and floor in its directory.
func TestKillKeepsEpochsAndFloors(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), reaperDir+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const enough = 500
	acknowledged := uint64(0)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if acknowledged++; acknowledged == enough {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed, as it should be
	if acknowledged < enough {
		t.Fatalf("the process died after %d drops: %s", acknowledged, stderr.String())
	}
	n := openTestNode(t, NodeOptions{ID: "victim", Dir: dir})
	d, err := n.Describe(t.Context())
	if err != nil || d.Epoch < acknowledged || d.Epoch > acknowledged+1 {
		t.Errorf("the node knows epoch %d, %d were acknowledged, error %v", d.Epoch, acknowledged, err)
	}
	if boot, _ := n.Heard(); boot != 2 {
		t.Errorf("the node is in life %d, want 2", boot)
	}
	for i := uint64(1); i <= acknowledged; i++ {
		got := do(n, &coord.Call{Kind: coord.CallHead, Tenant: "t", Key: fmt.Sprint("k", i)})
		if got.Err != nil || got.Held.Exists() || got.Floor < int64(i) {
			t.Fatalf("key %d of %d: got %s and floor %d, error %v", i, acknowledged, &got.Held.Head, got.Floor, got.Err)
		}
	}
	if keys := n.keys.Load(); keys > 1 {
		t.Errorf("%d keys are counted, all were dropped", keys)
	}
}
