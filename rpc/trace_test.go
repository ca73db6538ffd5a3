package rpc

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// A trace is recorded and sent where the client asked for one, of failures too,
// and nothing is where it did not.
func TestTraceTravelsInTheTrailer(t *testing.T) {
	var traced bool
	engine := &script{
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			traced = r.Trace != nil
			return coord.WriteResult{}, nil
		},
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			traced = r.Trace != nil
			return coord.ReadResult{}, coord.ErrKeyNotFound
		},
	}
	client, ctx := startClient(t, engine), testContext(t)
	asking := metadata.AppendToOutgoingContext(ctx, "pairdb-trace", "1")
	calls := map[string]func(context.Context, ...grpc.CallOption) error{
		"write": func(ctx context.Context, o ...grpc.CallOption) error {
			_, err := client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k"}, o...)
			return err
		},
		"delete": func(ctx context.Context, o ...grpc.CallOption) error {
			_, err := client.DeleteKeyValue(ctx, &coordinatorpb.DeleteKeyValueRequest{TenantId: "t", Key: "k"}, o...)
			return err
		},
		"read": func(ctx context.Context, o ...grpc.CallOption) error {
			_, err := client.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k"}, o...)
			return err
		},
	}
	for name, call := range calls {
		var trailer metadata.MD
		if err := call(ctx, grpc.Trailer(&trailer)); (err != nil) != (name == "read") {
			t.Errorf("%s: %v", name, err)
		}
		if traced || len(trailer.Get(traceTrailer)) != 0 {
			t.Errorf("%s is traced though nobody asked", name)
		}
		_ = call(asking, grpc.Trailer(&trailer))
		sent := trailer.Get(traceTrailer)
		if !traced || len(sent) != 1 {
			t.Fatalf("%s: traced %t, trailer %v", name, traced, trailer)
		}
		if err := proto.Unmarshal([]byte(sent[0]), new(coordinatorpb.Trace)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTraceThatIsTooLongIsCut(t *testing.T) {
	m := &coordinatorpb.Trace{LeftOut: 2}
	for range 100 {
		m.Steps = append(m.Steps, &coordinatorpb.TraceStep{Kind: "reply", Error: strings.Repeat("e", 200)})
	}
	shorten(m)
	if size := proto.Size(m); size > maxTraceBytes || size < maxTraceBytes-300 || int(m.LeftOut)+len(m.Steps) != 102 {
		t.Errorf("%d bytes, %d steps, %d left out", size, len(m.Steps), m.LeftOut)
	}
}
