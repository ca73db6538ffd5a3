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

	"github.com/pairdb/coordinator/ops/timeline"
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

// drawTrace draws a line for each call and step, over time from left to right.
func drawTrace(w io.Writer, t *pb.Trace) error {
	rows, end := timeline.Rows(t)
	head := "trace of " + micros(max(end, 1))
	if t.GetVersion() != "" {
		head += ", version " + t.GetVersion()
	}
	var b strings.Builder
	fmt.Fprintln(&b, head)
	node, what := 4, 4
	for _, r := range rows {
		node, what = max(node, len(r.Node)), max(what, len(r.What))
	}
	for _, r := range rows {
		line := fmt.Sprintf("%-*s  %-*s  %s  %s", node, r.Node, what, r.What, bar(r, end), r.Note)
		fmt.Fprintln(&b, strings.TrimRight(line, " "))
	}
	if left := t.GetLeftOut(); left > 0 {
		fmt.Fprintf(&b, "and %d more steps\n", left)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// bar draws a row's time between bars; what takes no time is a point.
func bar(r timeline.Row, end int64) string {
	column := func(at int64) int {
		if end == 0 {
			return 0
		}
		return int(at * (chartWidth - 1) / end)
	}
	from, to := column(r.From), column(r.To)
	line := []byte(strings.Repeat(" ", chartWidth))
	for i := from; i <= to; i++ {
		line[i] = '='
	}
	switch {
	case r.Skipped:
		line[0] = 'x'
	case r.From == r.To:
		line[from] = '^'
	case r.Open:
		line[to] = '>'
	}
	return "|" + string(line) + "|"
}
