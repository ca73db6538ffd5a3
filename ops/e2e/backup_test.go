package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const backedUpKeys = 20_000

// fillForBackup writes values of all kinds, deletions and values that end.
func fillForBackup(t *testing.T, client pb.CoordinatorServiceClient) {
	t.Helper()
	send := func(req *pb.BatchWriteRequest) {
		t.Helper()
		resp, err := client.BatchWrite(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range resp.GetResults() {
			if r.GetStatus().GetCode() != 0 {
				t.Fatalf("write %s: %v", req.Items[i].GetKey(), r.GetStatus())
			}
		}
	}
	for from := 0; from < backedUpKeys; from += 500 {
		req, deletions := &pb.BatchWriteRequest{TenantId: "default"}, &pb.BatchWriteRequest{TenantId: "default"}
		for i := from; i < from+500; i++ {
			item := &pb.BatchWriteItem{Key: fmt.Sprintf("k%05d", i), Value: bytes.Repeat([]byte{byte(i), 0, 0xff, '\n'}, i%60)}
			if i%20 == 3 {
				item.TtlSeconds = 3600
			}
			req.Items = append(req.Items, item)
			if i%10 == 7 {
				deletions.Items = append(deletions.Items, &pb.BatchWriteItem{Key: item.Key, Delete: true})
			}
		}
		send(req)
		send(deletions)
	}
	send(&pb.BatchWriteRequest{TenantId: "default", Items: []*pb.BatchWriteItem{
		{Key: "k-large", Value: bytes.Repeat([]byte("large"), 1<<20)}, {Key: "k-empty"}, {Key: "k-ended", Value: []byte("v"), TtlSeconds: 1},
	}})
}

// exportOf is all versions of the keys of fillForBackup, as a cluster holds them.
func exportOf(t *testing.T, client pb.CoordinatorServiceClient) map[string]*pb.StoredVersion {
	t.Helper()
	stream, err := client.ExportVersions(t.Context(), &pb.ExportVersionsRequest{TenantId: "default"})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*pb.StoredVersion{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range m.GetVersions() {
			if strings.HasPrefix(v.GetKey(), "k") {
				all[v.GetKey()] = v
			}
		}
	}
}

// cutOff runs a command and kills it, as kill -9 does, once enough says so.
func cutOff(t *testing.T, enough func() bool, args ...string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()
	for deadline := time.Now().Add(60 * time.Second); !enough(); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("%v ended before it was killed: %v\n%s", args, err, out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v has not come far enough within a minute", args)
		}
	}
	cmd.Process.Kill()
	if err := <-ended; err == nil {
		t.Fatalf("%v had ended before it was killed\n%s", args, out.String())
	}
}

// restored is what restore -json tells.
type restored struct{ Tenants, Versions, Written, Kept int64 }

func restoreFile(t *testing.T, p *process, file string) (r restored) {
	t.Helper()
	stdout, stderr, code := p.command("restore", "-json", file)
	if code != 0 || json.Unmarshal([]byte(stdout), &r) != nil {
		t.Fatalf("restore: %d, %s%s", code, stdout, stderr)
	}
	return r
}

