package badger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
	"github.com/pairdb/coordinator/ring"
)

func openTestNode(t testing.TB, opts NodeOptions) *Node {
	t.Helper()
	if opts.ID == "" {
		opts.ID = "storage-1"
	}
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.MinFreeBytes == 0 {
		opts.MinFreeBytes = 1
	}
	n, err := OpenNode(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

type finished chan *coord.Call

func (f finished) Done(c *coord.Call) { f <- c }

func do(n *Node, call *coord.Call) *coord.Call {
	done := make(finished, 1)
	call.Caller = done
	call.Token = ring.KeyToken(call.Tenant, call.Key)
	n.Do(call)
	return <-done
}

func apply(n *Node, tenant, key string, v coord.Version) *coord.Call {
	return do(n, &coord.Call{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: tenant, Key: key, Version: v})
}

func read(n *Node, tenant, key string) *coord.Call {
	return do(n, &coord.Call{Kind: coord.CallRead, Tenant: tenant, Key: key})
}

func testVersion(timestamp int64, value []byte) coord.Version {
	return coord.Version{Head: coord.Head{
		Timestamp: timestamp, Writer: coord.Writer{ID: "c1", Incarnation: 1},
		Clock: coord.Clock{{ID: "c1", Counter: timestamp, Updated: timestamp}},
	}, Value: value}
}

func TestNodeConformance(t *testing.T) {
	for _, opts := range []NodeOptions{{Profile: Small}, {Profile: Large, Sync: true}} {
		t.Run(fmt.Sprintf("sync %t", opts.Sync), func(t *testing.T) {
			conformance.Replica(t, conformance.ReplicaSuite{
				Open: func(t *testing.T) coord.Replica { return openTestNode(t, opts) },
				OpenNarrow: func(t *testing.T) coord.Replica {
					narrow := opts
					narrow.MaxQueuedCalls = 4
					return openTestNode(t, narrow)
				},
				Reopen: func(t *testing.T, r coord.Replica) coord.Replica {
					n := r.(*Node)
					if err := n.Close(); err != nil {
						t.Fatal(err)
					}
					return openTestNode(t, n.opts)
				},
			})
		})
	}
}

func TestNodeRefusesAnotherNodesDirectory(t *testing.T) {
	dir := t.TempDir()
	n := openTestNode(t, NodeOptions{ID: "a", Dir: dir})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenNode(NodeOptions{ID: "b", Dir: dir}); err == nil || !strings.Contains(err.Error(), `belongs to node "a"`) {
		t.Errorf("open under another id: got error %v", err)
	}
	if _, err := OpenClaims(ClaimsOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), kindNode) {
		t.Errorf("open as claims: got error %v", err)
	}
	openTestNode(t, NodeOptions{ID: "a", Dir: dir})
}

func TestNodeDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	openTestNode(t, NodeOptions{Dir: dir})
	if _, err := OpenNode(NodeOptions{ID: "storage-1", Dir: dir}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("in this process: got error %v, want ErrInUse naming %s", err, dir)
	}
	held := filepath.Join(t.TempDir(), "held")
	if err := os.MkdirAll(filepath.Join(held, "node"), 0o700); err != nil {
		t.Fatal(err)
	}
	openTestNode(t, NodeOptions{ID: "victim", Dir: filepath.Join(held, "node")})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+held)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrInUse.Error()) {
		t.Errorf("in another process: got %v, output %s", err, out)
	}
}

