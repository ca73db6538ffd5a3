package rpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/codec"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const (
	kindWrite  = pb.PipelineOperation_KIND_WRITE
	kindDelete = pb.PipelineOperation_KIND_DELETE
	kindRead   = pb.PipelineOperation_KIND_READ
)

// instant is an Engine that answers at once, before the start has returned.
type instant struct {
	script
	value []byte
}

var instantClock = coord.Clock{{ID: "c1", Counter: 1}}

func (e *instant) Write(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
	return coord.WriteResult{Clock: instantClock, Replicas: 2, Level: coord.Quorum}, nil
}

func (e *instant) Read(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
	return coord.ReadResult{Clock: instantClock, Value: e.value, UpdatedAt: time.UnixMilli(1)}, nil
}

func (e *instant) StartWrite(r coord.WriteRequest, w coord.Waiter) {
	w.Written(e.Write(context.Background(), r))
}

func (e *instant) StartRead(r coord.ReadRequest, w coord.Waiter) {
	w.Found(e.Read(context.Background(), r))
}

// held is an Engine whose reads wait until the test answers them, in whatever order.
type held struct {
	instant
	mu      sync.Mutex
	waiting map[string]coord.Waiter // by key
}

func (h *held) StartRead(r coord.ReadRequest, w coord.Waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting == nil {
		h.waiting = make(map[string]coord.Waiter)
	}
	h.waiting[r.Key] = w
}

func (h *held) waits() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting)
}

// answer ends the read of a key with its value.
func (h *held) answer(key, value string) {
	h.mu.Lock()
	w := h.waiting[key]
	delete(h.waiting, key)
	h.mu.Unlock()
	w.Found(coord.ReadResult{Value: []byte(value), UpdatedAt: time.UnixMilli(1)}, nil)
}

// pipe is the client's side of a stream.
type pipe struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[pb.PipelineRequest, pb.PipelineResponse]
	left   []*pb.PipelineAnswer // received and not yet taken
}

