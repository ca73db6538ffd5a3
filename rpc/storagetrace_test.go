package rpc

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/stats"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// recorded is a StorageTracing that keeps the spans that calls named.
type recorded struct {
	mu    sync.Mutex
	calls []coord.TraceContext
}

func (*recorded) Handler() stats.Handler { return new(sumsTraffic) }

func (r *recorded) Call(call *coord.Call, began time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !began.IsZero() && err == nil {
		r.calls = append(r.calls, call.Trace)
	}
}

// A frame carries the span of a call that has one to the node, and for another
// call not a byte.
func TestFramesCarrySpans(t *testing.T) {
	tracing := new(recorded)
	server, err := NewStorageServer(StorageServerOptions{Replica: &steady{held: version(2, nil)}, Tracing: tracing})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop(t.Context())
	m := new(outgoing)
	size := func(calls ...*coord.Call) int {
		m.clear()
		for _, c := range calls {
			m.add(1, c, time.Minute, false)
		}
		return codec.Message(&m.batch).SizeVT()
	}
	calls := budgetCalls(coord.CallHead, 2)
	plain := size(calls[0])
	want := coord.TraceContext{High: 1 << 63, Low: 2, Span: 3}
	calls[1].Trace = want
	if grown := size(calls[1]) - plain; grown != 27 {
		t.Errorf("a span takes %d bytes, want 27: three numbers of 8 and their tags", grown)
	}
	// The memory of a message is used again, the span of a call is not.
	if size(calls[0]) != plain {
		t.Error("the call after a traced one carries its span")
	}
	size(calls[1], calls[0])
	stream := &repeated{raw: marshalled(&m.batch, nil), left: 1}
	if err := newExchange(server, stream).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var replies storagepb.BatchReply
	if err := replies.UnmarshalVTUnsafe(stream.out); err != nil {
		t.Fatal(err)
	}
	if len(tracing.calls) != 1 || tracing.calls[0] != want {
		t.Errorf("recorded %v", tracing.calls)
	}
}
