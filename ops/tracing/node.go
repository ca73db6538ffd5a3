package tracing

import (
	"context"
	"encoding/binary"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/pairdb/coordinator/coord"
)

// Call makes the span of an operation that a coordinator has sent to this
// storage node as part of a trace.
func (t *Tracing) Call(call *coord.Call, began time.Time, err error) {
	var id trace.TraceID
	binary.BigEndian.PutUint64(id[:8], call.Trace.High)
	binary.BigEndian.PutUint64(id[8:], call.Trace.Low)
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: spanID(call.Trace.Span), TraceFlags: trace.FlagsSampled, Remote: true,
	})
	_, span := t.tracer.Start(trace.ContextWithSpanContext(context.Background(), parent), "storage "+call.Kind.String(),
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(began),
		trace.WithAttributes(semconv.DBSystemNameKey.String("pairdb"), semconv.DBOperationName(call.Kind.String()), nodeKey.String(t.options.Instance)))
	if err != nil {
		span.SetStatus(codes.Error, strings.ToValidUTF8(err.Error(), "\uFFFD"))
		span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
	}
	span.End()
}
