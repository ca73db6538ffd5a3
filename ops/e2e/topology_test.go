package e2e

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// awaitMigration waits until a migration has a status.
func awaitMigration(t *testing.T, client pb.CoordinatorServiceClient, id, want string) *pb.GetMigrationStatusResponse {
	t.Helper()
	var last *pb.GetMigrationStatusResponse
	eventually(t, 90*time.Second, func() error {
		m, err := client.GetMigrationStatus(t.Context(), &pb.GetMigrationStatusRequest{MigrationId: id})
		if err != nil {
			return err
		}
		if last = m; m.GetStatus() != want {
			return fmt.Errorf("migration %s is %s (%v, %s), want %s", id, m.GetStatus(), m.GetProgress(), m.GetErrorMessage(), want)
		}
		return nil
	})
	return last
}

// quick makes coordinators tidy up at once.
const quick = `
maintenance {
  cleanup_delay   = "1s"
  repair_interval = "2s"
}
`

// load writes and reads keys of its own through coordinators until it is
// stopped, and knows what each must hold.
type background struct {
	t        *testing.T
	clients  []pb.CoordinatorServiceClient
	stop     context.CancelFunc
	workers  sync.WaitGroup
	done     atomic.Int64
	failures atomic.Int64
	mu       sync.Mutex
	held     map[string]string
	doubted  map[string]map[string]bool // values that may have been written
}

func startBackground(t *testing.T, clients ...pb.CoordinatorServiceClient) *background {
	b := &background{t: t, clients: clients, held: map[string]string{}, doubted: map[string]map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	b.stop = stop
	for w := range 4 {
		b.workers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				b.one(w, i)
			}
		})
	}
	return b
}

func (b *background) one(w, i int) {
	client := b.clients[i%len(b.clients)]
	key := fmt.Sprintf("load-%d-%d", w, i%50)
	value := fmt.Sprint(i)
	err := write(b.t, client, key, value, "quorum")
	b.mu.Lock()
	if err == nil {
		b.held[key], b.doubted[key] = value, nil
	} else {
		if b.doubted[key] == nil {
			b.doubted[key] = map[string]bool{}
		}
		b.doubted[key][value] = true
	}
	want := b.held[key]
	b.mu.Unlock()
	got, readErr := read(b.t, client, key, "quorum")
	if readErr == nil && got != want {
		b.mu.Lock()
		maybe := b.doubted[key][got]
		if maybe {
			b.held[key] = got
		}
		b.mu.Unlock()
		if !maybe {
			b.t.Errorf("key %s is %q, want %q", key, got, want)
		}
	}
	for _, err := range []error{err, readErr} {
		if err != nil && status.Code(err) != codes.Canceled {
			b.failures.Add(1)
			b.t.Logf("%s: %v", key, err)
		}
	}
	b.done.Add(1)
}

func (b *background) end() {
	b.stop()
	b.workers.Wait()
}

// checkShares holds what each node has against what its ranges give it.
func checkShares(t *testing.T, client pb.CoordinatorServiceClient, keys int, rf int) {
	t.Helper()
	eventually(t, 60*time.Second, func() error {
		resp, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if err != nil {
			return err
		}
		total := int64(0)
		for _, n := range resp.GetNodes() {
			if n.GetStatus() != "active" {
				return fmt.Errorf("node %s is %s", n.GetNodeId(), n.GetStatus())
			}
			total += n.GetKeysCount()
		}
		if want := int64(keys * rf); math.Abs(float64(total-want)) > float64(want)/100 {
			return fmt.Errorf("the nodes hold %d keys together, want %d", total, want)
		}
		return nil
	})
}

// Nodes come, go and die under load, and nothing is lost.
func TestTopologyUnderLoad(t *testing.T) {
	keys := 2000
	c := startCluster(t, quick)
	client := c.dial()
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := w; i < keys; i += 8 {
				if err := write(t, client, fmt.Sprint("key-", i), fmt.Sprint("value-", i), "quorum"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	load := startBackground(t, client)
	every := func(what string) {
		t.Helper()
		for w := range 8 {
			all.Go(func() {
				for i := w; i < keys; i += 8 {
					if v, err := read(t, client, fmt.Sprint("key-", i), "all"); err != nil || v != fmt.Sprint("value-", i) {
						t.Errorf("%s: key-%d is %q, %v", what, i, v, err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	add := func(id string) *process {
		t.Helper()
		p := startStorage(t, id, t.TempDir(), "-sync=false")
		host, port := splitAddress(t, p.grpc)
		before, _, _ := c.command("node", "add", "-plan", id, p.grpc)
		if !strings.Contains(before, "would be copied") {
			t.Errorf("plan: %q", before)
		}
		a, err := client.AddStorageNode(t.Context(), &pb.AddStorageNodeRequest{NodeId: id, Host: host, Port: port})
		if err != nil || a.GetMigrationId() == "" {
			t.Fatalf("add %s: %v, %v", id, a, err)
		}
		m := awaitMigration(t, client, a.GetMigrationId(), "completed")
		if m.GetProgress().GetPercentage() != 100 || m.GetType() != "node_addition" {
			t.Errorf("add %s: %v", id, m)
		}
		return p
	}
	add("storage-4")
	every("after storage-4 joined")
	fifth := add("storage-5")
	every("after storage-5 joined")

	r, err := client.RemoveStorageNode(t.Context(), &pb.RemoveStorageNodeRequest{NodeId: "storage-1"})
	if err != nil {
		t.Fatal(err)
	}
	awaitMigration(t, client, r.GetMigrationId(), "completed")
	c.storage[0].kill()
	every("after storage-1 left")

	fifth.kill()
	if r, err = client.RemoveStorageNode(t.Context(), &pb.RemoveStorageNodeRequest{NodeId: "storage-5", Force: true}); err != nil {
		t.Fatal(err)
	}
	awaitMigration(t, client, r.GetMigrationId(), "completed")
	every("after storage-5 died and was given up")

	for _, rf := range []int32{2, 3} {
		u, err := client.UpdateReplicationFactor(t.Context(), &pb.UpdateReplicationFactorRequest{TenantId: "default", NewReplicationFactor: rf})
		if err != nil {
			t.Fatal(err)
		}
		awaitMigration(t, client, u.GetMigrationId(), "completed")
		if g, err := client.GetTenant(t.Context(), &pb.GetTenantRequest{TenantId: "default"}); err != nil || g.GetReplicationFactor() != rf {
			t.Errorf("tenant: %v, %v", g, err)
		}
		every(fmt.Sprint("with replication factor ", rf))
	}
	load.end()
	t.Logf("%d operations beside it, %d failed", load.done.Load(), load.failures.Load())
	if load.done.Load() < 100 || load.failures.Load() > 4 { // those that the killed node had in hand
		t.Errorf("%d of %d operations failed", load.failures.Load(), load.done.Load())
	}
	checkShares(t, client, keys+200+1, 3) // the keys of the load, and one that startCluster writes
	out, _, code := c.command("keys", "-prefix", "key-")
	if n := strings.Count(out, "\n"); code != 0 || n != keys {
		t.Errorf("keys lists %d, want %d", n, keys)
	}
}