func openPipe(t testing.TB, ctx context.Context, conn grpc.ClientConnInterface) *pipe {
	t.Helper()
	stream, err := pb.NewCoordinatorServiceClient(conn).Pipeline(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &pipe{t: t, stream: stream}
}

func (p *pipe) send(ops ...*pb.PipelineOperation) {
	p.t.Helper()
	if err := p.stream.Send(&pb.PipelineRequest{Operations: ops}); err != nil {
		p.t.Fatal(err)
	}
}

// next is the next answer.
func (p *pipe) next() *pb.PipelineAnswer {
	p.t.Helper()
	for len(p.left) == 0 {
		m, err := p.stream.Recv()
		if err != nil {
			p.t.Fatalf("the stream ended with %v, want an answer", err)
		}
		p.left = m.Answers
	}
	a := p.left[0]
	p.left = p.left[1:]
	return a
}

// take is the next n answers by id.
func (p *pipe) take(n int) map[uint64]*pb.PipelineAnswer {
	p.t.Helper()
	all := make(map[uint64]*pb.PipelineAnswer)
	for range n {
		a := p.next()
		if all[a.Id] != nil {
			p.t.Fatalf("operation %d was answered twice", a.Id)
		}
		all[a.Id] = a
	}
	return all
}

// end is why the stream ended; no answer may come before.
func (p *pipe) end() error {
	p.t.Helper()
	if len(p.left) > 0 {
		p.t.Fatalf("more answers: %v", p.left)
	}
	m, err := p.stream.Recv()
	if err == nil {
		p.t.Fatalf("got answers %v, want the end", m)
	}
	return err
}

func TestPipelineAnswersLikeTheRPCs(t *testing.T) {
	updated := time.UnixMilli(1_700_000_000_123)
	var mu sync.Mutex
	asked := map[string]coord.WriteRequest{}
	_, conn := start(t, Options{Engine: &script{
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			r.Deadline = time.Time{}
			mu.Lock()
			defer mu.Unlock()
			asked[r.Key] = r
			return coord.WriteResult{Clock: clockOf("c2", "c1", "c3"), Replicas: 2, Level: coord.Quorum, Duplicate: r.Delete}, nil
		},
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			if r.Key == "absent" {
				return coord.ReadResult{}, coord.ErrKeyNotFound
			}
			return coord.ReadResult{Value: []byte{0, 0xff}, Clock: clockOf("c1"), UpdatedAt: updated}, nil
		},
	}})
	for _, service := range []string{"pairdb.coordinator.v1.CoordinatorService", "proto.CoordinatorService"} {
		t.Run(service, func(t *testing.T) {
			stream, err := conn.NewStream(testContext(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+service+"/Pipeline")
			if err != nil {
				t.Fatal(err)
			}
			p := &pipe{t: t, stream: &grpc.GenericClientStream[pb.PipelineRequest, pb.PipelineResponse]{ClientStream: stream}}
			large := bytes.Repeat([]byte("v"), detachAbove+1)
			p.send(
				&pb.PipelineOperation{Id: 7, Kind: kindWrite, TenantId: "acme", Key: "k", Value: []byte("v"), IdempotencyKey: "once"},
				&pb.PipelineOperation{Id: 3, Kind: kindDelete, TenantId: "acme", Key: "gone", Consistency: "one"},
				&pb.PipelineOperation{Id: 9, Kind: kindRead, TenantId: "acme", Key: "k", Consistency: "all"},
			)
			p.send(
				&pb.PipelineOperation{Id: 1, Kind: kindRead, TenantId: "acme", Key: "absent"},
				&pb.PipelineOperation{Id: 2, Kind: kindWrite, TenantId: "acme", Key: "large", Value: large},
				&pb.PipelineOperation{Id: 4, Kind: kindWrite, TenantId: "acme", Key: "empty"},
			)
			answers := p.take(6)
			w, d, r := answers[7], answers[3], answers[9]
			if w.Status != nil || w.ReplicaCount != 2 || w.Consistency != "quorum" || w.IsDuplicate || len(w.VectorClock.Entries) != 3 ||
				w.VectorClock.Entries[2].CoordinatorNodeId != "c3" {
				t.Errorf("write answered %v", w)
			}
			if d.Status != nil || !d.IsDuplicate {
				t.Errorf("delete answered %v", d)
			}
			if r.Status != nil || !bytes.Equal(r.Value, []byte{0, 0xff}) || r.UpdatedAt != updated.UnixMilli() || len(r.VectorClock.Entries) != 1 || r.ReplicaCount != 0 {
				t.Errorf("read answered %v", r)
			}
			if a := answers[1]; a.Status.GetReason() != "KEY_NOT_FOUND" || a.Status.Message != "key not found" || a.Status.Code != int32(codes.NotFound) || a.VectorClock != nil {
				t.Errorf("read of an absent key answered %v", a)
			}
			mu.Lock()
			defer mu.Unlock()
			want := map[string]coord.WriteRequest{
				"k":     {Tenant: "acme", Key: "k", Value: []byte("v"), IdempotencyKey: "once"},
				"gone":  {Tenant: "acme", Key: "gone", Delete: true, Level: coord.One},
				"large": {Tenant: "acme", Key: "large", Value: large},
				"empty": {Tenant: "acme", Key: "empty", Value: []byte{}},
			}
			if !reflect.DeepEqual(asked, want) {
				t.Errorf("the engine was asked for\n%+v, want\n%+v", asked, want)
			}
			if err := p.stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if err := p.end(); err != io.EOF {
				t.Errorf("after the last answer: %v", err)
			}
		})
	}
}

func TestPipelineAnswersInAnyOrder(t *testing.T) {
	engine := &held{}
	server, conn := start(t, Options{Engine: engine})
	p := openPipe(t, testContext(t), conn)
	for i := range 10 {
		p.send(&pb.PipelineOperation{Id: uint64(i), Kind: kindRead, TenantId: "t", Key: fmt.Sprint("k", i)})
	}
	eventually(t, "all reads are under way", func() bool { return engine.waits() == 10 })
	if server.InFlight() != 10 {
		t.Errorf("%d requests are in flight, want 10", server.InFlight())
	}
	for i := 9; i >= 0; i-- {
		engine.answer(fmt.Sprint("k", i), fmt.Sprint("v", i))
		if a := p.next(); a.Id != uint64(i) || string(a.Value) != fmt.Sprint("v", i) {
			t.Errorf("got the answer %v, want that of %d", a, i)
		}
	}
	eventually(t, "nothing is in flight", func() bool { return server.InFlight() == 0 })
}

