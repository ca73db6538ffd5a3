package rpc

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"

	"github.com/pairdb/coordinator/rpc/storagepb"
)

// sumsTraffic counts the bytes of questions and answers about sums, which is
// what the comparison of equal replicas costs. It is a stats.Handler.
type sumsTraffic struct{ bytes atomic.Int64 }

// ComparedBytes is how many bytes coordinators and this node have exchanged to
// compare it with other nodes.
func (s *StorageServer) ComparedBytes() int64 { return s.traffic.bytes.Load() }

type sumsCall struct{}

// TagRPC marks the calls that are counted.
func (t *sumsTraffic) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if info.FullMethodName != storagepb.StorageService_Sums_FullMethodName {
		return ctx
	}
	return context.WithValue(ctx, sumsCall{}, true)
}

// HandleRPC counts a message of such a call, as long as it is on the wire.
func (t *sumsTraffic) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if ctx.Value(sumsCall{}) == nil {
		return
	}
	switch e := event.(type) {
	case *stats.InPayload:
		t.bytes.Add(int64(e.WireLength))
	case *stats.OutPayload:
		t.bytes.Add(int64(e.WireLength))
	}
}

// TagConn does nothing.
func (t *sumsTraffic) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (t *sumsTraffic) HandleConn(context.Context, stats.ConnStats) {}
