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

// The coordinator that leads a copy is killed in the midst of it: another one
// goes on within seconds.
func TestLeaderDiesInMidMigration(t *testing.T) {
	stores := startProduction(t)
	slow := quick[:strings.LastIndex(quick, "}")] + "  bytes_per_second = 200000\n}\n"
	p := startPair(t, func(i int, listen string) *process {
		return startFromText(t, stores.config(fmt.Sprintf("coordinator-%d", i+1), listen, stores.redisBlock(), slow))
	})
	client := p.coordinators[0].dial()
	value := strings.Repeat("v", 1000)
	for i := range 800 {
		if err := write(t, client, fmt.Sprint("key-", i), value, "quorum"); err != nil {
			t.Fatal(err)
		}
	}
	joining := startStorage(t, "storage-4", t.TempDir(), "-sync=false")
	host, port := splitAddress(t, joining.grpc)
	a, err := client.AddStorageNode(t.Context(), &pb.AddStorageNodeRequest{NodeId: "storage-4", Host: host, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		m, err := client.GetMigrationStatus(t.Context(), &pb.GetMigrationStatusRequest{MigrationId: a.GetMigrationId()})
		if err == nil && (m.GetStatus() != "in_progress" || m.GetProgress().GetPercentage() < 5) {
			err = fmt.Errorf("the copy has not begun: %v", m)
		}
		return err
	})
	// Whichever leads: it is the one that has repaired or copied; both are tried.
	leader, other := p.coordinators[0], p.coordinators[1]
	if _, metrics := httpGet(t, "http://"+other.ops+"/metrics"); strings.Contains(metrics, "coordinator_housekeeping_leader 1") {
		leader, other = other, leader
	}
	leader.kill()
	killed := time.Now()
	m := awaitMigration(t, other.dial(), a.GetMigrationId(), "completed")
	t.Logf("completed %v after the leader was killed: %v", time.Since(killed).Round(time.Millisecond), m.GetProgress())
	survivor := other.dial()
	for i := range 800 {
		if v, err := read(t, survivor, fmt.Sprint("key-", i), "all"); err != nil || v != value {
			t.Fatalf("key-%d: %d bytes, %v", i, len(v), err)
		}
	}
}

// A node that comes back with an empty disk has no vote until what it held is
// rebuilt, and is whole again without any client reading.
func TestReplacedDiskIsRebuilt(t *testing.T) {
	c := startCluster(t, quick)
	client := c.dial()
	const keys = 1000
	for i := range keys {
		if err := write(t, client, fmt.Sprint("key-", i), "v", "all"); err != nil {
			t.Fatal(err)
		}
	}
	old := c.storage[0]
	old.kill()
	began := time.Now()
	startStorage(t, "storage-1", t.TempDir(), "-listen", old.grpc, "-join", c.grpc, "-sync=false")
	var id string
	eventually(t, 30*time.Second, func() error {
		l, err := client.ListMigrations(t.Context(), &pb.ListMigrationsRequest{})
		if err == nil && len(l.GetMigrations()) == 0 {
			err = fmt.Errorf("no migration has begun")
		}
		if err == nil {
			id = l.GetMigrations()[len(l.GetMigrations())-1].GetMigrationId()
		}
		return err
	})
	awaitMigration(t, client, id, "completed")
	t.Logf("%d keys were rebuilt within %v", keys, time.Since(began).Round(time.Millisecond))
	eventually(t, 10*time.Second, func() error {
		l, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if err == nil && l.GetNodes()[0].GetKeysCount() < keys {
			err = fmt.Errorf("storage-1 holds %d keys", l.GetNodes()[0].GetKeysCount())
		}
		return err
	})
	// It votes again: with another one dead it makes the quorum.
	c.storage[1].kill()
	for i := range keys {
		if v, err := read(t, client, fmt.Sprint("key-", i), "quorum"); err != nil || v != "v" {
			t.Fatalf("key-%d: %q, %v", i, v, err)
		}
	}
}

