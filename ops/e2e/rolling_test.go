package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/pairdb/coordinator/rpc/client"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Two coordinators are restarted one after the other while clients that try
// again what is safe to write and read through both: no request fails.
func TestRollingRestartFailsNoRequest(t *testing.T) {
	dir := t.TempDir()
	p := startPair(t, func(i int, listen string) *process {
		return startConfiguredAt(t, fmt.Sprintf("coordinator-%d", i+1), dir, listen, quickRing)
	})
	l := startLoad(t, p.coordinators)
	l.goesOn("with both coordinators")
	for i := range p.coordinators {
		p.roll(i, l)
	}
	l.end()
}

const quickRing = "hash_ring {\n update_interval = \"1s\"\n}"

// roll restarts a coordinator in good order.
func (p *pair) roll(i int, l *load) {
	p.t.Helper()
	if code := p.coordinators[i].terminate(); code != 0 {
		p.t.Errorf("coordinator %d ended with %d\n%s", i+1, code, p.coordinators[i].output())
	}
	l.goesOn(fmt.Sprintf("without coordinator %d", i+1))
	p.restart[i]()
	// gRPC rests before it connects again, for longer each time: until then the
	// other coordinator is needed.
	eventually(p.t, 30*time.Second, func() error {
		const served = `coordinator_requests_total{method="WriteKeyValue",code="OK"}`
		if _, page := httpGet(p.t, "http://"+p.coordinators[i].ops+"/metrics"); !strings.Contains(page, served) {
			return fmt.Errorf("coordinator %d has served no write since it is back", i+1)
		}
		return nil
	})
	l.goesOn(fmt.Sprintf("since coordinator %d is back", i+1))
}

// load is clients that write and read through all coordinators, and try again
// what is safe to. A request of theirs that fails fails the test.
type load struct {
	t       *testing.T
	done    atomic.Int64
	stop    context.CancelFunc
	workers sync.WaitGroup
}

func startLoad(t *testing.T, coordinators []*process) *load {
	t.Helper()
	all := manual.NewBuilderWithScheme("all")
	var addresses []resolver.Address
	for _, c := range coordinators {
		addresses = append(addresses, resolver.Address{Addr: c.grpc})
	}
	all.InitialState(resolver.State{Addresses: addresses})
	conn, err := grpc.NewClient("all:///", grpc.WithResolvers(all), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, err := client.New([]*grpc.ClientConn{conn}, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })

	l := &load{t: t}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	for w := range 8 {
		l.workers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("%d-%d", w, i%50)
				value := fmt.Sprint(i)
				// Not ctx: what is under way at the end ends in good order.
				if err := c.Put(t.Context(), key, []byte(value)); err != nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
				got, err := c.Get(t.Context(), key)
				if err != nil || string(got) != value {
					t.Errorf("get %s: %q, %v, want %q", key, got, err, value)
					return
				}
				l.done.Add(2)
			}
		})
	}
	return l
}

// goesOn waits until some more requests were served.
func (l *load) goesOn(what string) {
	l.t.Helper()
	before := l.done.Load()
	eventually(l.t, 10*time.Second, func() error {
		if n := l.done.Load() - before; n < 200 {
			return fmt.Errorf("%d requests %s", n, what)
		}
		return nil
	})
}

func (l *load) end() {
	l.t.Helper()
	l.stop()
	l.workers.Wait()
	l.t.Logf("%d requests", l.done.Load())
}

// A cluster of which half is of a release that speaks an older version of the
// storage protocol is upgraded under load, in the order that the operations page
// tells: storage nodes, then coordinators. No request fails.
func TestUpgradeFailsNoRequest(t *testing.T) {
	older := filepath.Join(t.TempDir(), "older")
	if err := build(older, "-tags", "previousprotocol"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	programs := []string{older, binary}
	p := startPair(t, func(i int, listen string) *process {
		file := configuration(t, fmt.Sprintf("coordinator-%d", i+1), dir, listen, quickRing)
		return startProgram(t, programs[i], servingLine, "-config", file)
	})
	l := startLoad(t, p.coordinators)
	replace := func(i int, program string) {
		t.Helper()
		old := p.storage[i]
		if code := old.terminate(); code != 0 {
			t.Errorf("storage node %d ended with %d\n%s", i+1, code, old.output())
		}
		p.storage[i] = startProgram(t, program, servingLine, "storage", "-id", fmt.Sprintf("storage-%d", i+1),
			"-data", old.dir, "-listen", old.grpc, "-ops-listen", "127.0.0.1:0", "-sync=false")
		p.storage[i].dir = old.dir
		p.whole()
		l.goesOn(fmt.Sprintf("since storage node %d is replaced", i+1))
	}
	for i := range 2 { // two nodes and a coordinator are older from here on
		replace(i, older)
	}
	outdated := func(i, want int) {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			_, page := httpGet(t, "http://"+p.storage[i].ops+"/metrics")
			if line := fmt.Sprintf("storage_outdated_connections %d\n", want); !strings.Contains(page, line) {
				return fmt.Errorf("storage node %d does not say %q", i+1, line)
			}
			return nil
		})
	}
	const linksOfOne = 2 // a coordinator has one for small values and one for large ones
	outdated(0, 0)
	outdated(2, linksOfOne)
	for i := range 2 {
		replace(i, binary)
		outdated(i, linksOfOne)
	}
	programs[0] = binary
	p.roll(0, l)
	for i := range p.storage {
		outdated(i, 0)
	}
	l.end()
}

// whole waits until both coordinators reach all storage nodes, and owe them nothing.
func (p *pair) whole() {
	p.t.Helper()
	for _, c := range p.coordinators {
		client := c.dial()
		eventually(p.t, startTimeout, func() error {
			status, err := client.GetStatus(p.t.Context(), &pb.GetStatusRequest{})
			if err != nil {
				return err
			}
			for _, n := range status.GetNodes() {
				if !n.GetReachable() || n.GetHints() > 0 || n.GetOwedRanges() > 0 {
					return fmt.Errorf("%s: %v", status.GetNodeId(), n)
				}
			}
			return nil
		})
	}
}
