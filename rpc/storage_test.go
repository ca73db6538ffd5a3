package rpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

func version(timestamp int64, value []byte) coord.Version {
	v := coord.Version{Value: value}
	v.Timestamp = timestamp
	v.Writer = coord.Writer{ID: "c1", Incarnation: 1}
	v.Clock = coord.Clock{{ID: "c1", Counter: 1, Updated: timestamp}}
	return v
}

func applyCall(key string, v coord.Version, caller coord.Caller) *coord.Call {
	return &coord.Call{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
		Deadline: time.Now().Add(10 * time.Second), Version: v, Caller: caller}
}

func readCall(key string, in time.Duration, caller coord.Caller) *coord.Call {
	return &coord.Call{Kind: coord.CallRead, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
		Deadline: time.Now().Add(in), Caller: caller}
}

func wantKind(t *testing.T, err error, refused, unavailable bool) {
	t.Helper()
	if errors.Is(err, coord.ErrReplicaRefused) != refused || errors.Is(err, coord.ErrReplicaUnavailable) != unavailable {
		t.Errorf("got error %v, want one that is refused: %t, unavailable: %t", err, refused, unavailable)
	}
}

func TestErrorsOfAReplicaKeepTheirKind(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{})
	done := make(ended, 1)
	for _, c := range []struct {
		err   error
		kinds []error
		not   []error
	}{
		{fmt.Errorf("%w: too new", coord.ErrReplicaRefused), []error{coord.ErrReplicaRefused}, []error{coord.ErrReplicaUnavailable, coord.ErrDiskFull}},
		{fmt.Errorf("%w: 3 MiB left", coord.ErrDiskFull), []error{coord.ErrReplicaRefused, coord.ErrDiskFull}, []error{coord.ErrReplicaUnavailable}},
		{fmt.Errorf("%w: closing", coord.ErrReplicaUnavailable), []error{coord.ErrReplicaUnavailable}, []error{coord.ErrReplicaRefused}},
		{fmt.Errorf("%w: bad head", coord.ErrCorrupt), []error{coord.ErrReplicaUnavailable, coord.ErrCorrupt}, []error{coord.ErrReplicaRefused}},
		{errUnexpected, []error{coord.ErrReplicaUnavailable}, []error{coord.ErrReplicaRefused}},
	} {
		replica.failWith(c.err)
		client.Do(applyCall("k", version(1, nil), done))
		got := done.wait(t).Err
		for _, kind := range c.kinds {
			if !errors.Is(got, kind) {
				t.Errorf("%v arrived as %v, which is not %v", c.err, got, kind)
			}
		}
		for _, kind := range c.not {
			if errors.Is(got, kind) {
				t.Errorf("%v arrived as %v, which is %v", c.err, got, kind)
			}
		}
		if got == nil || got.Error() != c.err.Error() {
			t.Errorf("%v arrived with the text %v", c.err, got)
		}
	}
}

