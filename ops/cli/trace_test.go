package cli

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const (
	oldVersion = "1795628564035671195@coordinator-1/1{coordinator-1:1}"
	newVersion = "1795628564071259317@coordinator-1/1{coordinator-1:2}"
)

func step(at int64, kind, node, what string, change func(*pb.TraceStep)) *pb.TraceStep {
	s := &pb.TraceStep{AtUs: at, Kind: kind, NodeId: node, What: what}
	if change != nil {
		change(s)
	}
	return s
}

func holds(version, relation string) func(*pb.TraceStep) {
	return func(s *pb.TraceStep) { s.Version, s.Relation = version, relation }
}

func fails(with string) func(*pb.TraceStep) { return func(s *pb.TraceStep) { s.Error = with } }

// traces are what coordinators send for operations of every kind.
var traces = map[string]*pb.Trace{
	"trace-write.txt": {Version: newVersion, Steps: []*pb.TraceStep{
		step(20, "claim", "", "reserve", nil),
		step(24, "send", "storage-2", "clocks", nil), step(25, "send", "storage-3", "clocks", nil),
		step(310, "reply", "storage-3", "clocks", holds(oldVersion, "dominated")),
		step(350, "reply", "storage-2", "clocks", holds("absent", "")),
		step(400, "claimed", "", "reserve", nil),
		step(402, "claim", "", "mint", nil), step(640, "claimed", "", "mint", nil),
		step(644, "send", "storage-2", "send", nil), step(645, "send", "storage-3", "send", nil), step(646, "send", "storage-1", "send", nil),
		step(1100, "reply", "storage-2", "send", holds(newVersion, "same")), step(1180, "reply", "storage-1", "send", holds(newVersion, "same")),
		step(1181, "answer", "", "", nil),
	}},
	"trace-conflict.txt": {Version: newVersion, Steps: []*pb.TraceStep{
		step(10, "send", "storage-2", "read", nil), step(11, "send", "storage-3", "read", nil),
		step(300, "reply", "storage-2", "read", holds("1795628564035671195@coordinator-2/1{coordinator-2:1}", "concurrent")),
		step(320, "reply", "storage-3", "read", holds(newVersion, "same")),
		step(322, "send", "storage-3", "fetch", nil), step(600, "reply", "storage-3", "fetch", holds(newVersion, "same")),
		step(602, "send", "storage-2", "repair", nil), step(990, "reply", "storage-2", "repair", holds(newVersion, "same")),
		step(991, "answer", "", "", nil),
	}},
	"trace-dead.txt": {Version: newVersion, Steps: []*pb.TraceStep{
		step(0, "skip", "storage-1", "", fails("connection refused")),
		step(24, "send", "storage-2", "clocks", nil), step(25, "send", "storage-3", "clocks", nil),
		step(310, "reply", "storage-3", "clocks", holds("absent", "")), step(350, "reply", "storage-2", "clocks", holds("absent", "")),
		step(352, "hint", "storage-1", "", nil),
		step(353, "send", "storage-2", "send", nil), step(354, "send", "storage-3", "send", nil),
		step(800, "reply", "storage-3", "send", holds(newVersion, "same")), step(830, "reply", "storage-2", "send", holds(newVersion, "same")),
		step(831, "answer", "", "", nil),
	}},
	"trace-hedge.txt": {Version: newVersion, Steps: []*pb.TraceStep{
		step(10, "send", "storage-2", "read", nil), step(11, "send", "storage-3", "read", nil),
		step(320, "reply", "storage-3", "read", holds(newVersion, "same")),
		step(2410, "send", "storage-1", "read", func(s *pb.TraceStep) { s.Hedge = true }),
		step(2800, "reply", "storage-1", "read", holds(newVersion, "same")),
		step(2801, "answer", "", "", nil),
	}},
	"trace-failed.txt": {LeftOut: 3, Steps: []*pb.TraceStep{
		step(10, "send", "storage-2", "read", nil), step(11, "send", "storage-3", "read", nil),
		step(400, "reply", "storage-3", "read", fails("too many calls are waiting")), step(400, "answer", "", "", nil),
		step(420, "reply", "storage-9", "read", nil), // its beginning was left out
	}},
}

func TestTraceIsDrawn(t *testing.T) {
	for name, trace := range traces {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := drawTrace(&out, trace); err != nil {
				t.Fatal(err)
			}
			golden(t, name, out.String())
		})
	}
}

// Put, get and delete ask for a trace only with -trace, draw it beside their
// answer and never in it, and draw that of a request that failed, too.
func TestTraceIsAskedForAndDrawn(t *testing.T) {
	asked := 0
	trail := func(ctx context.Context) {
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("pairdb-trace")) == 1 {
			asked++
			text, err := proto.Marshal(traces["trace-hedge.txt"])
			if err != nil {
				t.Error(err)
			}
			if err := grpc.SetTrailer(ctx, metadata.Pairs("pairdb-trace-bin", string(text))); err != nil {
				t.Error(err)
			}
		}
	}
	s := &server{
		read: func(ctx context.Context, q *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
			trail(ctx)
			if q.GetKey() == "absent" {
				return nil, failure(codes.NotFound, "KEY_NOT_FOUND", "", "key not found")
			}
			return &pb.ReadKeyValueResponse{Value: []byte("value")}, nil
		},
		write: func(ctx context.Context, q *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
			trail(ctx)
			return &pb.WriteKeyValueResponse{Key: q.GetKey(), Consistency: "quorum", ReplicaCount: 2}, nil
		},
	}
	addr := s.start(t)
	run(t, addr, "", "get", "k").expect(t, ExitDone, "value", "")
	if asked != 0 {
		t.Error("a trace was asked for without -trace")
	}
	var drawn strings.Builder
	if err := drawTrace(&drawn, traces["trace-hedge.txt"]); err != nil {
		t.Fatal(err)
	}
	run(t, addr, "", "get", "-trace", "k").expect(t, ExitDone, "value", drawn.String())
	run(t, addr, "", "put", "k", "v", "-trace").expect(t, ExitDone, "stored k at quorum: 2 replicas\n", drawn.String())
	run(t, addr, "", "get", "-trace", "absent").expect(t, ExitNotFound, "", drawn.String()+"error: key not found (KEY_NOT_FOUND)\n")
}

func TestNoTraceIsSaid(t *testing.T) {
	s := &server{read: func(context.Context, *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
		return nil, failure(codes.InvalidArgument, "INVALID_REQUEST", "", "no")
	}}
	o := run(t, s.start(t), "", "get", "-trace", "k")
	if o.code != ExitFailed || !strings.Contains(o.stderr, "sent no trace") || !strings.Contains(o.stderr, "INVALID_REQUEST") {
		t.Errorf("%+v", o)
	}
}
