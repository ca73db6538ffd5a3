package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc"
	"github.com/pairdb/coordinator/rpc/client"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func TestPutGetDelete(t *testing.T) {
	address, _ := serve(t, newEngine(), "", nil)
	c, ctx := dial(t, address, client.Options{}), testContext(t)
	if _, err := c.Get(ctx, "k"); !errors.Is(err, client.ErrKeyNotFound) || status.Code(err) != codes.NotFound {
		t.Errorf("get before put: %v", err)
	}
	for name, value := range map[string][]byte{
		"small": []byte("v"), "empty": {}, "large": bytes.Repeat([]byte("0123456789abcdef"), 10<<16), "inline": make([]byte, 200<<10),
	} {
		if err := c.Put(ctx, name, value); err != nil {
			t.Fatalf("put %s: %v", name, err)
		}
		got, err := c.Get(ctx, name)
		if err != nil || got == nil || !bytes.Equal(got, value) {
			t.Errorf("get %s: %d bytes, %v; want %d bytes", name, len(got), err, len(value))
		}
	}
	w, err := c.Write(ctx, client.WriteRequest{Key: "k", Value: []byte("v"), IdempotencyKey: "i"})
	if err != nil || w.Replicas != 2 || w.Level != client.Quorum || w.Duplicate || len(w.Clock) != 1 || w.Clock[0].Coordinator != "c1" {
		t.Errorf("write: %+v, %v", w, err)
	}
	if w, err := c.Write(ctx, client.WriteRequest{Key: "k", Value: []byte("v"), IdempotencyKey: "i"}); err != nil || !w.Duplicate {
		t.Errorf("the same write again: %+v, %v", w, err)
	}
	r, err := c.Read(ctx, client.ReadRequest{Key: "k", Level: client.All})
	if err != nil || string(r.Value) != "v" || r.UpdatedAt.UnixMilli() != 1_700_000_000_000 || len(r.Clock) != 1 {
		t.Errorf("read: %+v, %v", r, err)
	}
	if r, err := c.Read(ctx, client.ReadRequest{Key: "large"}); err != nil || len(r.Value) != 10<<20 || len(r.Clock) != 1 || r.UpdatedAt.IsZero() {
		t.Errorf("read of a large value: %d bytes, %v, %v", len(r.Value), r.Clock, err)
	}
	if err := c.Delete(ctx, "k"); err != nil {
		t.Error(err)
	}
	if _, err := c.Get(ctx, "k"); !errors.Is(err, client.ErrKeyNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	if err := c.Put(ctx, "", nil); !errors.Is(err, client.ErrInvalidRequest) || status.Code(err) != codes.InvalidArgument {
		t.Errorf("put without a key: %v", err)
	}
	if err := c.Put(ctx, "k", make([]byte, 10<<20+1)); !errors.Is(err, client.ErrInvalidRequest) {
		t.Errorf("put of too much: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	e := newEngine()
	address, _ := serve(t, e, "", nil)
	c, ctx := dial(t, address, client.Options{Connections: 3, MaxBytes: 100 << 10}), testContext(t)
	var all sync.WaitGroup
	for g := range 50 {
		all.Go(func() {
			for i := range 40 {
				key, value := fmt.Sprintf("k%d-%d", g, i), []byte(fmt.Sprintf("v%d-%d", g, i))
				if err := c.Put(ctx, key, value); err != nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
				clear(value) // it is the caller's again
				if got, err := c.Get(ctx, key); err != nil || string(got) != fmt.Sprintf("v%d-%d", g, i) {
					t.Errorf("get %s: %q, %v", key, got, err)
				}
			}
		})
	}
	all.Wait()
	if len(e.values) != 2000 {
		t.Errorf("%d keys were written, want 2000", len(e.values))
	}
}

// What each error is, and whether it is tried again.
func TestErrorsAndRetries(t *testing.T) {
	e := newEngine()
	address, _ := serve(t, e, "", nil)
	plain := dial(t, address, client.Options{MaxAttempts: 3})
	keyed := dial(t, address, client.Options{MaxAttempts: 3, IdempotentWrites: true})
	ctx := testContext(t)
	quorum := fmt.Errorf("write: %w", coord.ErrNoQuorum)
	for _, c := range []struct {
		name              string
		err               error
		outcome           coord.Outcome
		kind              error
		code              codes.Code
		read, write, made int // attempts; made: with an idempotency key that the client makes
	}{
		{"quorum, in doubt", quorum, coord.InDoubt, client.ErrQuorumNotReached, codes.Unavailable, 3, 1, 3},
		{"quorum, not applied", quorum, coord.NotApplied, client.ErrQuorumNotReached, codes.Unavailable, 3, 3, 3},
		{"overloaded", coord.ErrOverloaded, coord.NotApplied, client.ErrOverloaded, codes.ResourceExhausted, 3, 3, 3},
		{"metadata", coord.ErrMetadataUnavailable, coord.NotApplied, client.ErrMetadataUnavailable, codes.Unavailable, 3, 3, 3},
		{"claims", coord.ErrIdempotencyUnavailable, coord.InDoubt, client.ErrIdempotencyUnavailable, codes.Unavailable, 3, 1, 3},
		{"shutting down", coord.ErrShuttingDown, coord.NotApplied, client.ErrShuttingDown, codes.Unavailable, 3, 3, 3},
		{"tenant", coord.ErrTenantNotFound, coord.NotApplied, client.ErrTenantNotFound, codes.NotFound, 1, 1, 1},
		{"conflict", coord.ErrIdempotencyConflict, coord.NotApplied, client.ErrIdempotencyKeyConflict, codes.AlreadyExists, 1, 1, 1},
		{"deadline", coord.ErrDeadlineExceeded, coord.InDoubt, client.ErrDeadlineExceeded, codes.DeadlineExceeded, 1, 1, 1},
		{"internal", errors.New("bug"), coord.InDoubt, nil, codes.Internal, 1, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tries int
			e.mu.Lock()
			e.before = func(_, read bool, _ string) error {
				tries++
				if read {
					return c.err
				}
				return &coord.WriteError{Outcome: c.outcome, Err: c.err}
			}
			e.mu.Unlock()
			check := func(what string, err error, want int, outcome string) {
				t.Helper()
				var failed *client.Error
				if !errors.As(err, &failed) || c.kind != nil && !errors.Is(err, c.kind) || status.Code(err) != c.code ||
					failed.Attempts != want || tries != want || string(failed.Outcome) != outcome {
					t.Errorf("%s: %+v after %d tries, want %d and outcome %q", what, err, tries, want, outcome)
				}
				if c.code == codes.Internal && failed.RequestID == "" {
					t.Errorf("%s: no request id in %+v", what, failed)
				}
				info := new(errdetails.ErrorInfo)
				for _, d := range status.Convert(err).Details() {
					if i, ok := d.(*errdetails.ErrorInfo); ok {
						info = i
					}
				}
				if info.Reason != failed.Reason || info.Domain != "pairdb" || info.Metadata["outcome"] != outcome {
					t.Errorf("%s: as a status it says %v", what, info)
				}
				tries = 0
			}
			readOutcome := ""
			if c.code == codes.ResourceExhausted {
				readOutcome = "not_applied"
			}
			_, err := plain.Get(ctx, "k")
			check("get", err, c.read, readOutcome)
			check("put", plain.Put(ctx, "k", nil), c.write, c.outcome.String())
			check("delete", plain.Delete(ctx, "k"), c.write, c.outcome.String())
			check("put with a key", keyed.Put(ctx, "k", nil), c.made, c.outcome.String())
		})
	}
}

// A write in doubt is tried again under one idempotency key, and takes effect once.
func TestAWriteInDoubtTakesEffectOnce(t *testing.T) {
	e := newEngine()
	address, _ := serve(t, e, "", nil)
	c := dial(t, address, client.Options{IdempotentWrites: true})
	lost := 2
	e.after = func(string) error {
		if lost--; lost >= 0 {
			return &coord.WriteError{Outcome: coord.InDoubt, Err: coord.ErrNoQuorum}
		}
		return nil
	}
	w, err := c.Write(testContext(t), client.WriteRequest{Key: "k", Value: []byte("v")})
	if err != nil || !w.Duplicate || e.counter != 1 || len(e.asked) != 3 {
		t.Errorf("%+v, %v; %d effects of %d attempts", w, err, e.counter, len(e.asked))
	}
	for _, r := range e.asked {
		if len(r.IdempotencyKey) != 32 || r.IdempotencyKey != e.asked[0].IdempotencyKey {
			t.Errorf("idempotency keys %q and %q", e.asked[0].IdempotencyKey, r.IdempotencyKey)
		}
	}
}

// What an attempt has left in doubt stays so, whatever becomes of the next.
func TestDoubtStays(t *testing.T) {
	e := newEngine()
	address, _ := serve(t, e, "", nil)
	c := dial(t, address, client.Options{})
	tries := 0
	e.before = func(bool, bool, string) error {
		if tries++; tries == 1 {
			return &coord.WriteError{Outcome: coord.InDoubt, Err: coord.ErrNoQuorum}
		}
		return &coord.WriteError{Outcome: coord.NotApplied, Err: coord.ErrTenantNotFound}
	}
	_, err := c.Write(testContext(t), client.WriteRequest{Key: "k", IdempotencyKey: "i"})
	var failed *client.Error
	if !errors.As(err, &failed) || failed.Outcome != client.InDoubt || !errors.Is(err, client.ErrTenantNotFound) || failed.Attempts != 2 {
		t.Errorf("got %+v", err)
	}
}

func TestRetryDelayIsHonoured(t *testing.T) {
	e := newEngine()
	address, _ := serve(t, e, "", nil)
	c := dial(t, address, client.Options{})
	tries := 0
	e.before = func(bool, bool, string) error {
		if tries++; tries == 1 {
			return coord.ErrOverloaded
		}
		return nil
	}
	e.values["k"] = []byte("v")
	began := time.Now()
	if _, err := c.Get(testContext(t), "k"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("tried again after %v, asked for 100ms", took)
	}
	tries = 0
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, "k"); !errors.Is(err, client.ErrOverloaded) || tries != 1 {
		t.Errorf("where there is no time to wait: %v after %d tries", err, tries)
	}
}

// Retries are few where everything fails.
func TestRetriesHaveABudget(t *testing.T) {
	e := newEngine()
	address, _ := serve(t, e, "", nil)
	c, ctx := dial(t, address, client.Options{}), testContext(t)
	var tries atomic.Int64
	e.before = func(bool, bool, string) error {
		tries.Add(1)
		return coord.ErrMetadataUnavailable
	}
	const calls = 500
	var all sync.WaitGroup
	for range calls {
		all.Go(func() {
			if _, err := c.Get(ctx, "k"); !errors.Is(err, client.ErrMetadataUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
	all.Wait()
	if n := tries.Load(); n > calls+110 {
		t.Errorf("%d attempts for %d calls", n, calls)
	}
}

func TestDeadlinesAndCancellation(t *testing.T) {
	e := newEngine()
	e.hold = make(chan struct{})
	address, _ := serve(t, e, "", nil)
	defer close(e.hold)
	for name, opts := range map[string]client.Options{
		"of the context": {}, "of the options": {Timeout: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, address, opts)
			ctx := context.Background()
			if opts.Timeout == 0 {
				limited, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
				ctx = limited
			}
			for _, size := range []int{1, 1 << 20} {
				err := c.Put(ctx, "k", make([]byte, size))
				if !errors.Is(err, client.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) || status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("put of %d bytes: %v", size, err)
				}
			}
			if _, err := c.Get(ctx, "k"); !errors.Is(err, client.ErrDeadlineExceeded) {
				t.Errorf("get: %v", err)
			}
		})
	}
	t.Run("canceled", func(t *testing.T) {
		c := dial(t, address, client.Options{})
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(30*time.Millisecond, cancel)
		err := c.Put(ctx, "k", []byte("v"))
		var failed *client.Error
		if !errors.Is(err, context.Canceled) || !errors.As(err, &failed) || failed.Outcome != client.InDoubt || failed.Code != codes.Canceled {
			t.Errorf("put that was sent: %+v", err)
		}
		if err := c.Put(ctx, "k", nil); !errors.Is(err, context.Canceled) || !errors.As(err, &failed) || failed.Outcome != client.NotApplied {
			t.Errorf("put that was not: %+v", err)
		}
	})
	t.Run("room", func(t *testing.T) {
		c := dial(t, address, client.Options{Connections: 1, MaxBytes: 4 << 10})
		first := make(chan struct{})
		waited := e.waits.Load()
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer close(first)
			c.Put(ctx, "first", nil)
		}()
		for e.waits.Load() == waited {
			time.Sleep(time.Millisecond)
		}
		limited, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		defer stop()
		err := c.Put(limited, "second", nil)
		var failed *client.Error
		if !errors.As(err, &failed) || !errors.Is(err, client.ErrDeadlineExceeded) || failed.Outcome != client.NotApplied {
			t.Errorf("a put for which there is no room: %+v", err)
		}
		cancel()
		<-first
	})
}

func TestClose(t *testing.T) {
	e := newEngine()
	e.hold = make(chan struct{})
	defer close(e.hold)
	address, _ := serve(t, e, "", nil)
	c := dial(t, address, client.Options{})
	failed := make(chan error, 2)
	for _, size := range []int{1, 1 << 20} {
		go func() { failed <- c.Put(context.Background(), "k", make([]byte, size)) }()
	}
	time.Sleep(50 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		var e *client.Error
		if err := <-failed; !errors.Is(err, client.ErrClosed) || !errors.As(err, &e) || e.Outcome != client.InDoubt {
			t.Errorf("put under way: %+v", err)
		}
	}
	if err := c.Put(context.Background(), "k", nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("put after Close: %v", err)
	}
}

func TestCoordinatorOutOfReach(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := lis.Addr().String()
	lis.Close()
	c := dial(t, address, client.Options{MaxAttempts: 3})
	ctx := testContext(t)
	var failed *client.Error
	if err := c.Put(ctx, "k", nil); !errors.Is(err, client.ErrUnavailable) || !errors.As(err, &failed) ||
		failed.Outcome != client.NotApplied || failed.Attempts != 3 || status.Code(err) != codes.Unavailable {
		t.Errorf("put: %+v", err)
	}
	// It comes, and is found.
	patient := dial(t, address, client.Options{MaxAttempts: 100})
	put := make(chan error, 1)
	go func() { put <- patient.Put(ctx, "k", nil) }()
	time.Sleep(100 * time.Millisecond)
	serve(t, newEngine(), address, nil)
	if err := <-put; err != nil {
		t.Errorf("put once it is there: %v", err)
	}
}

// Restarts and ageing streams lose nothing that is safe to repeat: with
// idempotency keys no operation fails, and none takes effect twice.
func TestRestartsAndAgeing(t *testing.T) {
	e := newEngine()
	age := func(o *rpc.Options) { o.MaxPipelineAge = 20 * time.Millisecond }
	address, stop := serve(t, e, "", age)
	c, ctx := dial(t, address, client.Options{IdempotentWrites: true, MaxAttempts: 100}), testContext(t)
	var writes atomic.Int64
	done := make(chan struct{})
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if err := c.Put(ctx, fmt.Sprint(g), []byte(fmt.Sprint(i))); err != nil {
					t.Errorf("put: %v", err)
					return
				}
				writes.Add(1)
				if v, err := c.Get(ctx, fmt.Sprint(g)); err != nil || string(v) != fmt.Sprint(i) {
					t.Errorf("get: %q, %v; want %d", v, err, i)
					return
				}
			}
		})
	}
	for range 3 {
		time.Sleep(150 * time.Millisecond)
		stop()
		_, stop = serve(t, e, address, age)
	}
	time.Sleep(50 * time.Millisecond)
	close(done)
	all.Wait()
	if e.counter != writes.Load() || writes.Load() < 100 {
		t.Errorf("%d effects of %d writes", e.counter, writes.Load())
	}
}