// A failed operation is told the same, however it was sent.
func TestOneStatusForEachError(t *testing.T) {
	var fails error
	engine := &script{
		write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
			return coord.WriteResult{}, fails
		},
		read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) { return coord.ReadResult{}, fails },
	}
	_, conn := start(t, Options{Engine: engine})
	client := pb.NewCoordinatorServiceClient(conn)
	ctx := testContext(t)
	p := openPipe(t, ctx, conn)
	told := func(err error) *pb.OperationStatus {
		f := failureOf(t, err)
		return &pb.OperationStatus{Code: int32(f.code), Reason: f.reason, Message: f.message, Outcome: f.outcome,
			RetryDelayMs: f.retryIn.Milliseconds(), RequestId: f.metadata["request_id"]}
	}
	same := func(what string, got, want *pb.OperationStatus) {
		t.Helper()
		if want.RequestId != "" { // random
			if got.GetRequestId() == "" || !strings.HasSuffix(got.Message, got.RequestId) {
				t.Errorf("%s: got %v, want a request id in it", what, got)
			}
			want = proto.CloneOf(want)
			want.Message, want.RequestId = got.GetMessage(), got.GetRequestId()
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s: %v\nwant %v", what, got, want)
		}
	}
	kinds := []error{errUnexpected, &coord.QuorumError{Phase: "write", Level: coord.Quorum, Need: 2, Have: 1,
		Replicas: []coord.ReplicaError{{Node: "storage-2", Err: coord.ErrReplicaUnavailable}}}}
	for _, v := range verdicts {
		kinds = append(kinds, fmt.Errorf("%w: details", v.kind))
	}
	for _, kind := range kinds {
		for _, outcome := range []coord.Outcome{coord.InDoubt, coord.NotApplied} {
			fails = &coord.WriteError{Outcome: outcome, Err: kind}
			_, err := client.WriteKeyValue(ctx, &pb.WriteKeyValueRequest{TenantId: "t", Key: "k"})
			want := told(err)
			p.send(&pb.PipelineOperation{Kind: kindWrite, TenantId: "t", Key: "k"})
			same("pipelined write: "+kind.Error(), p.next().Status, want)
			p.send(&pb.PipelineOperation{Kind: kindDelete, TenantId: "t", Key: "k"})
			same("pipelined delete: "+kind.Error(), p.next().Status, want)
			b, err := client.BatchWrite(ctx, &pb.BatchWriteRequest{TenantId: "t", Items: []*pb.BatchWriteItem{{Key: "k"}, {Key: "k", Delete: true}}})
			if err != nil {
				t.Fatal(err)
			}
			same("batched write: "+kind.Error(), b.Results[0].Status, want)
			same("batched delete: "+kind.Error(), b.Results[1].Status, want)
		}
		fails = kind
		_, err := client.ReadKeyValue(ctx, &pb.ReadKeyValueRequest{TenantId: "t", Key: "k"})
		want := told(err)
		p.send(&pb.PipelineOperation{Kind: kindRead, TenantId: "t", Key: "k"})
		same("pipelined read: "+kind.Error(), p.next().Status, want)
		b, err := client.BatchRead(ctx, &pb.BatchReadRequest{TenantId: "t", Keys: []string{"k"}})
		if err != nil {
			t.Fatal(err)
		}
		same("batched read: "+kind.Error(), b.Results[0].Status, want)
	}
}

func TestInvalidOperationsFailAlone(t *testing.T) {
	_, conn := start(t, Options{Engine: &instant{}})
	client := pb.NewCoordinatorServiceClient(conn)
	p := openPipe(t, testContext(t), conn)
	invalid := []*pb.PipelineOperation{
		{TenantId: "t", Key: "k"},
		{Kind: 77, TenantId: "t", Key: "k"},
		{Kind: kindWrite, Key: "k"},
		{Kind: kindWrite, TenantId: "a:b", Key: "k"},
		{Kind: kindWrite, TenantId: strings.Repeat("t", MaxTenantBytes+1), Key: "k"},
		{Kind: kindWrite, TenantId: "t"},
		{Kind: kindRead, TenantId: "t", Key: strings.Repeat("k", MaxKeyBytes+1)},
		{Kind: kindDelete, TenantId: "t", Key: "a\x00b"},
		{Kind: kindRead, TenantId: "t", Key: "k", Consistency: "most"},
		{Kind: kindDelete, TenantId: "t", Key: "k", IdempotencyKey: strings.Repeat("i", MaxIdempotencyKeyBytes+1)},
		{Kind: kindWrite, TenantId: "t", Key: "k", Value: make([]byte, MaxValueBytes+1)},
	}
	for i, op := range invalid {
		op.Id = uint64(i)
		p.send(&pb.PipelineOperation{Id: 1000, Kind: kindWrite, TenantId: "t", Key: "k"}, op)
		answers := p.take(2)
		if answers[1000].GetStatus() != nil {
			t.Errorf("the operation before %v failed: %v", op.Key, answers[1000])
		}
		outcome := "not_applied"
		if op.Kind == kindRead {
			outcome = ""
		}
		s := answers[uint64(i)].GetStatus()
		if s.GetReason() != "INVALID_REQUEST" || s.Code != int32(codes.InvalidArgument) || s.Outcome != outcome {
			t.Errorf("operation %d: %v", i, s)
		}
		if op.Kind == kindWrite && i > 1 {
			_, err := client.WriteKeyValue(testContext(t), &pb.WriteKeyValueRequest{TenantId: op.TenantId, Key: op.Key, Value: op.Value,
				Consistency: op.Consistency, IdempotencyKey: op.IdempotencyKey})
			if f := failureOf(t, err); f.message != s.Message {
				t.Errorf("operation %d says %q, its RPC %q", i, s.Message, f.message)
			}
		}
	}
}