// A cluster is backed up under load and thrown away, and another one with other
// nodes holds the same versions after a restore, though both were killed on the way.
func TestBackupAndRestore(t *testing.T) {
	const slow = "maintenance {\n bytes_per_second = 1048576\n}"
	file := filepath.Join(t.TempDir(), "all.backup")
	want := func() map[string]*pb.StoredVersion {
		a := startCluster(t, slow)
		client := a.dial()
		for _, id := range []string{"brief", "zeta"} {
			if _, err := client.CreateTenant(t.Context(), &pb.CreateTenantRequest{TenantId: id, ReplicationFactor: 2}); err != nil {
				t.Fatal(err)
			}
		}
		a.command("tenant", "set-limits", "brief", "-operations", "77")
		a.command("put", "-tenant", "brief", "k", "v")
		fillForBackup(t, client)
		l := startLoad(t, []*process{a.process})
		cutOff(t, func() bool {
			info, err := os.Stat(file + ".partial")
			return err == nil && info.Size() > 600_000
		}, "backup", "-out", file, "-addr", a.grpc)
		if _, _, code := a.command("restore", "-check", file+".partial"); code != 1 {
			t.Errorf("check of a backup that is not whole: exit %d", code)
		}
		if _, _, code := a.command("tenant", "delete", "zeta"); code != 0 {
			t.Fatal("zeta was not deleted")
		}
		stdout, stderr, code := a.command("backup", "-out", file)
		l.end()
		if code != 0 || !strings.Contains(stderr, "going on with") || !strings.Contains(stderr, `tenant "zeta" was deleted meanwhile`) {
			t.Fatalf("backup: %d, %s%s", code, stdout, stderr)
		}
		if _, err := os.Stat(file + ".partial"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the partial file is left: %v", err)
		}
		versions := exportOf(t, client)
		a.backUpADeletedTenant()
		for _, p := range append(a.storage, a.process) {
			p.kill()
		}
		return versions
	}()
	if len(want) != backedUpKeys+3 {
		t.Fatalf("%d keys, want %d", len(want), backedUpKeys+3)
	}

	b := startConfigured(t, "coordinator-9", t.TempDir(), "")
	client := b.dial()
	var nodes []*process
	join := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			nodes = append(nodes, startStorage(t, id, t.TempDir(), "-join", b.grpc, "-sync=false"))
		}
	}
	join("other-1", "other-2")
	eventually(t, startTimeout, func() error {
		resp, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if err == nil && len(resp.GetNodes()) != 2 {
			err = fmt.Errorf("%d nodes have joined", len(resp.GetNodes()))
		}
		return err
	})
	if _, stderr, code := b.command("restore", "-create=false", file); code != 3 || !strings.Contains(stderr, `tenant "brief" of the backup does not exist here, and -create=false`) {
		t.Errorf("restore of tenants that do not exist: %d, %s", code, stderr)
	}
	if _, stderr, code := b.command("restore", "-tenant", "default", file); code != 1 || !strings.Contains(stderr, `tenant "default" has the replication factor 3 in the backup`) {
		t.Errorf("restore with too few nodes: %d, %s", code, stderr)
	}
	join("other-3", "other-4")
	eventually(t, startTimeout, func() error {
		_, stderr, code := b.command("tenant", "create", "default", "-rf", "3")
		if code != 0 {
			return errors.New(stderr)
		}
		return write(t, client, "warm", "up", "all")
	})

	damaged := filepath.Join(t.TempDir(), "damaged")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(whole)
	broken[len(broken)/2] ^= 4
	if err := os.WriteFile(damaged, broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := b.command("restore", damaged); code != 1 || !strings.Contains(stderr, damaged+": damaged at offset ") || !strings.Contains(stderr, ", expected ") {
		t.Errorf("restore of a damaged file: %d, %s", code, stderr)
	}
	if n := len(exportOf(t, client)); n != 0 {
		t.Errorf("%d keys of a damaged file were restored", n)
	}

	cutOff(t, func() bool { return storedKeys(t, nodes[0]) > 1500 }, "restore", file, "-addr", b.grpc)
	r := restoreFile(t, b, file)
	if r.Tenants != 2 || r.Kept < 1000 || r.Written < 1000 || r.Kept+r.Written != r.Versions {
		t.Errorf("the second restore: %+v, want some versions found and the others written", r)
	}
	sameStored(t, exportOf(t, client), want)
	if limits, _, _ := b.command("tenant", "limits", "brief"); !strings.Contains(limits, "77") {
		t.Errorf("limits of a restored tenant:\n%s", limits)
	}
	if value, _, code := b.command("get", "-tenant", "brief", "k"); code != 0 || value != "v" {
		t.Errorf("key of another tenant: %q, %d", value, code)
	}
	if _, _, code := b.command("tenant", "get", "zeta"); code != 3 {
		t.Errorf("the tenant that was deleted meanwhile: exit %d, want 3", code)
	}
	for _, key := range []string{"k00007", "k-ended"} {
		if _, err := read(t, client, key, "quorum"); status.Code(err) != codes.NotFound {
			t.Errorf("%s was deleted or has ended: %v", key, err)
		}
	}

	// What is newer stays.
	for _, key := range []string{"k00001", "k00007"} { // the latter was deleted
		if err := write(t, client, key, "newer", "quorum"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.DeleteKeyValue(t.Context(), &pb.DeleteKeyValueRequest{TenantId: "default", Key: "k00002"}); err != nil {
		t.Fatal(err)
	}
	if r := restoreFile(t, b, file); r.Written != 0 || r.Kept != r.Versions {
		t.Errorf("restored once more: %+v, want nothing written", r)
	}
	for _, key := range []string{"k00001", "k00007"} {
		if v, err := read(t, client, key, "quorum"); err != nil || v != "newer" {
			t.Errorf("%s: %q, %v, want what is newer", key, v, err)
		}
	}
	if _, err := read(t, client, "k00002", "quorum"); status.Code(err) != codes.NotFound {
		t.Errorf("what was deleted since: %v", err)
	}
}

// storedKeys is how many keys a storage node holds.
func storedKeys(t *testing.T, node *process) (n int) {
	t.Helper()
	_, page := httpGet(t, "http://"+node.ops+"/metrics")
	_, rest, found := strings.Cut(page, "\nstorage_keys ")
	if _, err := fmt.Sscan(rest, &n); !found || err != nil {
		t.Fatalf("no storage_keys in\n%s", page)
	}
	return n
}

// sameStored compares timestamps, writers, clocks, deletions, expiry and values.
func sameStored(t *testing.T, got, want map[string]*pb.StoredVersion) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	wrong, deletions, ending := 0, 0, 0
	for key, w := range want {
		head, _, err := coord.DecodeHead(w.GetHead(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if head.Tombstone {
			deletions++
		}
		if head.Expires != 0 {
			ending++
		}
		if g := got[key]; !bytes.Equal(g.GetHead(), w.GetHead()) || !bytes.Equal(g.GetValue(), w.GetValue()) {
			if wrong++; wrong < 5 {
				have, _, _ := coord.DecodeHead(g.GetHead(), nil)
				t.Errorf("%s is %v, want %v", key, &have, &head)
			}
		}
	}
	if wrong > 0 || deletions < backedUpKeys/10 || ending < backedUpKeys/20 {
		t.Errorf("%d keys differ; %d deletions, %d that end", wrong, deletions, ending)
	}
}

// backUpADeletedTenant deletes the tenant default after a backup of it was cut off.
func (c *cluster) backUpADeletedTenant() {
	t := c.t
	t.Helper()
	file := filepath.Join(t.TempDir(), "one.backup")
	cutOff(t, func() bool {
		info, err := os.Stat(file + ".partial")
		return err == nil && info.Size() > 100_000
	}, "backup", "-tenant", "default", "-out", file, "-addr", c.grpc)
	if _, stderr, code := c.command("backup", "-out", file); code != 1 || !strings.Contains(stderr, `is a backup of tenant "default", not of all tenants`) {
		t.Errorf("another backup in the same file: %d, %s", code, stderr)
	}
	if _, _, code := c.command("tenant", "delete", "default"); code != 0 {
		t.Fatal("the tenant was not deleted")
	}
	if _, stderr, code := c.command("backup", "-tenant", "default", "-out", file); code != 1 || !strings.Contains(stderr, `tenant "default" was deleted while it was backed up`) {
		t.Errorf("backup of a deleted tenant: %d, %s", code, stderr)
	}
	if _, _, code := c.command("backup", "-tenant", "default", "-out", file+"2"); code != 3 {
		t.Errorf("backup of a tenant that does not exist: exit %d, want 3", code)
	}
	if _, stderr, code := c.command("backup"); code != 2 || !strings.Contains(stderr, "-out FILE") {
		t.Errorf("backup without -out: %d, %s", code, stderr)
	}
}