// A coordinator that dies leaves writes in doubt, and they are not repeated.
func TestAConnectionThatBreaks(t *testing.T) {
	e := newEngine()
	e.hold = make(chan struct{})
	defer close(e.hold)
	address, _ := serve(t, e, "", nil)
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 2)
	var copying sync.WaitGroup
	t.Cleanup(func() { // after the client has closed its connections
		proxy.Close()
		copying.Wait()
	})
	copying.Go(func() {
		for {
			in, err := proxy.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				in.Close()
				return
			}
			copying.Go(func() { pass(out, in) })
			copying.Go(func() { pass(in, out) })
			conns <- in
		}
	})
	c := dial(t, proxy.Addr().String(), client.Options{Connections: 1})
	put := make(chan error, 1)
	go func() { put <- c.Put(context.Background(), "k", []byte("v")) }()
	conn := <-conns
	time.Sleep(100 * time.Millisecond)
	conn.Close()
	var failed *client.Error
	if err := <-put; !errors.As(err, &failed) || failed.Outcome != client.InDoubt || !errors.Is(err, client.ErrUnavailable) || failed.Attempts != 1 {
		t.Errorf("got %+v", err)
	}
}

func pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// unaryOnly is a coordinator without Pipeline.
type unaryOnly struct {
	pb.UnimplementedCoordinatorServiceServer
	engine *engine
}