func TestUnconnectedNodeRefusesAtOnce(t *testing.T) {
	lis := listen(t)
	address := lis.Addr().String()
	lis.Close()
	client, err := DialStorage(StorageOptions{Address: address, NodeID: "storage-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	done := make(ended, 1)
	client.Do(readCall("k", time.Hour, done))
	wantKind(t, done.wait(t).Err, true, true)
	eventually(t, "the client says why", func() bool {
		err := client.Unavailable()
		return err != nil && strings.Contains(err.Error(), "connection refused") && strings.Contains(err.Error(), "storage-1")
	})
	if _, err := client.Describe(testContext(t)); !errors.Is(err, coord.ErrReplicaUnavailable) {
		t.Errorf("describe: got %v", err)
	}
	if _, err := client.Scan(testContext(t), coord.ScanRequest{Span: ring.Everything(), Tenant: "t", Limit: 1}); !errors.Is(err, coord.ErrReplicaUnavailable) {
		t.Errorf("scan: got %v", err)
	}
}

func TestReturnedNodeIsUsedWithinASecond(t *testing.T) {
	replica := newMemoryReplica()
	node := startStorage(t, replica)
	client := node.connect(StorageOptions{})
	done := make(ended, 100)

	replica.hold()
	for i := range 10 {
		client.Do(applyCall(fmt.Sprint(i), version(int64(i+1), []byte("v")), done))
	}
	eventually(t, "the calls have arrived", func() bool { return replica.waits() == 10 })
	node.kill()
	for range 10 {
		wantKind(t, done.wait(t).Err, false, true)
	}
	replica.release()
	eventually(t, "the client knows", func() bool { return client.Unavailable() != nil })
	// Long enough for the pauses between attempts to have grown to their most.
	time.Sleep(2 * retryMax)

	node.start()
	returned := time.Now()
	for {
		client.Do(readCall("3", time.Second, done))
		if c := done.wait(t); c.Err == nil {
			if string(c.Held.Value) != "v" {
				t.Errorf("read %q", c.Held.Value)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(returned); took > time.Second {
		t.Errorf("the node was used %v after its return, want within a second", took)
	}
	eventually(t, "large values are carried again", func() bool { return client.large.unavailable() == nil })
}

func TestFullQueueRefusesAtOnce(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{MaxCalls: 8, MaxBytes: 100_000})
	done := make(ended, 100)
	replica.hold()
	for range 8 {
		client.Do(readCall("k", 10*time.Second, done))
	}
	client.Do(readCall("k", 10*time.Second, done))
	wantKind(t, done.wait(t).Err, true, true)
	replica.release()
	for range 8 {
		if err := done.wait(t).Err; err != nil {
			t.Error(err)
		}
	}
	replica.hold()
	client.Do(applyCall("k", version(1, make([]byte, 90_000)), done))
	client.Do(applyCall("k", version(1, make([]byte, 20_000)), done))
	wantKind(t, done.wait(t).Err, true, true)
	replica.release()
	if err := done.wait(t).Err; err != nil {
		t.Error(err)
	}
}

func TestDeadlinesAreSwept(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{HungAfter: time.Hour})
	done := make(ended, 100)
	replica.hold()
	began := time.Now()
	client.Do(readCall("k", 50*time.Millisecond, done))
	wantKind(t, done.wait(t).Err, false, true)
	if took := time.Since(began); took < 50*time.Millisecond || took > 5*time.Second {
		t.Errorf("the call ended after %v, want shortly after 50ms", took)
	}
	// Its late answer must not meet the call that now has its place.
	next := applyCall("other", version(7, []byte("v")), done)
	client.Do(next)
	eventually(t, "the next call waits too", func() bool { return replica.waits() == 2 })
	replica.release()
	if c := done.wait(t); c != next || c.Err != nil || c.Held.Timestamp != 7 {
		t.Errorf("got %+v, want the answer to the apply", c)
	}
	client.Do(readCall("k", -time.Second, done))
	wantKind(t, done.wait(t).Err, true, true)
	select {
	case c := <-done:
		t.Errorf("a call ended twice: %+v", c)
	default:
	}
}

func TestSilentNodeIsLeftAloneUntilItAnswers(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{HungAfter: 50 * time.Millisecond})
	done := make(ended, 100)
	for _, wakes := range []func(){replica.release, replica.forget} {
		replica.hold()
		client.Do(readCall("k", 20*time.Millisecond, done))
		wantKind(t, done.wait(t).Err, false, true)
		eventually(t, "the node counts as hung", func() bool {
			err := client.Unavailable()
			return err != nil && strings.Contains(err.Error(), "silent")
		})
		client.Do(readCall("k", time.Minute, done))
		wantKind(t, done.wait(t).Err, true, true)
		wakes()
		eventually(t, "the node is used again", func() bool { return client.Unavailable() == nil })
		client.Do(readCall("k", 10*time.Second, done))
		if err := done.wait(t).Err; err != nil {
			t.Error(err)
		}
	}
}

func TestIdleNodeIsNotHung(t *testing.T) {
	client := startStorage(t, newMemoryReplica()).connect(StorageOptions{HungAfter: 20 * time.Millisecond})
	done := make(ended, 1)
	for range 5 {
		client.Do(readCall("k", 10*time.Second, done))
		if err := done.wait(t).Err; err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		if err := client.Unavailable(); err != nil {
			t.Errorf("after a pause: %v", err)
		}
	}
}

func TestAnotherNodeAtTheAddressIsNotUsed(t *testing.T) {
	node := startStorage(t, newMemoryReplica())
	for want, opts := range map[string]StorageOptions{
		`node "storage-1" answers there, want "storage-2"`: {NodeID: "storage-2"},
		"the data directory there is uuid-1, want uuid-2":  {NodeID: "storage-1", UUID: "uuid-2"},
	} {
		opts.Address = node.address
		client, err := DialStorage(opts)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		eventually(t, want, func() bool {
			err := client.Unavailable()
			return err != nil && strings.Contains(err.Error(), want)
		})
	}
}

func TestLargeValuesTravelApart(t *testing.T) {
	replica := newMemoryReplica()
	node := startStorage(t, replica)
	client := node.connect(StorageOptions{})
	done := make(ended, 10)
	large := bytes.Repeat([]byte("0123456789abcdef"), 10<<16)
	client.Do(applyCall("large", version(5, large), done))
	if c := done.wait(t); c.Err != nil || c.Held.Timestamp != 5 || c.Held.Value != nil {
		t.Fatalf("apply: %v, held %v with %d bytes", c.Err, &c.Held.Head, len(c.Held.Value))
	}
	client.Do(readCall("large", 10*time.Second, done))
	if c := done.wait(t); c.Err != nil || !bytes.Equal(c.Held.Value, large) {
		t.Errorf("read: %v, %d bytes", c.Err, len(c.Held.Value))
	}

	stream := greet(t, node.address)
	op := &storagepb.Operation{Id: 1, Kind: storagepb.Kind_KIND_READ, Tenant: "t", Key: "large",
		Token: uint64(ring.KeyToken("t", "large")), TimeoutMs: 5000}
	stream.ask(&storagepb.Batch{Operations: []*storagepb.Operation{op}})
	m, err := stream.replies()
	if err != nil || len(m.Replies) != 1 || m.Replies[0].Code != storagepb.Code_CODE_LARGE_VALUE || m.Replies[0].Held != nil {
		t.Errorf("a large value on the connection for small ones: %v, %v", m, err)
	}
	if err := stream.conn.(*pacedConn).Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.replies(); err != io.EOF {
		t.Errorf("after the end: %v, %v", m, err)
	}
}

func TestMalformedOperationsAreRefused(t *testing.T) {
	replica := newMemoryReplica()
	node := startStorage(t, replica)
	stream := greet(t, node.address)
	whole := func() *storagepb.Operation {
		return &storagepb.Operation{Kind: storagepb.Kind_KIND_APPLY, Tenant: "t", Key: "k", TimeoutMs: 5000,
			Intent:  storagepb.Intent_INTENT_WRITE,
			Version: &storagepb.Version{Timestamp: 1, WriterId: "c1", Clock: []*storagepb.ClockEntry{{Id: "c1", Counter: 1, Updated: 1}}}}
	}
	spoils := []func(*storagepb.Operation){
		func(o *storagepb.Operation) { o.Kind = 9 },
		func(o *storagepb.Operation) { o.TimeoutMs = 0 },
		func(o *storagepb.Operation) { o.Key = strings.Repeat("k", 1025) },
		func(o *storagepb.Operation) { o.Intent = 0 },
		func(o *storagepb.Operation) { o.Version = nil },
		func(o *storagepb.Operation) { o.Version.Timestamp = 0 },
		func(o *storagepb.Operation) { o.Version.WriterId = "" },
		func(o *storagepb.Operation) { o.Version.Clock = append(o.Version.Clock, o.Version.Clock[0]) },
		func(o *storagepb.Operation) { o.Version.Clock[0].Updated = 2 },
		func(o *storagepb.Operation) { o.Version.Tombstone, o.Version.Value = true, []byte("v") },
	}
	batch := &storagepb.Batch{}
	for i, spoil := range spoils {
		op := whole()
		op.Id = uint64(i + 1)
		spoil(op)
		batch.Operations = append(batch.Operations, op)
	}
	stream.ask(batch)
	for seen := 0; seen < len(spoils); {
		m, err := stream.replies()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range m.Replies {
			if r.Code != storagepb.Code_CODE_REFUSED || r.Text == "" {
				t.Errorf("operation %d: answered %v", r.Id, r)
			}
			seen++
		}
	}
	if replica.started.Load() != 0 {
		t.Error("the replica was asked")
	}
}

func TestScanPagesAreCut(t *testing.T) {
	replica := newMemoryReplica()
	pad := strings.Repeat("k", 1000)
	const keys = 6000
	for i := range keys {
		key := fmt.Sprintf("%s%06d", pad, i)
		replica.held[coord.Position{Token: ring.KeyToken("t", key), Tenant: "t", Key: key}] = version(int64(i+1), nil)
	}
	client := startStorage(t, replica).connect(StorageOptions{})
	var after *coord.Position
	seen, pages := 0, 0
	for {
		page, err := client.Scan(testContext(t), coord.ScanRequest{Span: ring.Everything(), Tenant: "t", After: after, Limit: coord.MaxScanPage})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			if after != nil && item.Position.Compare(*after) <= 0 {
				t.Fatal("items are out of order")
			}
			p := item.Position
			after = &p
		}
		seen, pages = seen+len(page.Items), pages+1
		if page.Next == nil {
			break
		}
		after = page.Next
	}
	if seen != keys || pages < 2 {
		t.Errorf("%d keys in %d pages, want %d in more than one", seen, pages, keys)
	}
	if _, err := client.Scan(testContext(t), coord.ScanRequest{Span: ring.Everything(), Tenant: "t", Limit: 0}); err == nil {
		t.Error("a scan of no keys was accepted")
	}
}

func TestCloseFinishesWhatIsUnderWay(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{})
	done := make(ended, 10)
	replica.hold()
	client.Do(readCall("k", time.Hour, done))
	eventually(t, "the call has arrived", func() bool { return replica.waits() == 1 })
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := done.wait(t).Err; !errors.Is(err, coord.ErrReplicaUnavailable) {
		t.Errorf("got %v", err)
	}
	replica.release()
}

