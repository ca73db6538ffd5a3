package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// traceHeader in a request's metadata asks for a trace, which comes in the
// trailer traceTrailer.
const (
	traceHeader  = "pairdb-trace"
	traceTrailer = "pairdb-trace-bin"
)

// maxTraceBytes bounds what a trailer carries: it grows by a third on its way,
// and some clients accept no more than 8 KiB of metadata.
const maxTraceBytes = 5 << 10

// Tracing records requests as spans of a system of traces. Its methods are safe
// for concurrent use, and quick: they are called on the path of requests.
type Tracing interface {
	// Handler is told of each RPC by gRPC, and makes its span part of its context.
	Handler() stats.Handler
	// Request begins to record the request of one key whose RPC ctx is of. It
	// is nil where the RPC is not sampled.
	Request(ctx context.Context, tenant, key string, level coord.Level) *coord.Trace
	// Failed notes the reason of the error of the RPC that ctx is of.
	Failed(ctx context.Context, reason string)
	// Operation begins the span of one operation of the many in the RPC that ctx
	// is of; method is the RPC that does the same alone. Parent is the W3C
	// traceparent that the client gave for it; where that is empty the RPC's own
	// span is its parent, if there is one. Both results are nil where it is not sampled; otherwise
	// end is called when it is answered, with the reason of its error.
	Operation(ctx context.Context, parent, method, tenant, key string, level coord.Level) (t *coord.Trace, end func(code codes.Code, reason string))
}

// asksForTrace tells whether the client wants a trace in the trailer.
func asksForTrace(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, traceHeader)) != 0
}

// wantedTrace is a trace to be filled where the client asked for one or the
// request is sampled, else nil.
func (s *service) wantedTrace(ctx context.Context, tenant, key string, level coord.Level) *coord.Trace {
	if tracing := s.server.opts.Tracing; tracing != nil {
		if t := tracing.Request(ctx, tenant, key, level); t != nil {
			return t
		}
	}
	if !asksForTrace(ctx) {
		return nil
	}
	return new(coord.Trace)
}

// sendTrace sends what was recorded until now, if the client asked for it.
func sendTrace(ctx context.Context, t *coord.Trace) {
	if t == nil || !asksForTrace(ctx) {
		return
	}
	m := TraceMessage(t)
	shorten(m)
	if text, err := proto.Marshal(m); err == nil {
		// It fails only where there is no RPC any more to trail.
		_ = grpc.SetTrailer(ctx, metadata.Pairs(traceTrailer, string(text)))
	}
}

// shorten leaves out the last steps until the rest may be sent.
func shorten(m *coordinatorpb.Trace) {
	for proto.Size(m) > maxTraceBytes && len(m.Steps) > 0 {
		last := len(m.Steps) - 1
		m.Steps, m.LeftOut = m.Steps[:last], m.LeftOut+1
	}
}

// TraceMessage is what t has recorded until now, as it is sent.
func TraceMessage(t *coord.Trace) *coordinatorpb.Trace {
	steps, left, winner := t.Steps()
	m := &coordinatorpb.Trace{LeftOut: int32(left)}
	if winner.Exists() {
		m.Version = winner.String()
	}
	for i := range steps {
		s := &steps[i]
		step := &coordinatorpb.TraceStep{AtUs: s.At.Microseconds(), Kind: s.Kind.String(), NodeId: s.Node, What: s.What, Hedge: s.Hedge, TookUs: s.Took.Microseconds()}
		switch {
		case s.Err != nil:
			step.Error = strings.ToValidUTF8(s.Err.Error(), "\uFFFD")
		case s.Kind == coord.TraceReply:
			step.Version = s.Held.String()
			if s.Held.Exists() && winner.Exists() {
				step.Relation = relationName(&s.Held, &winner, s.Relation)
			}
		}
		m.Steps = append(m.Steps, step)
	}
	return m
}

func relationName(held, winner *coord.Head, r coord.Relation) string {
	switch {
	case held.Compare(winner) == 0:
		return "same"
	case r == coord.Concurrent:
		return "concurrent"
	}
	return "dominated"
}
