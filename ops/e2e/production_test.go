package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/backends/redistest"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// production is what a production cluster shares: a Postgres, a Redis.
type production struct {
	postgres *postgrestest.Server
	database string // URL
	redis    *redistest.Server
}

const redisPassword = "r3dis-p@ss"

func startProduction(t *testing.T) *production {
	t.Helper()
	p := &production{postgres: postgrestest.Start(t), redis: redistest.Start(t, redistest.Options{Password: redisPassword, AppendOnly: true})}
	p.database = p.postgres.Database(t)
	return p
}

// config is a coordinator's configuration; idempotency is its block.
func (p *production) config(id, listen, idempotency, extra string) string {
	return fmt.Sprintf(`
node_id = %q
server {
  listen = %q
}
metrics {
  listen = "127.0.0.1:0"
}
consistency {
  read_timeout  = "1s"
  write_timeout = "1s"
}
metadata "postgres" {
  url             = %q
  max_connections = 2
  min_connections = 0
}
%s
%s`, id, listen, p.database, idempotency, extra)
}

func (p *production) redisBlock() string {
	return fmt.Sprintf("idempotency \"redis\" {\n  address = %q\n  password = %q\n}\n", p.redis.Addr(), redisPassword)
}

func startFromText(t *testing.T, text string) *process {
	t.Helper()
	file := t.TempDir() + "/coordinator.hcl"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, servingLine, "-config", file)
}

func (p *production) pair(t *testing.T, idempotency string) *pair {
	t.Helper()
	return startPair(t, func(i int, listen string) *process {
		return startFromText(t, p.config(fmt.Sprintf("coordinator-%d", i+1), listen, idempotency, ""))
	})
}

// Two coordinators, three storage processes, Postgres and Redis.
func TestProductionEndToEnd(t *testing.T) {
	stores := startProduction(t)
	p := stores.pair(t, stores.redisBlock())
	clients := []pb.CoordinatorServiceClient{p.coordinators[0].dial(), p.coordinators[1].dial()}

	// A tenant made through one is usable through the other at once.
	for i := range 5 {
		tenant := fmt.Sprint("tenant-", i)
		if _, err := clients[i%2].CreateTenant(t.Context(), &pb.CreateTenantRequest{TenantId: tenant}); err != nil {
			t.Fatal(err)
		}
		if _, err := clients[1-i%2].WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: tenant, Key: "k", Value: []byte("v")}); err != nil {
			t.Errorf("tenant %s through the other coordinator: %v", tenant, err)
		}
	}
	// One that is deleted through one is gone for the other within a second.
	if _, err := clients[0].DeleteTenant(t.Context(), &pb.DeleteTenantRequest{TenantId: "tenant-0"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, func() error {
		_, err := clients[1].ReadKeyValue(t.Context(), &pb.ReadKeyValueRequest{TenantId: "tenant-0", Key: "k"})
		if reasonOf(err) != "TENANT_NOT_FOUND" {
			return fmt.Errorf("the deleted tenant: %v", err)
		}
		return nil
	})
	// Alternating writes count both entries up.
	for i := range 10 {
		resp, err := clients[i%2].WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: "default", Key: "turns", Value: []byte{byte(i)}})
		if err != nil {
			t.Fatal(err)
		}
		clock := map[string]int64{}
		for _, e := range resp.GetVectorClock().GetEntries() {
			clock[e.GetCoordinatorNodeId()] = e.GetLogicalTimestamp()
		}
		if clock["coordinator-1"] != int64(i/2+1) || clock["coordinator-2"] != int64((i+1)/2) {
			t.Errorf("write %d: clock %v", i+1, clock)
		}
	}
}

// keyedThroughBoth sends one keyed write 64 times through two coordinators.
func keyedThroughBoth(t *testing.T, clients []pb.CoordinatorServiceClient, key string) {
	t.Helper()
	var mu sync.Mutex
	clocks, first := map[string]int{}, 0
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			resp, err := clients[i%2].WriteKeyValue(ctx, &pb.WriteKeyValueRequest{TenantId: "default", Key: key, Value: []byte("v"), IdempotencyKey: "once"})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			clocks[resp.GetVectorClock().String()]++
			if !resp.GetIsDuplicate() {
				first++
			}
		})
	}
	all.Wait()
	if len(clocks) != 1 || first != 1 {
		t.Errorf("64 requests with one idempotency key: versions %v, %d were the first", clocks, first)
	}
}

