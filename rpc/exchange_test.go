package rpc

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// stuckStream sends one operation after another, and takes no reply until it
// is let go.
type stuckStream struct {
	ctx       context.Context
	operation *storagepb.Operation
	count     int
	breaks    bool // with ctx, after count; else it ends in an orderly way
	received  atomic.Int64
	let       chan struct{}
	answered  map[storagepb.Code]int
}

func (s *stuckStream) receive(batch *storagepb.Batch) error {
	n := s.received.Load()
	if n == int64(s.count) {
		if s.breaks {
			<-s.ctx.Done()
			return s.ctx.Err()
		}
		return io.EOF
	}
	s.received.Add(1)
	op := new(storagepb.Operation)
	op.Id, op.Kind, op.Tenant, op.Key = uint64(n+1), s.operation.Kind, s.operation.Tenant, s.operation.Key
	op.Token, op.TimeoutMs = s.operation.Token, s.operation.TimeoutMs
	batch.Operations = append(batch.Operations, op)
	return nil
}

func (s *stuckStream) keep() []byte { return nil }

func (s *stuckStream) send(m *storagepb.BatchReply) error {
	select {
	case <-s.let:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	for _, r := range m.Replies {
		s.answered[r.Code]++
	}
	return nil
}

func newStuckStream(ctx context.Context, count int) *stuckStream {
	return &stuckStream{ctx: ctx, count: count, let: make(chan struct{}), answered: make(map[storagepb.Code]int),
		operation: &storagepb.Operation{Kind: storagepb.Kind_KIND_READ, Tenant: "t", Key: "k",
			Token: uint64(ring.KeyToken("t", "k")), TimeoutMs: 30_000}}
}

func replicaWithValue(size int) *memoryReplica {
	r := newMemoryReplica()
	r.held[coord.Position{Token: ring.KeyToken("t", "k"), Tenant: "t", Key: "k"}] = version(1, make([]byte, size))
	return r
}

func TestSlowReaderHoldsBoundedMemory(t *testing.T) {
	const size, most, count = 100_000, 1 << 20, 1000
	synctest.Test(t, func(t *testing.T) {
		server, err := NewStorageServer(StorageServerOptions{Replica: replicaWithValue(size), MaxBytes: most})
		if err != nil {
			t.Fatal(err)
		}
		stream := newStuckStream(t.Context(), count)
		x := newExchange(server, stream)
		over := make(chan error, 1)
		go func() { over <- x.run(t.Context()) }()
		synctest.Wait()
		if n := stream.received.Load(); n > most/size+10 {
			t.Errorf("%d reads of %d bytes were taken while no reply left, with a bound of %d bytes", n, size, most)
		}
		x.mu.Lock()
		if x.bytes > 2*most {
			t.Errorf("%d bytes wait, with a bound of %d", x.bytes, most)
		}
		x.mu.Unlock()
		close(stream.let)
		if err := <-over; err != nil {
			t.Errorf("the stream ended with %v", err)
		}
		if stream.answered[storagepb.Code_CODE_OK] != count {
			t.Errorf("answered %v, want %d in all", stream.answered, count)
		}
		server.Stop(t.Context())
	})
}

func TestReadsThatFoundTooMuchAreRefused(t *testing.T) {
	const size, most, count = 100_000, 1 << 20, 200
	synctest.Test(t, func(t *testing.T) {
		replica := replicaWithValue(size)
		server, err := NewStorageServer(StorageServerOptions{Replica: replica, MaxBytes: most})
		if err != nil {
			t.Fatal(err)
		}
		stream := newStuckStream(t.Context(), count)
		x := newExchange(server, stream)
		over := make(chan error, 1)
		replica.hold() // all are taken before the first is answered
		go func() { over <- x.run(t.Context()) }()
		synctest.Wait()
		replica.release()
		synctest.Wait()
		x.mu.Lock()
		if x.bytes > 2*most {
			t.Errorf("%d bytes wait, with a bound of %d", x.bytes, most)
		}
		x.mu.Unlock()
		close(stream.let)
		if err := <-over; err != nil {
			t.Errorf("the stream ended with %v", err)
		}
		if ok, no := stream.answered[storagepb.Code_CODE_OK], stream.answered[storagepb.Code_CODE_REFUSED]; ok == 0 || no == 0 || ok+no != count {
			t.Errorf("answered %v, want some of each kind, %d in all", stream.answered, count)
		}
		server.Stop(t.Context())
	})
}

func TestAStreamThatBreaksLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replica := replicaWithValue(100)
		server, err := NewStorageServer(StorageServerOptions{Replica: replica, MaxOperations: 10})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stream := newStuckStream(ctx, 10)
		stream.breaks = true
		x := newExchange(server, stream)
		over := make(chan error, 1)
		replica.hold()
		go func() { over <- x.run(t.Context()) }()
		synctest.Wait()
		if n := replica.waits(); n != 10 {
			t.Errorf("%d operations are under way, want 10", n)
		}
		cancel()
		if err := <-over; err == nil {
			t.Error("the stream ended without an error")
		}
		replica.release()
		synctest.Wait()
		if x.underWay != 0 {
			t.Errorf("%d operations are under way after the end", x.underWay)
		}
		server.Stop(context.Background())
	})
}

func TestNoMoreOperationsAreTakenThanMayBeUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replica := replicaWithValue(100)
		server, err := NewStorageServer(StorageServerOptions{Replica: replica, MaxOperations: 10})
		if err != nil {
			t.Fatal(err)
		}
		stream := newStuckStream(t.Context(), 100)
		close(stream.let)
		x := newExchange(server, stream)
		over := make(chan error, 1)
		replica.hold()
		go func() { over <- x.run(t.Context()) }()
		synctest.Wait()
		if n := replica.waits(); n != 10 {
			t.Errorf("%d operations are under way, want 10", n)
		}
		replica.release()
		if err := <-over; err != nil || stream.answered[storagepb.Code_CODE_OK] != 100 {
			t.Errorf("the stream ended with %v, answered %v", err, stream.answered)
		}
		server.Stop(context.Background())
	})
}
