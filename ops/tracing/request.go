package tracing

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	grpccodes "google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
)

// Names of attributes that the semantic conventions have none for.
const (
	tenantKey   = attribute.Key("pairdb.tenant.id")
	keyKey      = attribute.Key("pairdb.key")
	levelKey    = attribute.Key("pairdb.consistency")
	reasonKey   = attribute.Key("pairdb.error.reason")
	nodeKey     = attribute.Key("pairdb.node.id")
	hedgeKey    = attribute.Key("pairdb.hedge")
	versionKey  = attribute.Key("pairdb.version")
	relationKey = attribute.Key("pairdb.version.relation")
	leftOutKey  = attribute.Key("pairdb.steps_left_out")
)

// Request begins to record the request of one key whose RPC ctx is of. It is
// nil where the RPC is not sampled.
func (t *Tracing) Request(ctx context.Context, tenant, key string, level coord.Level) *coord.Trace {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return nil
	}
	span.SetAttributes(t.about(tenant, key, level)...)
	return t.follow(span.SpanContext(), tenant)
}

// Failed notes why the RPC that ctx is of has failed.
func (t *Tracing) Failed(ctx context.Context, reason string) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() && reason != "" {
		span.SetAttributes(reasonKey.String(reason))
	}
}

// Operation begins the span of one operation of the many in the RPC that ctx is
// of. Parent is the W3C traceparent that the client gave for it; where that is
// empty, the RPC's span is the parent, and where there is none the operation
// may begin a trace. Both results are nil where it is not sampled.
func (t *Tracing) Operation(ctx context.Context, parent, method, tenant, key string, level coord.Level) (*coord.Trace, func(grpccodes.Code, string)) {
	kind, outer := trace.SpanKindInternal, trace.SpanContextFromContext(ctx)
	switch {
	case parent != "":
		kind = trace.SpanKindServer
		outer = trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), traceparent(parent)))
	case outer.IsRemote(): // of the client that opened a stream, for all that it carries
		outer = trace.SpanContext{}
	}
	if outer.IsValid() {
		if !outer.IsSampled() {
			return nil, nil
		}
	} else {
		kind = trace.SpanKindServer
		if rand.Float64() >= t.options.SampleRatio {
			return nil, nil
		}
	}
	_, span := t.tracer.Start(trace.ContextWithSpanContext(context.Background(), outer), method,
		trace.WithSpanKind(kind), trace.WithAttributes(t.about(tenant, key, level)...))
	end := func(code grpccodes.Code, reason string) {
		if code != grpccodes.OK {
			span.SetAttributes(semconv.ErrorTypeKey.String(reason), reasonKey.String(reason))
			if isFault(code) {
				span.SetStatus(codes.Error, reason)
			}
		}
		span.End()
	}
	return t.follow(span.SpanContext(), tenant), end
}

// isFault tells failures of the server from those of the request, as the
// semantic conventions do for spans of servers.
func isFault(c grpccodes.Code) bool {
	switch c {
	case grpccodes.Unknown, grpccodes.DeadlineExceeded, grpccodes.Unimplemented, grpccodes.Internal, grpccodes.Unavailable, grpccodes.DataLoss:
		return true
	}
	return false
}

// about is what the span of a request says of it.
func (t *Tracing) about(tenant, key string, level coord.Level) []attribute.KeyValue {
	about := []attribute.KeyValue{tenantKey.String(tenant), levelKey.String(level.String())}
	if t.options.Keys {
		about = append(about, keyKey.String(strings.Clone(key)))
	}
	return about
}

// traceparent is a trace context that came by itself.
type traceparent string

// Get returns the header of a name.
func (p traceparent) Get(name string) string {
	if name == "traceparent" {
		return string(p)
	}
	return ""
}

// Set and Keys complete a propagation.TextMapCarrier; nothing is put in.
func (traceparent) Set(string, string) {}

// Keys lists what Get knows.
func (traceparent) Keys() []string { return []string{"traceparent"} }