func TestOneKeyOneEffect(t *testing.T) {
	stores := startProduction(t)
	for name, block := range map[string]string{"redis": stores.redisBlock(), "postgres": "idempotency \"postgres\" {}\n"} {
		t.Run(name, func(t *testing.T) {
			stores := &production{postgres: stores.postgres, database: stores.postgres.Database(t), redis: stores.redis}
			p := stores.pair(t, block)
			clients := []pb.CoordinatorServiceClient{p.coordinators[0].dial(), p.coordinators[1].dial()}
			keyedThroughBoth(t, clients, "order")

			// A coordinator dies in the middle of keyed writes; each is tried
			// again through the other. In between, another client writes, and
			// its write must stay where the first had already taken effect.
			for round := range 5 {
				key := fmt.Sprint("round-", round)
				var mu sync.Mutex
				var running sync.WaitGroup
				effects := map[string]bool{}
				stop := make(chan struct{})
				for w := range 8 {
					running.Go(func() {
						id := fmt.Sprintf("%s-%d", key, w)
						req := &pb.WriteKeyValueRequest{TenantId: "default", Key: id, Value: []byte("first"), IdempotencyKey: id}
						<-stop
						ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
						resp, err := clients[0].WriteKeyValue(ctx, req)
						cancel()
						if err == nil {
							mu.Lock()
							effects[resp.GetVectorClock().String()+id] = true
							mu.Unlock()
						}
						// Another client, through the other coordinator.
						between := write(t, clients[1], id, "between", "quorum")
						var retried *pb.WriteKeyValueResponse
						eventually(t, 20*time.Second, func() error {
							ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
							defer cancel()
							var err error
							retried, err = clients[1].WriteKeyValue(ctx, req)
							return err
						})
						got, readErr := read(t, clients[1], id, "quorum")
						switch {
						case readErr != nil || between != nil:
							t.Errorf("%s: %v, %v", id, between, readErr)
						case err == nil && !retried.GetIsDuplicate():
							t.Errorf("%s was answered twice as the first", id)
						case retried.GetIsDuplicate() && err == nil && got != "between":
							t.Errorf("%s holds %q: a retry has overwritten what came in between", id, got)
						case !retried.GetIsDuplicate() && got != "first":
							t.Errorf("%s holds %q: the retry was the first to take effect", id, got)
						}
					})
				}
				close(stop)
				time.Sleep(time.Duration(round) * 2 * time.Millisecond) // another moment in each round
				p.coordinators[0].kill()
				running.Wait()
				p.restart[0]()
				client := p.coordinators[0].dial()
				eventually(t, startTimeout, func() error { return write(t, client, "warm", "again", "all") })
			}
		})
	}
}

