package e2e

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/ring"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

var topologyKeys = flag.Int("topology.keys", 2000, "keys that tests of topology changes write")

// whole is the size from which figures say something of speed.
const whole = 50_000

// members is the ring of nodes.
func members(t *testing.T, ids []string) *ring.Ring {
	t.Helper()
	nodes := make([]ring.Node, len(ids))
	for i, id := range ids {
		nodes[i] = ring.Node{ID: id, VirtualNodes: 150}
	}
	r, err := ring.New(1, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shares is the part of all keys that each node holds.
func shares(r *ring.Ring, rf int) map[string]float64 {
	parts := map[string]float64{}
	for _, span := range ring.Ranges(r, rf, r, rf) {
		for _, n := range span.New {
			parts[r.Nodes()[n].ID] += span.Share()
		}
	}
	return parts
}

// moving is how many replicas a change gives to nodes that lack them, of keys
// as the ring has it for all tokens alike, and of all replicas after it.
func moving(before *ring.Ring, rf int, after *ring.Ring, nextRF int, keys int) (replicas float64) {
	for _, span := range ring.Ranges(before, rf, after, nextRF) {
		for _, n := range span.New {
			id := after.Nodes()[n].ID
			if !slices.ContainsFunc(span.Old, func(o uint32) bool { return before.Nodes()[o].ID == id }) {
				replicas += span.Share() * float64(keys)
			}
		}
	}
	return replicas
}

// checkShares waits until each node holds what its ranges give it, within a
// tenth, and together what there is. Others are keys that the test does not number.
func checkShares(t *testing.T, client pb.CoordinatorServiceClient, ids []string, keys, rf int) {
	t.Helper()
	want := shares(members(t, ids), rf)
	worst := 0.0
	eventually(t, 60*time.Second, func() error {
		resp, err := client.ListStorageNodes(t.Context(), &pb.ListStorageNodesRequest{})
		if err != nil {
			return err
		}
		if len(resp.GetNodes()) != len(ids) {
			return fmt.Errorf("%d nodes, want %v", len(resp.GetNodes()), ids)
		}
		worst = 0
		total := int64(0)
		for _, n := range resp.GetNodes() {
			if n.GetStatus() != "active" {
				return fmt.Errorf("node %s is %s", n.GetNodeId(), n.GetStatus())
			}
			total += n.GetKeysCount()
			fair := want[n.GetNodeId()] * float64(keys)
			worst = max(worst, math.Abs(float64(n.GetKeysCount())-fair)/fair)
			if worst > 0.1 {
				return fmt.Errorf("node %s holds %d keys, its ranges give it %.0f", n.GetNodeId(), n.GetKeysCount(), fair)
			}
		}
		if want := int64(keys * rf); total < want || total > want+want/100 {
			return fmt.Errorf("the nodes hold %d keys together, want %d", total, want)
		}
		return nil
	})
	t.Logf("%d nodes: none is further than %.1f %% from what its ranges give it", len(ids), 100*worst)
}

// Nodes come, go and die under load, the leading coordinator too, and nothing
// is lost. With -topology.keys=100000 its figures say something of speed.
func TestTopologyUnderLoad(t *testing.T) {
	keys := *topologyKeys
	extra := quick
	if keys < whole { // a copy that lasts long enough to be met
		extra = quick[:strings.LastIndex(quick, "}")] + fmt.Sprintf("  bytes_per_second = %d\n}\n", 20*keys)
	}
	dir := t.TempDir()
	p := startPair(t, func(i int, listen string) *process {
		return startConfiguredAt(t, fmt.Sprintf("coordinator-%d", i+1), dir, listen, extra)
	})
	f := startForeground(t, slices.Clone(p.coordinators), keys)
	began := time.Now()
	f.fill()
	t.Logf("%d keys written in %v", keys, time.Since(began).Round(time.Millisecond))

	f.run()
	rest := time.Second
	if keys >= whole {
		rest = 5 * time.Second
	}
	f.now("warm up")
	time.Sleep(rest)
	f.now("before")
	time.Sleep(rest)

	ids, rf := []string{"storage-1", "storage-2", "storage-3"}, 3
	client := func() pb.CoordinatorServiceClient { return f.clients[f.living(0)] }
	sent := func() (n float64) {
		for i, c := range f.coordinators {
			if !f.killed[i].Load() {
				n += metric(t, c, "coordinator_repairs_triggered_total")
			}
		}
		return n
	}
	// change awaits a migration and says what it has moved and how clients fared.
	change := func(what, migration string, nextIDs []string, nextRF int, counts float64) {
		t.Helper()
		began := time.Now()
		m := awaitMigration(t, client(), migration, "completed")
		took := time.Since(began)
		f.now("between")
		moved := sent() - counts // replicas; Inf where the count was lost with a coordinator
		theory := moving(members(t, ids), rf, members(t, nextIDs), nextRF, keys)
		before, _ := f.percentile("before", 99)
		during, n := f.percentile(what, 99)
		t.Logf("%s: %v; %.0f replicas sent, %.0f in theory (%.2f), %.1f %% of all; p99 %v, before %v (%.1f times, %d operations)",
			what, took.Round(time.Millisecond), moved, theory, moved/max(theory, 1), 100*theory/float64(keys*nextRF),
			during, before, float64(during)/float64(before), n)
		if m.GetProgress().GetPercentage() != 100 {
			t.Errorf("%s: %v", what, m)
		}
		if moved > 1.1*theory+float64(keys)/100 {
			t.Errorf("%s: %.0f replicas were sent, in theory %.0f", what, moved, theory)
		}
		// The floor absorbs what a shared machine does to a p99 of a few
		// milliseconds; a change at a small size is over before it averages out.
		floor := 20 * time.Millisecond
		if keys < 50_000 {
			floor = 150 * time.Millisecond
		}
		if n >= 500 && during > max(2*before, floor) {
			t.Errorf("%s: p99 is %v, before it was %v", what, during, before)
		}
		ids, rf = nextIDs, nextRF
		checkShares(t, client(), ids, keys+sampledKeys, rf)
		f.readAll(max(1, keys/10_000))
	}
	add := func(id string) (*process, string) {
		t.Helper()
		s := startStorage(t, id, t.TempDir(), "-sync=false")
		out, errs, code := p.coordinators[0].command("node", "add", "-plan", id, s.grpc)
		if code != 0 || !strings.Contains(out, "would be copied") {
			t.Errorf("plan: exit %d, %q, %q", code, out, errs)
		}
		host, port := splitAddress(t, s.grpc)
		f.now("add " + id)
		a, err := client().AddStorageNode(t.Context(), &pb.AddStorageNodeRequest{NodeId: id, Host: host, Port: port})
		if err != nil || a.GetMigrationId() == "" {
			t.Fatalf("add %s: %v, %v", id, a, err)
		}
		return s, a.GetMigrationId()
	}

	counts := sent()
	_, migration := add("storage-4")
	change("add storage-4", migration, append(slices.Clone(ids), "storage-4"), 3, counts)

	// The coordinator that leads is killed in the midst of the copy.
	fifth, migration := add("storage-5")
	eventually(t, 60*time.Second, func() error {
		m, err := client().GetMigrationStatus(t.Context(), &pb.GetMigrationStatusRequest{MigrationId: migration})
		if err == nil && m.GetProgress().GetPercentage() < 10 {
			err = fmt.Errorf("the copy has not begun: %v", m)
		}
		return err
	})
	leader := f.leader()
	f.kill(leader)
	killed := time.Now()
	if m, err := client().GetMigrationStatus(t.Context(), &pb.GetMigrationStatusRequest{MigrationId: migration}); err != nil || m.GetStatus() != "in_progress" {
		t.Errorf("the leader was killed too late: %v, %v", m, err)
	}
	eventually(t, 20*time.Second, func() error {
		if f.leader() == leader {
			return errNoLeader
		}
		return nil
	})
	t.Logf("another coordinator leads %v after the leader was killed", time.Since(killed).Round(time.Millisecond))
	change("add storage-5", migration, append(slices.Clone(ids), "storage-5"), 3, math.Inf(1))
	p.restart[leader]()
	f.back(leader, p.coordinators[leader])

	remove := func(what, id string, force bool) {
		t.Helper()
		counts := sent()
		f.now(what)
		r, err := client().RemoveStorageNode(t.Context(), &pb.RemoveStorageNodeRequest{NodeId: id, Force: force})
		if err != nil {
			t.Fatal(err)
		}
		without := slices.DeleteFunc(slices.Clone(ids), func(i string) bool { return i == id })
		change(what, r.GetMigrationId(), without, 3, counts)
	}
	remove("remove storage-1", "storage-1", false)
	p.storage[0].kill()
	f.now("storage-5 dies")
	fifth.kill()
	time.Sleep(rest)
	remove("give up storage-5", "storage-5", true)

	for _, next := range []int{2, 3} {
		what := fmt.Sprint("replication factor ", next)
		counts := sent()
		f.now(what)
		u, err := client().UpdateReplicationFactor(t.Context(), &pb.UpdateReplicationFactorRequest{TenantId: "default", NewReplicationFactor: int32(next)})
		if err != nil {
			t.Fatal(err)
		}
		change(what, u.GetMigrationId(), ids, next, counts)
		if g, err := client().GetTenant(t.Context(), &pb.GetTenantRequest{TenantId: "default"}); err != nil || int(g.GetReplicationFactor()) != next {
			t.Errorf("tenant: %v, %v", g, err)
		}
	}
	f.end()
	f.readAll(1)
	total := 0
	for _, took := range f.took {
		total += len(took)
	}
	t.Logf("%d operations beside it, %d failed; %d more were in hand of the coordinator that was killed", total, f.failed, f.inHand)
	if f.inHand > foregroundWorkers {
		t.Errorf("%d operations failed with the coordinator that was killed", f.inHand)
	}
	f.sampled.check(t)
	out, _, code := f.coordinators[0].command("keys", "-prefix", "bulk-")
	if n := strings.Count(out, "\n"); code != 0 || n != keys {
		t.Errorf("keys lists %d, want %d", n, keys)
	}
}