func TestNodeIsolatesCorruptRecord(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	key := appendKey(nil, nsRecord, ring.KeyToken("t", "bad"), "t", "bad")
	separate := appendRecord(nil, &testVersionHead, make([]byte, 10_000), valueRef{}, moment{})
	lost := appendKey(nil, nsRecord, ring.KeyToken("t", "lost"), "t", "lost")
	if err := n.store.commit([]change{{key: key, value: []byte{recordFormat, 0, 99}}, {key: lost, value: separate}}, nil); err != nil {
		t.Fatal(err)
	}
	if call := read(n, "t", "bad"); !errors.Is(call.Err, coord.ErrCorrupt) || !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
		t.Errorf("read of a corrupt record: got error %v", call.Err)
	}
	if call := read(n, "t", "lost"); !errors.Is(call.Err, coord.ErrCorrupt) {
		t.Errorf("read of a record whose value is lost: got error %v", call.Err)
	}
	if call := apply(n, "t", "bad", testVersion(5, nil)); !errors.Is(call.Err, coord.ErrCorrupt) || !errors.Is(call.Err, coord.ErrReplicaRefused) {
		t.Errorf("apply to a corrupt record: got error %v", call.Err)
	}
	if call := apply(n, "t", "good", testVersion(5, nil)); call.Err != nil {
		t.Errorf("apply to another key: %v", call.Err)
	}
	if call := apply(n, "t", "lost", testVersion(50, []byte("new"))); call.Err != nil {
		t.Errorf("apply to a key whose value is lost: %v", call.Err)
	}
	if call := read(n, "t", "lost"); call.Err != nil || string(call.Held.Value) != "new" {
		t.Errorf("read of a replaced value: got %q, error %v", call.Held.Value, call.Err)
	}
}

var testVersionHead = testVersion(7, nil).Head

// space is a disk whose room a test sets.
type space struct{ free atomic.Uint64 }

func (s *space) probe(string) (DiskSpace, error) {
	return DiskSpace{Free: s.free.Load(), Total: 1000 << 20}, nil
}

