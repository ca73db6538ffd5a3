package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
	leader, other := p.coordinators[0], p.coordinators[1]
	if metric(t, other, "coordinator_housekeeping_leader") == 1 {
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