// follow makes the recording of what belongs to a span. Its spans are made when
// all has ended, which costs the operation no more than the recording does.
func (t *Tracing) follow(parent trace.SpanContext, tenant string) *coord.Trace {
	id, span := parent.TraceID(), parent.SpanID()
	tenant = strings.Clone(tenant) // it may lie in a request's memory
	return &coord.Trace{
		Context: coord.TraceContext{
			High: binary.BigEndian.Uint64(id[:8]), Low: binary.BigEndian.Uint64(id[8:]), Span: binary.BigEndian.Uint64(span[:]),
		},
		Ended: func(r *coord.Trace) { t.record(r, parent, tenant) },
	}
}

// record makes the spans of an operation's calls.
func (t *Tracing) record(r *coord.Trace, parent trace.SpanContext, tenant string) {
	steps, left, _ := r.Steps()
	began := r.Began()
	outer := trace.ContextWithSpanContext(context.Background(), parent)
	common := []attribute.KeyValue{semconv.DBSystemNameKey.String("pairdb"), tenantKey.String(tenant)}
	if left > 0 {
		common = append(common, leftOutKey.Int(left))
	}
	span := func(ctx context.Context, name string, kind trace.SpanKind, from, to time.Duration, err error, about ...attribute.KeyValue) {
		_, s := t.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithTimestamp(began.Add(from)),
			trace.WithAttributes(common...), trace.WithAttributes(about...))
		if err != nil {
			s.SetStatus(codes.Error, strings.ToValidUTF8(err.Error(), "\uFFFD"))
			s.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
		}
		s.End(trace.WithTimestamp(began.Add(to)))
	}
	for i := range steps {
		s := &steps[i]
		switch s.Kind {
		case coord.TraceSend:
			// What was left out of the recording ends with it.
			end, reply := steps[len(steps)-1].At, (*coord.TraceStep)(nil)
			for j := i + 1; j < len(steps) && reply == nil; j++ {
				if steps[j].Kind == coord.TraceReply && steps[j].Span == s.Span {
					reply = &steps[j]
				}
			}
			about := []attribute.KeyValue{semconv.DBOperationName(s.What), nodeKey.String(s.Node)}
			if s.Hedge {
				about = append(about, hedgeKey.Bool(true))
			}
			var err error
			if reply != nil {
				end, err = reply.At, reply.Err
				if err == nil {
					about = append(about, versionKey.String(reply.Held.String()), relationKey.String(reply.Relation.String()))
				}
			}
			span(preset(outer, s.Span), "replica "+s.What, trace.SpanKindClient, s.At, end, err, about...)
		case coord.TraceClaim:
			end, err := steps[len(steps)-1].At, error(nil)
			for _, later := range steps[i+1:] {
				if later.Kind == coord.TraceClaimed && later.What == s.What {
					end, err = later.At, later.Err
					break
				}
			}
			span(outer, "claim "+s.What, trace.SpanKindClient, s.At, end, err, semconv.DBOperationName(s.What))
		case coord.TraceSkip, coord.TraceHint:
			span(outer, "replica "+s.Kind.String(), trace.SpanKindInternal, s.At, s.At, s.Err, nodeKey.String(s.Node))
		}
	}
}

// errorType is the kind of a call's error, of which there are few.
func errorType(err error) string {
	for _, kind := range []struct {
		err  error
		name string
	}{
		{coord.ErrDiskFull, "disk_full"}, {coord.ErrReplicaRefused, "refused"}, {coord.ErrCorrupt, "corrupt"},
		{coord.ErrReplicaUnavailable, "unavailable"}, {context.DeadlineExceeded, "timeout"},
	} {
		if errors.Is(err, kind.err) {
			return kind.name
		}
	}
	if stale := (*coord.StaleRingError)(nil); errors.As(err, &stale) {
		return "stale_ring"
	}
	return "_OTHER"
}