// The table of failures: what goes on while Postgres or Redis is down.
func TestDegradation(t *testing.T) {
	stores := startProduction(t)
	p := stores.pair(t, stores.redisBlock())
	c := p.coordinators[0]
	client := c.dial()
	if err := write(t, client, "k", "v", "quorum"); err != nil {
		t.Fatal(err)
	}
	keyed := func(id string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := client.WriteKeyValue(ctx, &pb.WriteKeyValueRequest{TenantId: "default", Key: "k", Value: []byte(id), IdempotencyKey: id})
		return err
	}
	if err := keyed("before"); err != nil {
		t.Fatal(err)
	}

	t.Run("redis", func(t *testing.T) {
		if err := stores.redis.Kill(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err := keyed("during")
		if reason, outcome := infoOf(err); reason != "IDEMPOTENCY_UNAVAILABLE" || status.Code(err) != codes.Unavailable || outcome != "not_applied" {
			t.Errorf("a keyed write without Redis: %v, outcome %q", err, outcome)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it was refused after %v", took)
		}
		for range 20 {
			if err := write(t, client, "k", "w", "quorum"); err != nil {
				t.Errorf("a write without key: %v", err)
			}
		}
		if code, body := httpGet(t, "http://"+c.ops+"/health/ready"); code != 200 || !strings.Contains(body, "idempotency") {
			t.Errorf("ready: %d %s", code, body)
		}
		if err := stores.redis.Restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, func() error { return keyed("after") })
	})

	t.Run("postgres", func(t *testing.T) {
		// Load goes on through the outage without an error.
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		var done atomic.Int64
		var worst time.Duration
		load.Go(func() {
			for ; ctx.Err() == nil; done.Add(1) {
				began := time.Now()
				if err := write(t, client, fmt.Sprint("load-", done.Load()%100), "v", "quorum"); err != nil {
					t.Errorf("a write of a cached tenant: %v", err)
				}
				worst = max(worst, time.Since(began))
			}
		})
		stores.postgres.Kill(t)
		down := done.Load()
		_, err := client.ReadKeyValue(t.Context(), &pb.ReadKeyValueRequest{TenantId: "unseen", Key: "k"})
		if reasonOf(err) != "METADATA_UNAVAILABLE" {
			t.Errorf("an unknown tenant without Postgres: %v", err)
		}
		if _, err := client.CreateTenant(t.Context(), &pb.CreateTenantRequest{TenantId: "new"}); reasonOf(err) != "METADATA_UNAVAILABLE" {
			t.Errorf("a new tenant without Postgres: %v", err)
		}
		if code, body := httpGet(t, "http://"+c.ops+"/health/ready"); code != 200 {
			t.Errorf("ready: %d %s", code, body)
		}
		// The outage lasts until enough was written beside it, however fast the machine.
		eventually(t, 30*time.Second, func() error {
			if n := done.Load() - down; n < 100 {
				return fmt.Errorf("%d writes beside the outage", n)
			}
			return nil
		})
		stores.postgres.Start(t)
		eventually(t, 20*time.Second, func() error {
			_, err := client.CreateTenant(t.Context(), &pb.CreateTenantRequest{TenantId: "new"})
			if status.Code(err) == codes.AlreadyExists {
				return nil
			}
			return err
		})
		stop()
		load.Wait()
		t.Logf("%d writes beside the outage, the slowest took %v", done.Load()-down, worst)
	})
	// A password in a log, an error or on a page is everybody's.
	hidden := []string{redisPassword, url.QueryEscape(redisPassword), postgrestest.Password, url.QueryEscape(postgrestest.Password), url.PathEscape(postgrestest.Password)}
	shown := p.coordinators[0].output() + p.coordinators[1].output()
	for _, path := range []string{"/health/ready", "/metrics", "/"} {
		_, body := httpGet(t, "http://"+c.ops+path)
		shown += body
	}
	out, errs, _ := c.command("status", "-json")
	shown += out + errs
	for _, family := range []string{"coordinator_metadata_pool_acquired", "coordinator_idempotency_round_trips_total", "coordinator_hints_pending"} {
		if !strings.Contains(shown, "\n"+family) {
			t.Errorf("the metrics lack %s", family)
		}
	}
	for _, secret := range hidden {
		if strings.Contains(shown, secret) {
			t.Errorf("a password shows")
		}
	}
}

// A coordinator that starts while its database is down waits for it.
func TestStartsBeforePostgres(t *testing.T) {
	stores := startProduction(t)
	stores.postgres.Stop(t)
	file := t.TempDir() + "/coordinator.hcl"
	if err := os.WriteFile(file, []byte(stores.config("coordinator-1", "127.0.0.1:0", stores.redisBlock(), "")), 0o600); err != nil {
		t.Fatal(err)
	}
	back := make(chan struct{})
	c := start(t, func(p *process, line string) bool {
		if strings.Contains(line, "cannot start yet") {
			select {
			case <-back:
			default:
				close(back)
				stores.postgres.Start(t)
			}
		}
		return servingLine(p, line)
	}, "-config", file)
	if code, body := httpGet(t, "http://"+c.ops+"/health/ready"); code != 200 {
		t.Errorf("ready: %d %s", code, body)
	}
}

// Thirty coordinators at once on an empty database.
func TestThirtyCoordinators(t *testing.T) {
	stores := startProduction(t)
	started := make([]*process, 30)
	var all sync.WaitGroup
	for i := range started {
		all.Go(func() {
			started[i] = startFromText(t, stores.config("auto", "127.0.0.1:0", stores.redisBlock(), ""))
		})
	}
	all.Wait()
	ids := map[string]*process{}
	for _, p := range started {
		if p == nil {
			continue // its start has failed the test already
		}
		resp, err := p.dial().GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		ids[resp.GetNodeId()] = p
	}
	if len(ids) != len(started) {
		t.Errorf("%d coordinators have %d ids", len(started), len(ids))
	}
	// One is killed: its id is free again at once.
	victim := ids["coordinator-7"]
	if victim == nil {
		t.Fatalf("nobody is coordinator-7")
	}
	victim.kill()
	next := startFromText(t, stores.config("auto", "127.0.0.1:0", stores.redisBlock(), ""))
	resp, err := next.dial().GetStatus(t.Context(), &pb.GetStatusRequest{})
	if err != nil || resp.GetNodeId() != "coordinator-7" {
		t.Errorf("the next one is %q, %v; want coordinator-7", resp.GetNodeId(), err)
	}
}
