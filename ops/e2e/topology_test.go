package e2e

import (
	"errors"
	"flag"
	"fmt"
	"github.com/pairdb/coordinator/rpc/client"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
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
	f := startForeground(t, []*process{c.process}, *topologyKeys)
	f.fill()
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
	t.Logf("%d keys were rebuilt %v after the node was killed", *topologyKeys, time.Since(began).Round(time.Millisecond))
	eventually(t, 10*time.Second, func() error {
		l, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if held := l.GetNodes()[0].GetKeysCount(); err == nil && held < int64(*topologyKeys) {
			err = fmt.Errorf("storage-1 holds %d keys", held)
		}
		return err
	})
	// It votes again: with another one dead it makes the quorum.
	c.storage[1].kill()
	f.readEach(1, "quorum")
}

// A replica that has lost what it missed, hints and all, gets it back without a
// client reading the keys, and repair tells of it.
func TestReplicasConvergeWithoutReads(t *testing.T) {
	c := startCluster(t, strings.Replace(quick, `repair_interval = "2s"`, `repair_interval = "168h"
  hint_lifetime   = "1s"`, 1))
	client := c.dial()
	c.storage[2].kill()
	keys := *topologyKeys
	f := startForeground(t, []*process{c.process}, keys)
	f.fill()
	// The hints expire, and their ranges are owed instead.
	eventually(t, time.Minute, func() error {
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
	began := time.Now()
	eventually(t, 2*time.Minute, func() error {
		l, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if held := l.GetNodes()[2].GetKeysCount(); err == nil && held < int64(keys) {
			err = fmt.Errorf("storage-3 holds %d keys", held)
		}
		return err
	})
	t.Logf("%d keys were repaired %v after the node was back", keys, time.Since(began).Round(time.Millisecond))
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
	api := c.dial()
	keys := *topologyKeys
	f := startForeground(t, []*process{c.process}, keys)
	f.value = func(n int32) []byte { return append([]byte(bulkValue(n)), randomBytes(1<<10)...) }
	f.fill()
	const brief = 500
	for i := range brief {
		if _, err := api.WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: "default", Key: fmt.Sprint("brief-", i), Value: []byte("v"), TtlSeconds: 2}); err != nil {
			t.Fatal(err)
		}
	}
	full := c.diskUsed()
	c.storage[1].kill()
	f.each(1, func(c *client.Client, i int) error {
		_, err := c.Write(t.Context(), client.WriteRequest{Key: bulkKey(i), Delete: true, Level: client.Quorum})
		return err
	})
	for i := range brief {
		eventually(t, 5*time.Second, func() error {
			if _, err := read(t, api, fmt.Sprint("brief-", i), "quorum"); reasonOf(err) != "KEY_NOT_FOUND" {
				return fmt.Errorf("brief-%d after its time: %w", i, err)
			}
			return nil
		})
	}
	c.restart(1)
	began := time.Now()
	eventually(t, 4*time.Minute, func() error {
		l, err := api.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
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
	t.Logf("%d deleted keys and %d expired ones were forgotten %v after the node was back", keys, brief, time.Since(began).Round(time.Millisecond))
	f.each(1, func(c *client.Client, i int) error {
		if _, err := c.Read(t.Context(), client.ReadRequest{Key: bulkKey(i), Level: client.All}); !errors.Is(err, client.ErrKeyNotFound) {
			return fmt.Errorf("came back: %w", err)
		}
		return nil
	})
	if keys < whole {
		return // what they took is less than what the stores hold in memory
	}
	// The space comes back although nobody writes any more.
	began = time.Now()
	eventually(t, 2*time.Minute, func() error {
		if now := c.diskUsed(); now > full/4 {
			return fmt.Errorf("%d MiB are used, %d MiB were before the deletion", now>>20, full>>20)
		}
		return nil
	})
	t.Logf("%d MiB of disks were used before the deletion, %d MiB are, %v after the last was forgotten", full>>20, c.diskUsed()>>20, time.Since(began).Round(time.Second))
}

// diskUsed is how many bytes of disks the storage nodes have.
func (c *cluster) diskUsed() (bytes int64) {
	c.t.Helper()
	for _, s := range c.storage {
		err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
			var st syscall.Stat_t
			if err == nil {
				err = syscall.Lstat(path, &st)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it was just replaced
			}
			bytes += 512 * st.Blocks
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return bytes
}

var repairKeys = flag.Int("repair.keys", 20_000, "keys of which a test compares replicas")

// Comparing equal replicas exchanges next to nothing.
func TestEqualReplicasExchangeLittle(t *testing.T) {
	c := startCluster(t, "maintenance {\n  repair_interval = \"168h\"\n}\n")
	keys := *repairKeys
	f := startForeground(t, []*process{c.process}, keys)
	began := time.Now()
	f.fill()
	t.Logf("%d keys written in %v", keys, time.Since(began).Round(time.Millisecond))
	exchanged := func() (bytes float64) {
		for _, s := range c.storage {
			bytes += metric(t, s, "storage_compared_bytes_total")
		}
		return bytes
	}
	eventually(t, 30*time.Second, func() error { // what a quorum did not wait for
		l, err := c.dial().ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		for _, n := range l.GetNodes() {
			if n.GetKeysCount() != int64(keys)+1 {
				err = fmt.Errorf("%s holds %d keys", n.GetNodeId(), n.GetKeysCount())
			}
		}
		return err
	})
	before := exchanged()
	began = time.Now()
	out, errs, code := c.command("repair")
	took := time.Since(began)
	if code != 0 || !strings.Contains(out, " 0 differed") {
		t.Errorf("repair of equal replicas: exit %d, %q, %q", code, out, errs)
	}
	data := float64(keys) * (valueBytes + float64(len(bulkKey(keys))))
	bytes := exchanged() - before
	t.Logf("comparing 3 replicas of %d keys took %v and exchanged %.0f bytes: %.3f %% of one replica's %.1f MiB of keys and values",
		keys, took.Round(time.Millisecond), bytes, 100*bytes/data, data/(1<<20))
	if bytes == 0 || bytes > data*3/100 {
		t.Errorf("%.0f bytes were exchanged to compare %.0f bytes on each of three nodes", bytes, data)
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