// What cannot be taken at all ends the stream, after what was taken is answered.
func TestAMessageThatCannotBeTakenEndsTheStream(t *testing.T) {
	many := new(pb.PipelineRequest)
	for range MaxPipelineMessage + 1 {
		many.Operations = append(many.Operations, new(pb.PipelineOperation))
	}
	tooMany, err := proto.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"malformed":           {0x0a, 200, 'x'},
		"a wrong type":        {0x08, 1},
		"too many operations": tooMany,
	} {
		t.Run(name, func(t *testing.T) {
			engine := &held{}
			_, conn := start(t, Options{Engine: engine})
			p := openPipe(t, testContext(t), conn)
			p.send(&pb.PipelineOperation{Id: 1, Kind: kindRead, TenantId: "t", Key: "k"})
			if err := p.stream.SendMsg(grpcRaw(t, raw)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the read is under way", func() bool { return engine.waits() == 1 })
			engine.answer("k", "v")
			if a := p.next(); string(a.Value) != "v" {
				t.Errorf("answered %v", a)
			}
			failureOf(t, p.end()).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
		})
	}
}

// grpcRaw makes a message of the standard codec that encodes to raw, which is
// no PipelineRequest: all of it is kept as unknown fields.
func grpcRaw(t testing.TB, raw []byte) proto.Message {
	t.Helper()
	m := new(pb.ListMigrationsRequest)
	m.ProtoReflect().SetUnknown(raw)
	return m
}

func TestPipelinedDeadlines(t *testing.T) {
	left := make(chan time.Duration, 4)
	_, conn := start(t, Options{ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, Engine: &script{
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			left <- time.Until(r.Deadline)
			return coord.WriteResult{Level: coord.One}, nil
		},
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			left <- time.Until(r.Deadline)
			return coord.ReadResult{}, nil
		},
	}})
	p := openPipe(t, testContext(t), conn)
	for _, c := range []struct {
		op   *pb.PipelineOperation
		want time.Duration
	}{
		{&pb.PipelineOperation{Kind: kindWrite}, 20 * time.Second},
		{&pb.PipelineOperation{Kind: kindRead}, 10 * time.Second},
		{&pb.PipelineOperation{Kind: kindRead, TimeoutMs: 5000}, 5 * time.Second},
		{&pb.PipelineOperation{Kind: kindDelete, TimeoutMs: 1 << 31}, 20 * time.Second},
	} {
		c.op.TenantId, c.op.Key = "t", "k"
		p.send(c.op)
		if got := <-left; got > c.want || got < c.want-4*time.Second {
			t.Errorf("%v: %v are left, want %v", c.op, got, c.want)
		}
		p.next()
	}
}

