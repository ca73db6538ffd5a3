package client_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc"
	"github.com/pairdb/coordinator/rpc/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine keeps keys in memory. It remembers idempotency keys as the real one
// does, and fails or holds operations as a test says.
type engine struct {
	rpc.Engine // of which no more is used
	mu         sync.Mutex
	values     map[string][]byte
	claims     map[string]bool
	counter    int64
	asked      []coord.WriteRequest

	// before is asked before an operation takes effect; its error is the
	// answer. After lets it take effect and fails it all the same.
	before func(delete, read bool, key string) error
	after  func(key string) error
	hold   chan struct{} // operations wait until it is closed
	waits  atomic.Int64  // operations that have come to wait
}

func newEngine() *engine {
	return &engine{values: map[string][]byte{}, claims: map[string]bool{}}
}

func (e *engine) KnownLimits(string) (coord.TenantLimits, bool) { return coord.TenantLimits{}, false }

func (e *engine) Write(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
	if err := e.wait(r.Deadline); err != nil {
		return coord.WriteResult{}, &coord.WriteError{Outcome: coord.NotApplied, Err: err}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, r)
	if e.before != nil {
		if err := e.before(r.Delete, false, r.Key); err != nil {
			return coord.WriteResult{}, err
		}
	}
	duplicate := false
	if r.IdempotencyKey != "" {
		duplicate = e.claims[r.Key+"/"+r.IdempotencyKey]
		e.claims[r.Key+"/"+r.IdempotencyKey] = true
	}
	if !duplicate {
		e.counter++
		if r.Delete {
			delete(e.values, r.Key)
		} else {
			e.values[r.Key] = r.Value
		}
	}
	if e.after != nil {
		if err := e.after(r.Key); err != nil {
			return coord.WriteResult{}, err
		}
	}
	return coord.WriteResult{Clock: coord.Clock{{ID: "c1", Counter: e.counter}}, Replicas: 2, Level: coord.Quorum, Duplicate: duplicate}, nil
}

func (e *engine) Read(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
	if err := e.wait(r.Deadline); err != nil {
		return coord.ReadResult{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.before != nil {
		if err := e.before(false, true, r.Key); err != nil {
			return coord.ReadResult{}, err
		}
	}
	value, ok := e.values[r.Key]
	if !ok {
		return coord.ReadResult{}, coord.ErrKeyNotFound
	}
	return coord.ReadResult{Value: value, Clock: coord.Clock{{ID: "c1", Counter: e.counter}}, UpdatedAt: time.UnixMilli(1_700_000_000_000)}, nil
}

func (e *engine) wait(due time.Time) error {
	if e.hold == nil {
		return nil
	}
	e.waits.Add(1)
	select {
	case <-e.hold:
		return nil
	case <-time.After(time.Until(due)):
		return coord.ErrDeadlineExceeded
	}
}

func (e *engine) StartWrite(r coord.WriteRequest, w coord.Waiter) {
	if e.hold == nil {
		w.Written(e.Write(context.Background(), r))
		return
	}
	go func() { w.Written(e.Write(context.Background(), r)) }()
}

func (e *engine) StartRead(r coord.ReadRequest, w coord.Waiter) {
	if e.hold == nil {
		w.Found(e.Read(context.Background(), r))
		return
	}
	go func() { w.Found(e.Read(context.Background(), r)) }()
}

// serve serves e at address, a free one for the empty address, until stop.
func serve(tb testing.TB, e rpc.Engine, address string, change func(*rpc.Options)) (at string, stop func()) {
	tb.Helper()
	opts := rpc.Options{Engine: e}
	if change != nil {
		change(&opts)
	}
	server, err := rpc.NewServer(opts)
	if err != nil {
		tb.Fatal(err)
	}
	if address == "" {
		address = "127.0.0.1:0"
	}
	lis, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_ = server.Stop(ctx) // cut off requests are what some tests are about
			if err := <-served; err != nil {
				tb.Error(err)
			}
		})
	}
	tb.Cleanup(stop)
	return lis.Addr().String(), stop
}

func dial(tb testing.TB, address string, opts client.Options) *client.Client {
	tb.Helper()
	c, err := client.Dial(address, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	tb.Cleanup(cancel)
	return ctx
}