// A replica that has lost what it missed, hints and all, gets it back without a
// client reading the keys, and repair tells of it.
func TestReplicasConvergeWithoutReads(t *testing.T) {
	c := startCluster(t, strings.Replace(quick, `repair_interval = "2s"`, `repair_interval = "168h"
  hint_lifetime   = "1s"`, 1))
	client := c.dial()
	c.storage[2].kill()
	const keys = 300
	for i := range keys {
		if err := write(t, client, fmt.Sprint("key-", i), "v", "quorum"); err != nil {
			t.Fatal(err)
		}
	}
	// The hints expire, and their ranges are owed instead.
	eventually(t, 30*time.Second, func() error {
		s, err := client.GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err != nil {
			return err
		}
		if n := s.GetNodes()[2]; n.GetHints() > 0 || n.GetOwedRanges() == 0 {
			return fmt.Errorf("storage-3 is owed %d hints and %d ranges", n.GetHints(), n.GetOwedRanges())
		}
		return nil
	})
	c.restart(2)
	eventually(t, 60*time.Second, func() error {
		l, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if err == nil && l.GetNodes()[2].GetKeysCount() < keys {
			err = fmt.Errorf("storage-3 holds %d keys", l.GetNodes()[2].GetKeysCount())
		}
		return err
	})
	eventually(t, 30*time.Second, func() error {
		s, err := client.GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err == nil && s.GetNodes()[2].GetOwedRanges() > 0 {
			err = fmt.Errorf("storage-3 is still owed %d ranges", s.GetNodes()[2].GetOwedRanges())
		}
		return err
	})
	out, errs, code := c.command("repair")
	if code != 0 || !strings.Contains(out, "0 differed") {
		t.Errorf("repair of equal replicas: exit %d, %q, %q", code, out, errs)
	}
}

// Deleted keys do not come back with a node that slept through their deletion,
// and the marks of their deletion are forgotten on all disks in the end. Values
// that have expired end likewise.
func TestTombstonesAreForgotten(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := startCluster(t, `
idempotency "badger" {
  ttl = "2s"
}
consistency {
  write_timeout = "1s"
  read_timeout  = "1s"
}
`+strings.Replace(quick, "repair_interval", "hint_lifetime = \"2s\"\n  repair_interval", 1))
	client := c.dial()
	const keys = 500
	for i := range keys {
		if err := write(t, client, fmt.Sprint("key-", i), "v", "all"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keys {
		if _, err := client.WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: "default", Key: fmt.Sprint("brief-", i), Value: []byte("v"), TtlSeconds: 2}); err != nil {
			t.Fatal(err)
		}
	}
	c.storage[1].kill()
	for i := range keys {
		if _, err := client.DeleteKeyValue(t.Context(), &pb.DeleteKeyValueRequest{TenantId: "default", Key: fmt.Sprint("key-", i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keys {
		eventually(t, 5*time.Second, func() error {
			if _, err := read(t, client, fmt.Sprint("brief-", i), "quorum"); reasonOf(err) != "KEY_NOT_FOUND" {
				return fmt.Errorf("brief-%d after its time: %w", i, err)
			}
			return nil
		})
	}
	c.restart(1)
	eventually(t, 4*time.Minute, func() error {
		l, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if err != nil {
			return err
		}
		for _, n := range l.GetNodes() {
			if n.GetKeysCount() > 1 { // one is written by startCluster
				return fmt.Errorf("node %s holds %d keys", n.GetNodeId(), n.GetKeysCount())
			}
		}
		return nil
	})
	for i := range keys {
		if _, err := read(t, client, fmt.Sprint("key-", i), "all"); reasonOf(err) != "KEY_NOT_FOUND" {
			t.Fatalf("key-%d came back: %v", i, err)
		}
	}
}

// A deleted tenant is gone at once, its data soon, and the next tenant of its
// id sees nothing of it.
func TestDeletedTenantsDataIsRemoved(t *testing.T) {
	c := startCluster(t, quick)
	client := c.dial()
	const keys = 500
	for i := range keys {
		if err := write(t, client, fmt.Sprint("key-", i), "v", "all"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.DeleteTenant(t.Context(), &pb.DeleteTenantRequest{TenantId: "default"}); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, client, "key-1", "quorum"); reasonOf(err) != "TENANT_NOT_FOUND" {
		t.Errorf("a key of a deleted tenant: %v", err)
	}
	if _, err := client.CreateTenant(t.Context(), &pb.CreateTenantRequest{TenantId: "default"}); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, client, "key-1", "quorum"); reasonOf(err) != "KEY_NOT_FOUND" {
		t.Errorf("a key of the tenant before: %v", err)
	}
	if err := write(t, client, "key-1", "mine", "all"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		l, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if err != nil {
			return err
		}
		for _, n := range l.GetNodes() {
			if n.GetKeysCount() != 1 {
				return fmt.Errorf("node %s holds %d keys", n.GetNodeId(), n.GetKeysCount())
			}
		}
		return nil
	})
	if v, err := read(t, client, "key-1", "all"); err != nil || v != "mine" {
		t.Errorf("the key of the new tenant: %q, %v", v, err)
	}
}
