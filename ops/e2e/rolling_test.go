package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/pairdb/coordinator/rpc/client"
)

// Two coordinators are restarted one after the other while clients that try
// again what is safe to write and read through both: no request fails.
func TestRollingRestartFailsNoRequest(t *testing.T) {
	dir := t.TempDir()
	p := startPair(t, func(i int, listen string) *process {
		return startConfiguredAt(t, fmt.Sprintf("coordinator-%d", i+1), dir, listen, "hash_ring {\n update_interval = \"1s\"\n}")
	})
	both := manual.NewBuilderWithScheme("pair")
	var addresses []resolver.Address
	for _, c := range p.coordinators {
		addresses = append(addresses, resolver.Address{Addr: c.grpc})
	}
	both.InitialState(resolver.State{Addresses: addresses})
	conn, err := grpc.NewClient("pair:///", grpc.WithResolvers(both), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := client.New([]*grpc.ClientConn{conn}, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	ctx, stop := context.WithCancel(t.Context())
	var done atomic.Int64
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
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
				done.Add(2)
			}
		})
	}
	progress := func(what string) {
		t.Helper()
		before := done.Load()
		eventually(t, 10*time.Second, func() error {
			if n := done.Load() - before; n < 200 {
				return fmt.Errorf("%d requests %s", n, what)
			}
			return nil
		})
	}
	progress("with both coordinators")
	for i := range p.coordinators {
		if code := p.coordinators[i].terminate(); code != 0 {
			t.Errorf("coordinator %d ended with %d\n%s", i+1, code, p.coordinators[i].output())
		}
		progress(fmt.Sprintf("without coordinator %d", i+1))
		p.restart[i]()
		progress(fmt.Sprintf("since coordinator %d is back", i+1))
	}
	stop()
	workers.Wait()
	t.Logf("%d requests, none failed", done.Load())
}