func (u *unaryOnly) WriteKeyValue(ctx context.Context, q *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
	r, err := u.engine.Write(ctx, coord.WriteRequest{Key: q.Key, Value: bytes.Clone(q.Value)})
	return &pb.WriteKeyValueResponse{Success: true, ReplicaCount: int32(r.Replicas), Consistency: "quorum"}, err
}

func (u *unaryOnly) DeleteKeyValue(ctx context.Context, q *pb.DeleteKeyValueRequest) (*pb.DeleteKeyValueResponse, error) {
	_, err := u.engine.Write(ctx, coord.WriteRequest{Key: q.Key, Delete: true})
	return &pb.DeleteKeyValueResponse{Success: true}, err
}

func (u *unaryOnly) ReadKeyValue(ctx context.Context, q *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
	r, err := u.engine.Read(ctx, coord.ReadRequest{Key: q.Key})
	if err != nil {
		return nil, status.Error(codes.NotFound, "key not found")
	}
	return &pb.ReadKeyValueResponse{Success: true, Value: r.Value}, nil
}

func TestACoordinatorWithoutPipeline(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterCoordinatorServiceServer(server, &unaryOnly{engine: newEngine()})
	go server.Serve(lis)
	defer server.Stop()
	c, ctx := dial(t, lis.Addr().String(), client.Options{}), testContext(t)
	for i := range 4 {
		key := fmt.Sprint(i)
		if err := c.Put(ctx, key, []byte("v")); err != nil {
			t.Fatal(err)
		}
		if v, err := c.Get(ctx, key); err != nil || string(v) != "v" {
			t.Errorf("get: %q, %v", v, err)
		}
		if err := c.Delete(ctx, key); err != nil {
			t.Error(err)
		}
		if _, err := c.Get(ctx, key); status.Code(err) != codes.NotFound {
			t.Errorf("get of a deleted key: %v", err)
		}
	}
}