func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !met() {
		if time.Now().After(deadline) {
			t.Fatalf("not met within 10 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestNodeDiskFull(t *testing.T) {
	var disk space
	disk.free.Store(900 << 20)
	var mu sync.Mutex
	var warnings []string
	n := openTestNode(t, NodeOptions{MinFreeBytes: 100 << 20, Space: disk.probe, Warn: func(m string) {
		mu.Lock()
		defer mu.Unlock()
		warnings = append(warnings, m)
	}})
	if call := apply(n, "t", "k", testVersion(1, []byte("v"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	disk.free.Store(99 << 20)
	eventually(t, "applies are refused", func() bool {
		call := apply(n, "t", "k", testVersion(2, []byte("w")))
		return errors.Is(call.Err, coord.ErrDiskFull) && errors.Is(call.Err, coord.ErrReplicaRefused)
	})
	if call := read(n, "t", "k"); call.Err != nil || !call.Held.Live(time.Now()) {
		t.Errorf("read from a full node: got %s, error %v", &call.Held.Head, call.Err)
	}
	if err := n.Unavailable(); err != nil {
		t.Errorf("a full node can be read, and yet it is unavailable: %v", err)
	}
	d, err := n.Describe(t.Context())
	if err != nil || d.DiskUsedFraction < 0.9 || d.DiskUsedFraction > 0.91 {
		t.Errorf("got %+v, error %v", d, err)
	}
	disk.free.Store(500 << 20)
	eventually(t, "applies are accepted again", func() bool {
		return apply(n, "t", "k", testVersion(3, []byte("x"))).Err == nil
	})
	mu.Lock()
	defer mu.Unlock()
	if len(warnings) == 0 || !strings.Contains(warnings[0], "disk full") {
		t.Errorf("warnings: %q", warnings)
	}
}

// TestNodeLooksWhileItWrites checks that a burst of writes is not first
// noticed by the periodic look.
func TestNodeLooksWhileItWrites(t *testing.T) {
	var disk space
	disk.free.Store(9 << 20)
	n := openTestNode(t, NodeOptions{MinFreeBytes: 8 << 20, Space: disk.probe})
	disk.free.Store(7 << 20)
	value := make([]byte, 2<<20)
	if call := apply(n, "t", "k", testVersion(1, value)); !errors.Is(call.Err, coord.ErrDiskFull) {
		t.Errorf("got error %v, want ErrDiskFull", call.Err)
	}
}

func TestNodeRecoversFromFailedCommit(t *testing.T) {
	for _, cause := range []error{errors.New("input/output error"), syscall.ENOSPC} {
		t.Run(cause.Error(), func(t *testing.T) {
			n := openTestNode(t, NodeOptions{})
			if call := apply(n, "t", "k", testVersion(1, []byte("first"))); call.Err != nil {
				t.Fatal(call.Err)
			}
			var fail atomic.Bool
			fail.Store(true)
			n.store.commitFault = func() error {
				if fail.Swap(false) {
					return cause
				}
				return nil
			}
			if call := apply(n, "t", "k", testVersion(2, []byte("second"))); !errors.Is(call.Err, coord.ErrReplicaUnavailable) || errors.Is(call.Err, coord.ErrReplicaRefused) {
				t.Fatalf("the failed commit: got error %v, want ErrReplicaUnavailable", call.Err)
			}
			eventually(t, "the store is open again", func() bool {
				call := read(n, "t", "k")
				return call.Err == nil && string(call.Held.Value) == "first"
			})
			head := do(n, &coord.Call{Kind: coord.CallHead, Tenant: "t", Key: "k"})
			if head.Err != nil || head.Held.Timestamp != 1 {
				t.Errorf("head after a failed commit: got %s, error %v", &head.Held.Head, head.Err)
			}
			eventually(t, "applies are accepted again", func() bool {
				return apply(n, "t", "k2", testVersion(3, []byte("third"))).Err == nil
			})
			if keys := n.keys.Load(); keys != 2 {
				t.Errorf("%d keys are counted, want 2", keys)
			}
		})
	}
}

// TestNodeFinishesOverdueCalls hangs a commit, as a disk may, and expects calls
// that wait for it, and behind it, to be finished once their deadline passed.
func TestNodeFinishesOverdueCalls(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	hung, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	n.store.commitFault = func() error {
		once.Do(func() { close(hung) })
		<-release
		return nil
	}
	done := make(finished, 2)
	send := func(key string) {
		n.Do(&coord.Call{
			Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
			Version: testVersion(1, []byte("v")), Deadline: time.Now().Add(100 * time.Millisecond), Caller: done,
		})
	}
	send("under way")
	<-hung
	send("waiting")
	for range 2 {
		call := <-done
		want := coord.ErrReplicaRefused
		if call.Key == "under way" {
			want = coord.ErrReplicaUnavailable
		}
		if !errors.Is(call.Err, want) {
			t.Errorf("%s: got error %v, want %v", call.Key, call.Err, want)
		}
	}
	if call := read(n, "t", "under way"); call.Err != nil || call.Held.Exists() {
		t.Errorf("read during a commit: got %s, error %v", &call.Held.Head, call.Err)
	}
	close(release)
	eventually(t, "the commit shows", func() bool { return read(n, "t", "under way").Held.Exists() })
	if call := read(n, "t", "waiting"); call.Err != nil || call.Held.Exists() {
		t.Errorf("a refused apply took effect: %s, error %v", &call.Held.Head, call.Err)
	}
}

func TestNodeAfterClose(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	const calls = 2000
	done := make(finished, 2*calls)
	var group sync.WaitGroup
	group.Go(func() {
		for i := range calls {
			key := fmt.Sprint("k", i)
			token := ring.KeyToken("t", key)
			n.Do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: token, Version: testVersion(1, nil), Caller: done})
			n.Do(&coord.Call{Kind: coord.CallRead, Tenant: "t", Key: key, Token: token, Caller: done})
		}
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	for range 2 * calls {
		call := <-done
		if call.Err != nil && !errors.Is(call.Err, coord.ErrReplicaUnavailable) && !errors.Is(call.Err, coord.ErrReplicaRefused) {
			t.Fatalf("%s: got error %v", call.Kind, call.Err)
		}
	}
	for _, kind := range []coord.CallKind{coord.CallHead, coord.CallRead, coord.CallApply} {
		if call := do(n, &coord.Call{Kind: kind, Tenant: "t", Key: "k"}); !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
			t.Errorf("%s after close: got error %v", kind, call.Err)
		}
	}
	if err := n.Unavailable(); !errors.Is(err, coord.ErrReplicaUnavailable) {
		t.Errorf("after close: %v", err)
	}
	if _, err := n.Scan(context.Background(), coord.ScanRequest{Span: ring.Everything(), Tenant: "t", Limit: 1}); !errors.Is(err, coord.ErrReplicaUnavailable) {
		t.Errorf("scan after close: %v", err)
	}
}

// TestNodeSplitsBatch commits more in one batch than fits in a transaction.
func TestNodeSplitsBatch(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	c := newCommitter(n)
	const calls = 800 // of 4 KiB each, where a transaction holds 1.2 MiB
	done := make(finished, calls)
	for i := range calls {
		key := fmt.Sprint("k", i)
		c.calls = append(c.calls, &coord.Call{
			Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
			Version: testVersion(int64(i+1), bytes.Repeat([]byte{byte(i)}, inlineBytes)), Caller: done,
		})
	}
	c.decide(c.calls)
	before := n.store.versions.committed.Load()
	c.commit(0, len(c.staged))
	c.finish()
	if n.store.versions.committed.Load() < before+2 {
		t.Error("the batch fitted into one transaction")
	}
	for range calls {
		if call := <-done; call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	for i := range calls {
		if call := read(n, "t", fmt.Sprint("k", i)); call.Err != nil || call.Held.Timestamp != int64(i+1) || len(call.Held.Value) != inlineBytes {
			t.Fatalf("key %d: got %s, error %v", i, &call.Held.Head, call.Err)
		}
	}
	if keys := n.keys.Load(); keys != calls {
		t.Errorf("%d keys are counted, want %d", keys, calls)
	}
}

// TestScanBoundsWork scans for a tenant with few keys among many of another.
func TestScanBoundsWork(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	const others = maxScanVisits + 1000
	var changes []change
	for i := range others {
		key := fmt.Sprint("k", i)
		changes = append(changes, change{
			key:   appendKey(nil, nsRecord, ring.KeyToken("many", key), "many", key),
			value: appendRecord(nil, &testVersionHead, nil, valueRef{}, moment{}),
		})
		if len(changes) == 4000 || i == others-1 {
			if err := n.store.commit(changes, nil); err != nil {
				t.Fatal(err)
			}
			changes = nil
		}
	}
	apply(n, "few", "k", testVersion(1, nil))
	var items []coord.ScanItem
	pages := 0
	for req := (coord.ScanRequest{Span: ring.Everything(), Tenant: "few", Limit: 10}); ; pages++ {
		page, err := n.Scan(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, page.Items...)
		if req.After = page.Next; page.Next == nil {
			break
		}
	}
	if len(items) != 1 || items[0].Position.Key != "k" || pages < 1 {
		t.Errorf("got %d items in %d pages, want 1 in more than one", len(items), pages+1)
	}
}

// TestIdleMemory holds what an idle development process may cost.
func TestIdleMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var nodes []*Node
	for i := range 3 {
		nodes = append(nodes, openTestNode(t, NodeOptions{ID: fmt.Sprint("storage-", i)}))
	}
	openTestClaims(t, ClaimsOptions{})
	for _, n := range nodes {
		for i := range 100 {
			apply(n, "t", fmt.Sprint(i), testVersion(1, make([]byte, 100)))
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) >> 20
	t.Logf("heap and stacks grew by %d MiB", grown)
	if grown > 90 {
		t.Errorf("three nodes and a claim store hold %d MiB, want at most 90", grown)
	}
}