func TestStorageServerStopAnswersWhatIsUnderWay(t *testing.T) {
	replica := newMemoryReplica()
	node := startStorage(t, replica)
	client := node.connect(StorageOptions{})
	health := grpc_health_v1.NewHealthClient(dial(t, node.address))
	if s, err := health.Check(testContext(t), &grpc_health_v1.HealthCheckRequest{}); err != nil || s.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", s, err)
	}
	done := make(ended, 10)
	replica.hold()
	client.Do(applyCall("k", version(1, nil), done))
	eventually(t, "the call has arrived", func() bool { return replica.waits() == 1 })
	stopped := make(chan struct{})
	go func() {
		node.server.Stop(testContext(t))
		close(stopped)
	}()
	eventually(t, "the server stops", node.server.isStopping)
	client.Do(readCall("k", 10*time.Second, done))
	wantKind(t, done.wait(t).Err, true, false)
	replica.release()
	if err := done.wait(t).Err; err != nil {
		t.Error(err)
	}
	<-stopped
}

func TestStorageConnectionsAreLimited(t *testing.T) {
	server, err := NewStorageServer(StorageServerOptions{Replica: newMemoryReplica(), MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t)
	go server.Serve(lis)
	defer server.Stop(testContext(t))
	first, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	eventually(t, "one connection is open", func() bool { return server.Connections() == 1 })
	conn := dial(t, lis.Addr().String())
	_, err = storagepb.NewStorageServiceClient(conn).Describe(testContext(t), &storagepb.DescribeRequest{})
	if status.Code(err) != codes.Unavailable || server.RefusedConnections() == 0 {
		t.Errorf("got %v, %d connections refused", err, server.RefusedConnections())
	}
}

// tally counts finished calls.
type tally struct {
	sync.WaitGroup
	mu     sync.Mutex
	failed error
}

func (c *tally) Done(call *coord.Call) {
	if call.Err != nil {
		c.mu.Lock()
		c.failed = call.Err
		c.mu.Unlock()
	}
	c.WaitGroup.Done()
}

func TestManyCallsAtOnce(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{})
	var all tally
	const writers, each = 8, 400
	all.Add(writers * each)
	for w := range writers {
		go func() {
			for i := range each {
				client.Do(applyCall(fmt.Sprint(w, "-", i), version(int64(i+1), []byte("value")), &all))
			}
		}()
	}
	all.Wait()
	if all.failed != nil {
		t.Fatal(all.failed)
	}
	if len(replica.held) != writers*each {
		t.Errorf("%d keys are held, want %d", len(replica.held), writers*each)
	}
}