func TestConnectionsOfTheCaller(t *testing.T) {
	address, _ := serve(t, newEngine(), "", nil)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := client.New([]*grpc.ClientConn{conn}, client.Options{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Put(testContext(t), "k", nil), c.Close()); err != nil {
		t.Error(err)
	}
	if conn.GetState().String() == "SHUTDOWN" {
		t.Error("Close has closed a connection that is not the client's")
	}
}

func TestFaultyOptions(t *testing.T) {
	for want, opts := range map[string]client.Options{
		"negative limit": {Timeout: -1}, `level "most" is unknown`: {Level: "most"},
	} {
		if _, err := client.Dial("127.0.0.1:1", opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := client.New(nil, client.Options{}); err == nil {
		t.Error("a client without connections")
	}
}

func benchmark(b *testing.B, do func(context.Context, *client.Client) error) {
	e := newEngine()
	e.values["k"] = make([]byte, 100)
	address, _ := serve(b, e, "", nil)
	c := dial(b, address, client.Options{})
	ctx := context.Background()
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(ctx, c); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// These measure a client and a server in one process, over TCP.
func BenchmarkPut(b *testing.B) {
	value := make([]byte, 100)
	benchmark(b, func(ctx context.Context, c *client.Client) error { return c.Put(ctx, "k", value) })
}

func BenchmarkGet(b *testing.B) {
	benchmark(b, func(ctx context.Context, c *client.Client) error {
		_, err := c.Get(ctx, "k")
		return err
	})
}
