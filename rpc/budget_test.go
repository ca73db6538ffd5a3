package rpc

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/pairdb/coordinator/rpc/codec"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// The edge's allocation budget per operation, gRPC's own and the engine's
// aside. Of a unary call the answer is new (3: its bytes, gRPC's buffer of them,
// and what holds that); its request points into what gRPC has read. An operation
// of a stream keeps its key and value together.
const (
	unaryAllocations     = 3
	pipelinedAllocations = 1
)

// handlerOf is a method as gRPC calls it.
func handlerOf(tb testing.TB, server *Server, name string) grpc.MethodHandler {
	tb.Helper()
	for _, m := range pb.CoordinatorService_ServiceDesc.Methods {
		if m.MethodName == name {
			return server.route(name, m.Handler)
		}
	}
	tb.Fatalf("no method %s", name)
	return nil
}

// unaryCall returns a function that serves a request from its bytes to those of
// the answer.
func unaryCall(tb testing.TB, name string, request codec.Message) func() {
	server, err := NewServer(Options{Engine: &instant{value: make([]byte, 100)}, Observe: func(Call) {}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.grpc.Stop)
	raw := make([]byte, request.SizeVT())
	if _, err := request.MarshalToSizedBufferVT(raw); err != nil {
		tb.Fatal(err)
	}
	data, fast := mem.BufferSlice{mem.SliceBuffer(raw)}, codec.New()
	handle := handlerOf(tb, server, name)
	decode := func(m any) error { return fast.Unmarshal(data, m) }
	encode := func(m any) {
		answer, err := fast.Marshal(m)
		if err != nil {
			tb.Fatal(err)
		}
		answer.Free()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	tb.Cleanup(cancel)
	return func() {
		response, err := handle(server.service, ctx, decode, nil)
		if err != nil {
			tb.Fatal(err)
		}
		encode(response)
	}
}

var (
	aWrite  = &pb.WriteKeyValueRequest{TenantId: "tenant", Key: "some-key-0001", Value: make([]byte, 100)}
	aDelete = &pb.DeleteKeyValueRequest{TenantId: "tenant", Key: "some-key-0001"}
	aRead   = &pb.ReadKeyValueRequest{TenantId: "tenant", Key: "some-key-0001"}
)

func TestAllocationBudget(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates; the budget is checked without it")
		return
	}
	for name, request := range map[string]codec.Message{methodWrite: aWrite, methodDelete: aDelete, methodRead: aRead} {
		if n := testing.AllocsPerRun(1000, unaryCall(t, name, request)); n > unaryAllocations {
			t.Errorf("%s: %.1f allocations, the budget is %d", name, n, unaryAllocations)
		}
	}
	const batch = 64
	for _, kind := range []pb.PipelineOperation_Kind{kindWrite, kindDelete, kindRead} {
		raw := pipelineMessage(t, kind, batch)
		server, err := NewServer(Options{Engine: &instant{value: make([]byte, 100)}, Observe: func(Call) {}})
		if err != nil {
			t.Fatal(err)
		}
		const messages = 100
		n := testing.AllocsPerRun(10, func() {
			if err := newPipeline(server.service, &endless{raw: raw, left: messages}).run(); err != nil {
				t.Fatal(err)
			}
		}) / (messages * batch)
		// What a stream and a message cost is spread over their operations.
		if n > pipelinedAllocations+0.5 {
			t.Errorf("pipelined %v: %.2f allocations, the budget is %d", kind, n, pipelinedAllocations)
		}
		server.grpc.Stop()
	}
}

func benchmarkUnary(b *testing.B, name string, request codec.Message) {
	call := unaryCall(b, name, request)
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}

// These measure a handler from the bytes of a request to those of its answer,
// without gRPC and with an engine that does nothing.
func BenchmarkUnaryWrite(b *testing.B) { benchmarkUnary(b, methodWrite, aWrite) }
func BenchmarkUnaryRead(b *testing.B)  { benchmarkUnary(b, methodRead, aRead) }