func TestStopDrainsPipelines(t *testing.T) {
	engine := &held{}
	server, conn := start(t, Options{Engine: engine})
	ctx := testContext(t)
	busy, idle := openPipe(t, ctx, conn), openPipe(t, ctx, conn)
	busy.send(&pb.PipelineOperation{Id: 1, Kind: kindRead, TenantId: "t", Key: "k"})
	eventually(t, "the read is under way", func() bool { return engine.waits() == 1 && server.pipelines.Load() == 2 })
	stopped := make(chan error, 1)
	go func() { stopped <- server.Stop(ctx) }()
	failureOf(t, idle.end()).want(t, codes.Unavailable, "SHUTTING_DOWN", "")
	busy.send(&pb.PipelineOperation{Id: 2, Kind: kindWrite, TenantId: "t", Key: "k"},
		&pb.PipelineOperation{Id: 3, Kind: kindRead, TenantId: "t", Key: "k2"})
	answers := busy.take(2)
	if s := answers[2].GetStatus(); s.GetReason() != "SHUTTING_DOWN" || s.Outcome != "not_applied" || s.Code != int32(codes.Unavailable) {
		t.Errorf("a write while draining: %v", s)
	}
	if s := answers[3].GetStatus(); s.GetReason() != "SHUTTING_DOWN" || s.Outcome != "" {
		t.Errorf("a read while draining: %v", s)
	}
	engine.answer("k", "v")
	if a := busy.next(); a.Id != 1 || string(a.Value) != "v" {
		t.Errorf("the read that was under way: %v", a)
	}
	failureOf(t, busy.end()).want(t, codes.Unavailable, "SHUTTING_DOWN", "")
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStopCutsPipelinesOff(t *testing.T) {
	engine := &held{}
	server, conn := start(t, Options{Engine: engine})
	p := openPipe(t, testContext(t), conn)
	p.send(&pb.PipelineOperation{Id: 1, Kind: kindRead, TenantId: "t", Key: "k"})
	eventually(t, "the read is under way", func() bool { return engine.waits() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := server.Stop(ctx); err == nil || !strings.Contains(err.Error(), "1 requests were cut off") {
		t.Errorf("got %v, want an error that says what was cut off", err)
	}
	if err := p.end(); status.Code(err) == codes.OK {
		t.Errorf("the stream ended with %v", err)
	}
	engine.answer("k", "too late")
	eventually(t, "nothing is in flight", func() bool { return server.InFlight() == 0 })
}

// A stream that has served long enough takes nothing more, answers what it has
// taken, and ends with OK.
func TestPipelinesAgeInGoodOrder(t *testing.T) {
	engine := &held{}
	_, conn := start(t, Options{Engine: engine, MaxPipelineAge: 50 * time.Millisecond})
	p := openPipe(t, testContext(t), conn)
	p.send(&pb.PipelineOperation{Id: 1, Kind: kindRead, TenantId: "t", Key: "k"})
	eventually(t, "the read is under way", func() bool { return engine.waits() == 1 })
	time.Sleep(100 * time.Millisecond)
	p.send(&pb.PipelineOperation{Id: 2, Kind: kindRead, TenantId: "t", Key: "k2"})
	time.Sleep(20 * time.Millisecond)
	if n := engine.waits(); n != 1 {
		t.Errorf("%d reads are under way, want only the one that came in time", n)
	}
	engine.answer("k", "v")
	if a := p.next(); a.Id != 1 {
		t.Errorf("answered %v", a)
	}
	if err := p.end(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestAClientThatGoesAway(t *testing.T) {
	engine := &held{}
	server, conn := start(t, Options{Engine: engine})
	ctx, cancel := context.WithCancel(testContext(t))
	p := openPipe(t, ctx, conn)
	for i := range 100 {
		p.send(&pb.PipelineOperation{Id: uint64(i), Kind: kindRead, TenantId: "t", Key: fmt.Sprint(i)})
	}
	eventually(t, "all reads are under way", func() bool { return engine.waits() == 100 })
	cancel()
	eventually(t, "the stream has ended", func() bool { return server.pipelines.Load() == 0 })
	for i := range 100 {
		engine.answer(fmt.Sprint(i), "v")
	}
	eventually(t, "nothing is in flight", func() bool { return server.InFlight() == 0 })
}

func TestPipelinedValuesOf10MiBOverTCP(t *testing.T) {
	value := bytes.Repeat([]byte("0123456789abcdef"), 10<<16)
	engine := &instant{value: value}
	var got [][]byte
	var mu sync.Mutex
	server, err := NewServer(Options{Engine: &script{
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			mu.Lock()
			got = append(got, r.Value)
			mu.Unlock()
			return coord.WriteResult{Level: coord.Quorum}, nil
		},
		read: engine.Read,
	}})
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t)
	go server.Serve(lis)
	defer server.Stop(testContext(t))
	conn := dial(t, lis.Addr().String())
	p := openPipe(t, testContext(t), conn)
	for i := range 3 {
		p.send(&pb.PipelineOperation{Id: uint64(i), Kind: kindWrite, TenantId: "t", Key: "k", Value: value})
	}
	for _, a := range p.take(3) {
		if a.Status != nil {
			t.Errorf("write answered %v", a.Status)
		}
	}
	for _, v := range got {
		if !bytes.Equal(v, value) {
			t.Error("the value came changed")
		}
	}
	p.send(
		&pb.PipelineOperation{Id: 1, Kind: kindRead, TenantId: "t", Key: "k"},
		&pb.PipelineOperation{Id: 2, Kind: kindRead, TenantId: "t", Key: "k", MaxValueBytes: 10<<20 - 1},
		&pb.PipelineOperation{Id: 3, Kind: kindRead, TenantId: "t", Key: "k", MaxValueBytes: 10 << 20},
	)
	answers := p.take(3)
	for id, a := range answers {
		if omitted := id == 2; a.Status != nil || a.ValueOmitted != omitted || bytes.Equal(a.Value, value) == omitted {
			t.Errorf("read %d: omitted %t, %d bytes, status %v", id, a.ValueOmitted, len(a.Value), a.Status)
		}
	}
}

// unread is a stream whose answers are not read until it is let go.
type unread struct {
	grpc.ServerStream
	ctx      context.Context
	op       *pb.PipelineOperation
	count    int
	received atomic.Int64
	let      chan struct{}
	answered map[string]int // by reason
}

func (s *unread) Context() context.Context { return s.ctx }

func (s *unread) RecvMsg(m any) error {
	n := s.received.Load()
	if n == int64(s.count) {
		return io.EOF
	}
	s.received.Add(1)
	op := proto.CloneOf(s.op)
	op.Id = uint64(n)
	message := m.(*codec.Tolerant).Message.(*codec.Inbound).Message.(*pb.PipelineRequest)
	message.Operations = append(message.Operations, op)
	return nil
}

func (s *unread) SendMsg(m any) error {
	select {
	case <-s.let:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	for _, a := range m.(*pb.PipelineResponse).Answers {
		s.answered[a.GetStatus().GetReason()]++
	}
	return nil
}

func TestAClientThatDoesNotReadHoldsBoundedMemory(t *testing.T) {
	const size, most, count = 100_000, 1 << 20, 1000
	for name, op := range map[string]*pb.PipelineOperation{
		"reads":  {Kind: kindRead, TenantId: "t", Key: "k"},
		"writes": {Kind: kindWrite, TenantId: "t", Key: "k", Value: make([]byte, size)},
		"faults": {Kind: kindWrite, Key: strings.Repeat("k", size), Value: make([]byte, size)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, err := NewServer(Options{Engine: &instant{value: make([]byte, size)}, MaxPipelineBytes: most, MaxPipelineOperations: 200})
				if err != nil {
					t.Fatal(err)
				}
				stream := &unread{ctx: t.Context(), op: op, count: count, let: make(chan struct{}), answered: map[string]int{}}
				p := newPipeline(server.service, stream)
				over := make(chan error, 1)
				go func() { over <- p.run() }()
				synctest.Wait()
				if n := stream.received.Load(); n > 201 || name == "reads" && n > most/size+20 {
					t.Errorf("%d operations were taken while no answer left", n)
				}
				p.mu.Lock()
				if p.bytes > 2*most {
					t.Errorf("%d bytes wait, with a bound of %d", p.bytes, most)
				}
				p.mu.Unlock()
				close(stream.let)
				if err := <-over; err != nil {
					t.Errorf("the stream ended with %v", err)
				}
				reason := map[string]string{"faults": "INVALID_REQUEST"}[name]
				if stream.answered[reason] != count {
					t.Errorf("answered %v, want %d of %q", stream.answered, count, reason)
				}
				if server.InFlight() != 0 {
					t.Errorf("%d requests are in flight at the end", server.InFlight())
				}
				server.grpc.Stop()
			})
		})
	}
}

// Reads that began before it was known how much they find are refused once too
// much waits, and may be sent again.
func TestPipelinedReadsThatFindTooMuch(t *testing.T) {
	const size, most, count = 100_000, 1 << 20, 150
	synctest.Test(t, func(t *testing.T) {
		engine := &heldAll{}
		server, err := NewServer(Options{Engine: engine, MaxPipelineBytes: most})
		if err != nil {
			t.Fatal(err)
		}
		stream := &unread{ctx: t.Context(), op: &pb.PipelineOperation{Kind: kindRead, TenantId: "t", Key: "k"}, count: count,
			let: make(chan struct{}), answered: map[string]int{}}
		p := newPipeline(server.service, stream)
		over := make(chan error, 1)
		go func() { over <- p.run() }()
		synctest.Wait()
		for _, w := range engine.waiting {
			w.Found(coord.ReadResult{Value: make([]byte, size)}, nil)
		}
		synctest.Wait()
		p.mu.Lock()
		if p.bytes > 2*most {
			t.Errorf("%d bytes wait, with a bound of %d", p.bytes, most)
		}
		p.mu.Unlock()
		close(stream.let)
		if err := <-over; err != nil {
			t.Errorf("the stream ended with %v", err)
		}
		if ok, no := stream.answered[""], stream.answered["OVERLOADED"]; ok == 0 || no == 0 || ok+no != count {
			t.Errorf("answered %v, want some of each kind, %d in all", stream.answered, count)
		}
		server.grpc.Stop()
	})
}

// heldAll keeps all reads.
type heldAll struct {
	instant
	waiting []coord.Waiter
}

func (h *heldAll) StartRead(_ coord.ReadRequest, w coord.Waiter) { h.waiting = append(h.waiting, w) }

func TestPipelinedOperationsAreObserved(t *testing.T) {
	var mu sync.Mutex
	var got []string
	var ids []string
	_, conn := start(t, Options{
		Engine: &script{
			write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
				return coord.WriteResult{Level: coord.Quorum}, nil
			},
			read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
				return coord.ReadResult{}, errUnexpected
			},
		},
		Observe: func(c Call) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s %s %q %q %v %s %v", c.Method, c.Operation, c.Tenant, c.Key, c.Code, c.Reason, c.Err))
			ids = append(ids, c.RequestID())
			if c.Took <= 0 {
				t.Errorf("%s took %v", c.Method, c.Took)
			}
		},
	})
	ctx := metadata.AppendToOutgoingContext(testContext(t), "x-request-id", "req-9")
	p := openPipe(t, ctx, conn)
	for i, op := range []*pb.PipelineOperation{
		{Kind: kindWrite, TenantId: "t", Key: "k"}, {Kind: kindDelete, TenantId: "t"}, {Kind: kindRead, TenantId: "t", Key: "k"},
	} {
		op.Id = uint64(i)
		p.send(op)
		if a := p.next(); op.Kind == kindRead && a.Status.RequestId != "req-9/2" {
			t.Errorf("status %v, want the request id req-9/2", a.Status)
		}
	}
	client := pb.NewCoordinatorServiceClient(conn)
	if _, err := client.BatchWrite(ctx, &pb.BatchWriteRequest{TenantId: "t", Items: []*pb.BatchWriteItem{{Key: "b", Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{
		`WriteKeyValue write "t" "k" OK  <nil>`,
		`DeleteKeyValue delete "t" "" InvalidArgument INVALID_REQUEST invalid request: key is empty, want 1 to 1024 bytes`,
		`ReadKeyValue read "t" "k" Internal INTERNAL ` + errUnexpected.Error(),
		`DeleteKeyValue delete "t" "b" OK  <nil>`,
		`BatchWrite write "t" "" OK  <nil>`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("observed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.Equal(ids, []string{"req-9/0", "req-9/1", "req-9/2", "req-9", "req-9"}) {
		t.Errorf("request ids %v", ids)
	}
}

// Whatever arrives, each operation of a message that can be taken is answered
// once, and nothing that the engine keeps changes when the buffer is used again.
func FuzzPipelineRequest(f *testing.F) {
	for _, ops := range [][]*pb.PipelineOperation{
		{{Id: 1, Kind: kindWrite, TenantId: "t", Key: "k", Value: []byte("v"), IdempotencyKey: "i", Consistency: "all"}},
		{{Id: 1, Kind: kindRead, TenantId: "t", Key: "k", TimeoutMs: 1, MaxValueBytes: 1}, {Id: 1, Kind: 9}},
		{{Kind: kindDelete, TenantId: "\xff", Key: "k"}},
		{},
	} {
		raw, err := (&pb.PipelineRequest{Operations: ops}).MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		recorder := &recorder{}
		server, err := NewServer(Options{Engine: recorder})
		if err != nil {
			t.Fatal(err)
		}
		defer server.grpc.Stop()
		stream := &oneMessage{ctx: t.Context(), raw: raw}
		err = newPipeline(server.service, stream).run()
		decoded := new(pb.PipelineRequest)
		if fault := decoded.UnmarshalVTUnsafe(raw); (fault == nil && len(decoded.Operations) <= MaxPipelineMessage) != (err == nil) {
			t.Fatalf("the stream ended with %v; the message decodes with %v to %d operations", err, fault, len(decoded.Operations))
		}
		if err != nil {
			return
		}
		want, got := map[uint64]int{}, map[uint64]int{}
		for _, op := range decoded.Operations {
			want[op.Id]++
		}
		valid := 0
		for _, a := range stream.answers {
			got[a.Id]++
			if a.Status == nil {
				valid++
			} else if a.Status.Reason != "INVALID_REQUEST" {
				t.Errorf("operation %d failed: %v", a.Id, a.Status)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("answered %v, want %v", got, want)
		}
		if valid != len(recorder.writes)+len(recorder.reads) {
			t.Errorf("%d operations succeeded, the engine was asked for %d writes and %d reads", valid, len(recorder.writes), len(recorder.reads))
		}
		for i, w := range recorder.writes {
			if !reflect.DeepEqual(w, recorder.copies[i]) {
				t.Errorf("what the engine keeps has changed from %+v to %+v", recorder.copies[i], w)
			}
		}
	})
}

// recorder notes what it is asked for, twice: as it is, and as a copy.
type recorder struct {
	instant
	reads  []coord.ReadRequest
	writes []coord.WriteRequest
	copies []coord.WriteRequest
}

func (r *recorder) StartWrite(q coord.WriteRequest, w coord.Waiter) {
	r.writes = append(r.writes, q)
	q.Tenant, q.Key, q.IdempotencyKey = strings.Clone(q.Tenant), strings.Clone(q.Key), strings.Clone(q.IdempotencyKey)
	q.Value = slices.Clone(q.Value)
	r.copies = append(r.copies, q)
	r.instant.StartWrite(q, w)
}

func (r *recorder) StartRead(q coord.ReadRequest, w coord.Waiter) {
	r.reads = append(r.reads, q)
	r.instant.StartRead(q, w)
}

// oneMessage is a stream of one message, whose buffer is overwritten as soon as
// the receiver asks for another.
type oneMessage struct {
	grpc.ServerStream
	ctx     context.Context
	raw     []byte
	buffer  []byte
	answers []*pb.PipelineAnswer
}

func (s *oneMessage) Context() context.Context { return s.ctx }

func (s *oneMessage) RecvMsg(m any) error {
	if s.buffer != nil {
		for i := range s.buffer {
			s.buffer[i] = '!'
		}
		return io.EOF
	}
	s.buffer = append([]byte{}, s.raw...)
	return codec.New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(s.buffer)}, m)
}

func (s *oneMessage) SendMsg(m any) error {
	for _, a := range m.(*pb.PipelineResponse).Answers {
		s.answers = append(s.answers, &pb.PipelineAnswer{Id: a.Id, Status: a.Status})
	}
	return nil
}

// endless is a stream that sends the same message until it is stopped, and
// counts answers.
type endless struct {
	grpc.ServerStream
	raw  []byte
	left int
}

func (s *endless) Context() context.Context { return context.Background() }

func (s *endless) RecvMsg(m any) error {
	if s.left == 0 {
		return io.EOF
	}
	s.left--
	return codec.New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(s.raw)}, m)
}

