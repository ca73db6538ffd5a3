package rpc

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"

	"github.com/pairdb/coordinator/coord"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// An operation that asks for its trace gets it with the answer, one that fails,
// too, and no other; only so many of a stream at once.
func TestPipelinedOperationsAreTraced(t *testing.T) {
	engine := &held{instant: instant{}}
	_, conn := start(t, Options{Engine: engine})
	p := openPipe(t, testContext(t), conn)
	read := func(id uint64, trace bool) *pb.PipelineOperation {
		return &pb.PipelineOperation{Id: id, Kind: kindRead, TenantId: "t", Key: fmt.Sprint(id), Trace: trace}
	}
	const asking = maxPipelineTraces + 3
	var ops []*pb.PipelineOperation
	for id := range uint64(asking) {
		ops = append(ops, read(id, true))
	}
	p.send(append(ops, read(asking, false))...)
	eventually(t, "all are under way", func() bool { return engine.waits() == asking+1 })
	for id := range asking + 1 {
		engine.answer(fmt.Sprint(id), "v")
	}
	for id, a := range p.take(asking + 1) {
		if want := id < maxPipelineTraces; (a.Trace != nil) != want || a.Status != nil {
			t.Errorf("operation %d: trace %v, want one: %t", id, a.Trace, want)
		}
	}
	// Those that were answered make room.
	p.send(read(500, true))
	eventually(t, "it is under way", func() bool { return engine.waits() == 1 })
	engine.answer("500", "v")
	if a := p.next(); a.Trace == nil {
		t.Error("a trace that is done still takes the place of another")
	}
	failing := read(501, true)
	failing.TenantId = ""
	p.send(failing, read(502, true))
	eventually(t, "it is under way", func() bool { return engine.waits() == 1 })
	engine.answer("502", "v")
	if got := p.take(2); got[501].Trace != nil || got[501].Status == nil || got[502].Trace == nil {
		t.Errorf("one that is refused and one that is not: %v", got)
	}
}

// followed is a Tracing that samples the operations with a parent.
type followed struct {
	mu    sync.Mutex
	ended []string
}

func (*followed) Handler() stats.Handler         { return new(sumsTraffic) }
func (*followed) Failed(context.Context, string) {}
func (*followed) Request(_ context.Context, tenant, key string, _ coord.Level) *coord.Trace {
	return new(coord.Trace)
}

func (f *followed) Operation(_ context.Context, parent, method, tenant, key string, level coord.Level) (*coord.Trace, func(codes.Code, string)) {
	if parent == "" && method != methodWrite {
		return nil, nil
	}
	return new(coord.Trace), func(code codes.Code, reason string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ended = append(f.ended, fmt.Sprint(parent, " ", method, " ", tenant, "/", key, " ", level, " ", code, " ", reason))
	}
}

// The span of each operation of a stream and of a batch ends once, with what
// came of it, and what is recorded for it alone is not sent to the client.
func TestOperationsAreSpans(t *testing.T) {
	tracing := new(followed)
	engine := &script{
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			if (r.Trace != nil) != (r.Key == "sampled") {
				t.Errorf("%s: traced %t", r.Key, r.Trace != nil)
			}
			return coord.ReadResult{}, coord.ErrKeyNotFound
		},
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			if r.Trace == nil {
				t.Error("the write of a batch is not traced")
			}
			return coord.WriteResult{}, nil
		},
	}
	_, conn := start(t, Options{Engine: engine, Tracing: tracing})
	ctx := testContext(t)
	p := openPipe(t, ctx, conn)
	p.send(&pb.PipelineOperation{Id: 1, Kind: kindRead, TenantId: "t", Key: "sampled", Traceparent: "parent", Consistency: "one"},
		&pb.PipelineOperation{Id: 2, Kind: kindRead, TenantId: "t", Key: "other"})
	for id, a := range p.take(2) {
		if a.Trace != nil {
			t.Errorf("operation %d: its trace was sent", id)
		}
	}
	if _, err := pb.NewCoordinatorServiceClient(conn).BatchWrite(ctx, &pb.BatchWriteRequest{TenantId: "t", Consistency: "all",
		Items: []*pb.BatchWriteItem{{Key: "k"}}}); err != nil {
		t.Fatal(err)
	}
	want := []string{"parent ReadKeyValue t/sampled one NotFound KEY_NOT_FOUND", " WriteKeyValue t/k all OK "}
	tracing.mu.Lock()
	defer tracing.mu.Unlock()
	if fmt.Sprint(tracing.ended) != fmt.Sprint(want) {
		t.Errorf("ended %q, want %q", tracing.ended, want)
	}
}
