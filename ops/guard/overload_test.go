//go:build overload

package guard

import (
	"context"
	"flag"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pairdb/coordinator/backends/badger"
	"github.com/pairdb/coordinator/backends/sqlite"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// overloadFor is how long each phase lasts. The figures are those of a machine
// that does nothing else, so this is run by make overload alone; what limits are
// to do under load is tested in rpc/limit, in virtual time.
var overloadFor = flag.Duration("overload.for", 30*time.Second, "how long each phase lasts")

// capped is a replica in memory that does so many operations a second, and takes
// as many in its queue as a storage node's link does.
type capped struct {
	id    string
	queue chan *coord.Call
	stop  chan struct{}
	done  chan struct{}
	held  map[string]coord.Version
}

func newCapped(id string, perSecond int) *capped {
	c := &capped{id: id, queue: make(chan *coord.Call, 4096), stop: make(chan struct{}), done: make(chan struct{}), held: map[string]coord.Version{}}
	go c.serve(time.Second / time.Duration(perSecond))
	return c
}

func (c *capped) serve(each time.Duration) {
	defer close(c.done)
	due := time.Now()
	for {
		select {
		case <-c.stop:
			return
		case call := <-c.queue:
			if now := time.Now(); due.Before(now.Add(-10 * time.Millisecond)) {
				due = now // what was not used is lost
			}
			due = due.Add(each)
			time.Sleep(time.Until(due))
			name := call.Tenant + ":" + call.Key
			held := c.held[name]
			if call.Kind == coord.CallApply {
				store, err := coord.Admit(&held.Head, 0, &call.Version.Head, call.Intent, time.Now(), time.Minute)
				if err != nil {
					call.Finish(err)
					continue
				}
				if store {
					held = call.Version
					c.held[name] = held
				}
			}
			call.Held = held
			call.Finish(nil)
		}
	}
}

func (c *capped) Do(call *coord.Call) {
	select {
	case c.queue <- call:
	default:
		call.Finish(fmt.Errorf("%w: queue is full", coord.ErrReplicaRefused))
	}
}
func (c *capped) Unavailable() error             { return nil }
func (c *capped) Heard() (uint64, time.Duration) { return 0, 0 }
func (c *capped) Adopt(context.Context, uint64, []byte) error {
	return nil
}
func (c *capped) Floors(context.Context, uint64, []coord.RangeFloor) ([]coord.RangeFloor, error) {
	return nil, nil
}
func (c *capped) Sums(_ context.Context, r coord.SumRequest) ([]coord.SpanSums, error) {
	return make([]coord.SpanSums, len(r.Spans)), nil
}
func (c *capped) Describe(context.Context) (coord.NodeDescription, error) {
	return coord.NodeDescription{ID: c.id, UUID: "uuid-" + c.id}, nil
}
func (c *capped) Scan(context.Context, coord.ScanRequest) (coord.ScanPage, error) {
	return coord.ScanPage{}, nil
}
func (c *capped) Close() error {
	close(c.stop)
	<-c.done
	for {
		select {
		case call := <-c.queue:
			call.Finish(coord.ErrReplicaUnavailable)
		default:
			return nil
		}
	}
}

// loadTest is a coordinator with real stores over capped replicas.
type loadTest struct {
	server  *rpc.Server
	address string
	client  coordinatorpb.CoordinatorServiceClient
}

func startLoadTest(t *testing.T) *loadTest {
	t.Helper()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	metadata, err := sqlite.Open(ctx, sqlite.Options{Path: filepath.Join(t.TempDir(), "m.db")})
	fail(err)
	t.Cleanup(func() { metadata.Close() })
	claims, err := badger.OpenClaims(badger.ClaimsOptions{Dir: t.TempDir()})
	fail(err)
	t.Cleanup(func() { claims.Close() })
	identity, err := metadata.AcquireIdentity(ctx, "c1")
	fail(err)
	engine, err := coord.New(ctx, coord.Options{
		Identity: identity, Metadata: metadata, Idempotency: claims, Hints: metadata,
		Connect: func(n coord.StorageNode) (coord.Replica, error) { return newCapped(n.ID, 2000), nil },
	})
	fail(err)
	for i := range 3 {
		_, err := engine.AddNode(ctx, coord.StorageNode{ID: fmt.Sprint("n", i), Host: "h", Port: i + 1, VirtualNodes: 150})
		fail(err)
	}
	for _, tenant := range []string{"good", "noisy"} {
		_, err := engine.CreateTenant(ctx, tenant, 3)
		fail(err)
	}
	s, err := rpc.NewServer(rpc.Options{Engine: engine})
	fail(err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	fail(err)
	t.Cleanup(func() {
		conn.Close()
		ended, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.Stop(ended)
		<-served
		if err := engine.Close(ended); err != nil {
			t.Error(err)
		}
	})
	return &loadTest{s, lis.Addr().String(), coordinatorpb.NewCoordinatorServiceClient(conn)}
}

// Ten times what can be served leaves most of what can be served, does not fill
// memory, and is forgotten soon. A tenant at twenty times its share leaves others
// alone.
func TestOverloadAndFairness(t *testing.T) {
	l := startLoadTest(t)
	clients, neighbours := startGenerator(t, l.address), startGenerator(t, l.address)
	d := *overloadFor
	const least, factor, floor = 0.8, 2.0, 5 * time.Millisecond
	peak := succeeded(clients.run(load{Tenant: "good", Workers: 64, For: d}), d)
	normal := clients.run(load{Tenant: "good", PerSecond: peak / 2, For: d})
	before := percentile(normal, 0.99, 0, d)
	t.Logf("peak %.0f writes a second; at half of it p50 %v, p99 %v; %v", peak, percentile(normal, 0.5, 0, d), before, codesOf(normal))

	var grown atomic.Uint64
	sampling, stop := context.WithCancel(t.Context())
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for sampling.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			grown.Store(max(grown.Load(), m.HeapInuse+m.StackInuse))
			time.Sleep(100 * time.Millisecond)
		}
	})
	flood := clients.run(load{Tenant: "good", PerSecond: 10 * peak, For: d})
	stop()
	sampler.Wait()
	goodput := succeeded(flood, d)
	_, shed := l.server.Limiter().Refused()
	t.Logf("at ten times as much: %.0f a second (%.0f %%), p99 of those %v; %v, %d refused for load; at most %d MiB; %d may be under way",
		goodput, 100*goodput/peak, latencyOfServed(flood), codesOf(flood), shed, grown.Load()>>20, l.server.Limiter().Allowed())
	if goodput < least*peak {
		t.Errorf("goodput falls to %.0f of %.0f", goodput, peak)
	}
	if grown.Load() > 512<<20 {
		t.Errorf("memory grows to %d MiB", grown.Load()>>20)
	}

	after := clients.run(load{Tenant: "good", PerSecond: peak / 2, For: 6 * time.Second})
	back := 6 * time.Second
	for at := time.Duration(0); at < 6*time.Second; at += time.Second / 2 {
		if percentile(after, 0.99, at, at+time.Second/2) <= max(time.Duration(factor*float64(before)), floor) {
			back = at
			break
		}
	}
	t.Logf("normal latency is back after %v", back)
	if back > 5*time.Second {
		t.Errorf("latency is not back within 5 s: p99 %v", percentile(after, 0.99, 5*time.Second, 6*time.Second))
	}

	share := int64(peak / 5)
	if _, err := l.client.SetTenantLimits(t.Context(), &coordinatorpb.SetTenantLimitsRequest{TenantId: "noisy", OperationsPerSecond: &share}); err != nil {
		t.Fatal(err)
	}
	quiet := load{Tenant: "good", PerSecond: peak / 5, For: d}
	alone := percentile(clients.run(quiet), 0.99, 0, d)
	var noise sync.WaitGroup
	noise.Go(func() { neighbours.run(load{Tenant: "noisy", PerSecond: 20 * float64(share), For: d}) })
	beside := percentile(clients.run(quiet), 0.99, d/4, d)
	noise.Wait()
	t.Logf("p99 alone %v, beside a tenant at 20 times its share %v", alone, beside)
	if beside > max(time.Duration(factor*float64(alone)), floor) {
		t.Errorf("p99 %v beside a noisy tenant, %v alone", beside, alone)
	}
}
