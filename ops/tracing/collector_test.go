package tracing

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// collector is a receiver of OTLP.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	address string
	mu      sync.Mutex
	spans   []*tracepb.Span
	headers metadata.MD
	block   chan struct{} // not nil: answers wait for it
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{address: lis.Addr().String()}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *collector) Export(ctx context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	if c.block != nil {
		select {
		case <-c.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, _ = metadata.FromIncomingContext(ctx)
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return new(collectorpb.ExportTraceServiceResponse), nil
}

func (c *collector) received() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*tracepb.Span(nil), c.spans...)
}

func openAt(t *testing.T, address string, change func(*Options)) *Tracing {
	t.Helper()
	o := Options{Service: "test", Instance: "node-1", Endpoint: address, Timeout: time.Second, QueueSize: 64, SampleRatio: 1}
	if change != nil {
		change(&o)
	}
	tracing, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return tracing
}

func closed(t *testing.T, tracing *Tracing) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := tracing.Close(ctx); err != nil {
		t.Error(err)
	}
}