// loop is a caller that starts its call again until enough have ended.
type loop struct {
	client *StorageClient
	left   chan struct{}
	end    *sync.WaitGroup
	b      *testing.B
}

func (l *loop) Done(c *coord.Call) {
	if c.Err != nil {
		l.b.Error(c.Err)
		l.end.Done()
		return
	}
	select {
	case <-l.left:
		c.Deadline = time.Now().Add(10 * time.Second)
		l.client.Do(c)
	default:
		l.end.Done()
	}
}

// BenchmarkStream measures operations on one node over loopback, 64 at a
// time, with client and server in this process.
func BenchmarkStream(b *testing.B) {
	for _, kind := range []coord.CallKind{coord.CallHead, coord.CallRead, coord.CallApply} {
		b.Run(kind.String(), func(b *testing.B) {
			replica := newMemoryReplica()
			client := startStorage(b, replica).connect(StorageOptions{})
			done := make(ended, 1)
			client.Do(applyCall("key-0001", version(1, make([]byte, 100)), done))
			done.wait(b)
			const atOnce = 64
			l := &loop{client: client, left: make(chan struct{}, b.N), end: new(sync.WaitGroup), b: b}
			for range b.N {
				l.left <- struct{}{}
			}
			l.end.Add(atOnce)
			b.ReportAllocs()
			b.ResetTimer()
			for range atOnce {
				c := applyCall("key-0001", version(2, make([]byte, 100)), l)
				c.Kind = kind
				client.Do(c)
			}
			l.end.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}
