package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// traced adds -trace to a command that makes one call.
func traced(run action) func(*flag.FlagSet) action {
	return func(fs *flag.FlagSet) action {
		trace := traceFlag(fs)
		return func(ctx context.Context, in *invocation) error {
			in.trace = *trace
			return run(ctx, in)
		}
	}
}

func traceFlag(fs *flag.FlagSet) *bool {
	return fs.Bool("trace", false, "draw what the coordinator did, step by step, on standard error")
}

// askTraced is ask that draws the trace of the call where -trace asks for it,
// of a call that failed, too.
func askTraced[Q, A any](
	ctx context.Context, in *invocation,
	method func(pb.CoordinatorServiceClient, context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	if !in.trace {
		return ask(ctx, in, method, request)
	}
	var trailer metadata.MD
	ctx = metadata.AppendToOutgoingContext(ctx, "pairdb-trace", "1")
	answer, err := ask(ctx, in, func(c pb.CoordinatorServiceClient, ctx context.Context, q *Q, _ ...grpc.CallOption) (*A, error) {
		return method(c, ctx, q, grpc.Trailer(&trailer))
	}, request)
	return answer, errors.Join(err, in.drawTrailer(trailer))
}

// drawTrailer draws the trace of a trailer.
func (in *invocation) drawTrailer(trailer metadata.MD) error {
	sent := trailer.Get("pairdb-trace-bin")
	if len(sent) == 0 {
		_, err := fmt.Fprintln(in.Stderr, "the coordinator sent no trace: the request did not get as far as to replicas")
		return err
	}
	var t pb.Trace
	if err := proto.Unmarshal([]byte(sent[0]), &t); err != nil {
		return fmt.Errorf("read the trace: %w", err)
	}
	return drawTrace(in.Stderr, &t)
}

// chartWidth is the columns of a trace's time axis.
const chartWidth = 40

// traceRow is one line of the chart: something with a begin and an end.
type traceRow struct {
	node, what string
	from, to   int64 // microseconds
	open       bool  // it had not ended
	note       string
}

// drawTrace draws a line for each call and step, over time from left to right.
func drawTrace(w io.Writer, t *pb.Trace) error {
	rows, end := traceRows(t)
	head := "trace of " + micros(max(end, 1))
	if t.GetVersion() != "" {
		head += ", version " + t.GetVersion()
	}
	var b strings.Builder
	fmt.Fprintln(&b, head)
	node, what := 4, 4
	for _, r := range rows {
		node, what = max(node, len(r.node)), max(what, len(r.what))
	}
	for _, r := range rows {
		line := fmt.Sprintf("%-*s  %-*s  %s  %s", node, r.node, what, r.what, bar(r, end), r.note)
		fmt.Fprintln(&b, strings.TrimRight(line, " "))
	}
	if left := t.GetLeftOut(); left > 0 {
		fmt.Fprintf(&b, "and %d more steps\n", left)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// traceRows joins what begins with what ends it, in order of their beginnings.
func traceRows(t *pb.Trace) (rows []traceRow, end int64) {
	begun := map[string]int{} // row by what it waits for
	for _, s := range t.GetSteps() {
		end = max(end, s.GetAtUs())
		switch s.GetKind() {
		case "skip":
			rows = append(rows, traceRow{node: s.GetNodeId(), what: "skipped", note: s.GetError()})
		case "send":
			note := ""
			if s.GetHedge() {
				note = "hedge: one more was asked, the first is slow; "
			}
			begun["call "+s.GetWhat()+" "+s.GetNodeId()] = len(rows)
			rows = append(rows, traceRow{node: s.GetNodeId(), what: whatOf[s.GetWhat()], from: s.GetAtUs(), open: true, note: note})
		case "claim":
			begun["claim "+s.GetWhat()] = len(rows)
			rows = append(rows, traceRow{what: s.GetWhat(), from: s.GetAtUs(), open: true})
		case "reply":
			endRow(rows, begun, "call "+s.GetWhat()+" "+s.GetNodeId(), s)
		case "claimed":
			endRow(rows, begun, "claim "+s.GetWhat(), s)
		case "hint":
			rows = append(rows, traceRow{node: s.GetNodeId(), what: "hint", from: s.GetAtUs(), to: s.GetAtUs(), note: "will be sent when it answers again"})
		case "answer":
			rows = append(rows, traceRow{what: "answer", from: s.GetAtUs(), to: s.GetAtUs(), note: "at " + micros(max(s.GetAtUs(), 1))})
		}
	}
	for i := range rows {
		if rows[i].open {
			rows[i].to = end
			rows[i].note += "had not answered by then"
		}
	}
	return rows, end
}

// whatOf names the parts of an operation.
var whatOf = map[string]string{
	"clocks": "ask version", "send": "write", "read": "read", "fetch": "fetch value", "repair": "repair",
}

func endRow(rows []traceRow, begun map[string]int, key string, s *pb.TraceStep) {
	i, ok := begun[key]
	if !ok {
		return // its beginning was left out
	}
	r := &rows[i]
	r.to, r.open = s.GetAtUs(), false
	took := micros(max(r.to-r.from, 1))
	switch {
	case s.GetError() != "":
		r.note += took + ", failed: " + s.GetError()
	case s.GetVersion() == "":
		r.note += took
	case s.GetRelation() == "":
		r.note += took + ", holds " + s.GetVersion()
	case s.GetRelation() == "same":
		r.note += took + ", holds this version"
	default:
		r.note += fmt.Sprintf("%s, holds %s, %s by this version", took, s.GetVersion(), map[string]string{
			"dominated": "dominated", "concurrent": "in conflict, replaced",
		}[s.GetRelation()])
	}
}

// bar draws a row's time between bars; what takes no time is a point.
func bar(r traceRow, end int64) string {
	column := func(at int64) int {
		if end == 0 {
			return 0
		}
		return int(at * (chartWidth - 1) / end)
	}
	from, to := column(r.from), column(r.to)
	line := []byte(strings.Repeat(" ", chartWidth))
	for i := from; i <= to; i++ {
		line[i] = '='
	}
	switch {
	case r.what == "skipped":
		line[0] = 'x'
	case r.from == r.to:
		line[from] = '^'
	case r.open:
		line[to] = '>'
	}
	return "|" + string(line) + "|"
}
