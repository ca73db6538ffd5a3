package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
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

// wantedTrace is a trace to be filled where the client asked for one, else nil.
func wantedTrace(ctx context.Context) *coord.Trace {
	if len(metadata.ValueFromIncomingContext(ctx, traceHeader)) == 0 {
		return nil
	}
	return new(coord.Trace)
}

// sendTrace sends what was recorded until now, if anything was to be.
func sendTrace(ctx context.Context, t *coord.Trace) {
	if t == nil {
		return
	}
	m := traceMessage(t)
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

func traceMessage(t *coord.Trace) *coordinatorpb.Trace {
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
