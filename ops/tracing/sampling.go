package tracing

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strings"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// isRequest tells the RPCs that get a span: all but those of health checks and
// reflection, and the stream of a Pipeline, which lasts for minutes and whose
// operations have spans of their own.
func isRequest(method string) bool {
	return !strings.HasPrefix(method, "/grpc.") && !strings.HasSuffix(method, "/Pipeline")
}

// requests is a sampler that begins traces with what comes in and not with what
// this process does of its own accord, such as comparing replicas.
type requests struct {
	sdktrace.Sampler
}

// ShouldSample decides about a span without parent.
func (s *requests) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Kind != trace.SpanKindServer {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	return s.Sampler.ShouldSample(p)
}

// ids makes random ids, but for the span whose id is in the context.
type ids struct{}

type presetSpan struct{}

// preset makes id that of the next span.
func preset(ctx context.Context, id uint64) context.Context {
	return context.WithValue(ctx, presetSpan{}, id)
}

// NewIDs makes the ids of a trace and its first span.
func (ids) NewIDs(ctx context.Context) (id trace.TraceID, span trace.SpanID) {
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:8], rand.Uint64())
		binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id, ids{}.NewSpanID(ctx, id)
}

// NewSpanID makes the id of a span.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) (span trace.SpanID) {
	if given, ok := ctx.Value(presetSpan{}).(uint64); ok {
		return spanID(given)
	}
	return spanID(rand.Uint64() | 1) // never 0
}

func spanID(n uint64) (id trace.SpanID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}