func (s *endless) SendMsg(m any) error {
	data, err := codec.New().Marshal(m)
	if err == nil {
		data.Free()
	}
	return err
}

// pipelineMessage is a message of n operations of a kind.
func pipelineMessage(tb testing.TB, kind pb.PipelineOperation_Kind, n int) []byte {
	m := new(pb.PipelineRequest)
	for i := range n {
		op := &pb.PipelineOperation{Id: uint64(i), Kind: kind, TenantId: "tenant", Key: fmt.Sprint("some-key-", i)}
		if kind == kindWrite {
			op.Value = make([]byte, 100)
		}
		m.Operations = append(m.Operations, op)
	}
	raw, err := m.MarshalVT()
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func benchmarkPipeline(b *testing.B, kind pb.PipelineOperation_Kind) {
	const batch = 32
	server, err := NewServer(Options{Engine: &instant{value: make([]byte, 100)}})
	if err != nil {
		b.Fatal(err)
	}
	defer server.grpc.Stop()
	b.ReportAllocs()
	stream := &endless{raw: pipelineMessage(b, kind, batch), left: b.N/batch + 1}
	if err := newPipeline(server.service, stream).run(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// These measure what the edge costs an operation of a stream, without gRPC and
// with an engine that does nothing: decode, check, start, answer, encode.
func BenchmarkPipelineWrite(b *testing.B) { benchmarkPipeline(b, kindWrite) }
func BenchmarkPipelineRead(b *testing.B)  { benchmarkPipeline(b, kindRead) }
