package coord_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// exported is all that an engine exports of the tenant, by key.
func exported(t testing.TB, c *coord.Coordinator) map[string]coord.Version {
	t.Helper()
	all := map[string]coord.Version{}
	ended := false
	err := c.Export(t.Context(), coord.ExportRequest{Tenant: "shop"}, func(p coord.ExportPage) error {
		for _, v := range p.Versions {
			if _, twice := all[v.Key]; twice {
				t.Errorf("%s is exported twice", v.Key)
			}
			all[v.Key] = v.Version
		}
		ended = p.After == nil
		return nil
	})
	if err != nil || !ended {
		t.Fatalf("export: %v, end seen: %t", err, ended)
	}
	return all
}

func imported(t testing.TB, c *coord.Coordinator, versions map[string]coord.Version) coord.ImportResult {
	t.Helper()
	var list []coord.KeyVersion
	for key, v := range versions {
		list = append(list, coord.KeyVersion{Key: key, Version: v})
	}
	result, err := c.Import(t.Context(), "shop", list)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func sameHead(x, y coord.Head) bool {
	return x.Compare(&y) == 0 && x.Tombstone == y.Tombstone && x.Expires == y.Expires && slices.Equal(x.Clock, y.Clock)
}

func sameVersions(t testing.TB, got, want map[string]coord.Version) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	for key, w := range want {
		if g := got[key]; !sameHead(g.Head, w.Head) || !bytes.Equal(g.Value, w.Value) {
			t.Errorf("%s is %v with %d bytes, want %v with %d", key, &g.Head, len(g.Value), &w.Head, len(w.Value))
		}
	}
}

// fill writes values, deletions, values that end and some that have ended, and
// a large one.
func fill(t testing.TB, c *coord.Coordinator) {
	t.Helper()
	for i := range 100 {
		key := fmt.Sprintf("k%03d", i)
		req := coord.WriteRequest{Tenant: "shop", Key: key, Value: []byte(strings.Repeat("v", i)), Level: coord.All}
		switch {
		case i%10 == 1:
			req.TTL = time.Nanosecond
		case i%10 == 2:
			req.TTL = 24 * time.Hour
		case i == 50:
			req.Value = bytes.Repeat([]byte{0, 255}, 1<<20)
		}
		if _, err := c.Write(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if i%10 == 3 {
			remove(t, c, key, coord.All)
		}
	}
}

func TestExportAndImportKeepVersions(t *testing.T) {
	t.Parallel()
	from, to := newCluster(t, 3), newCluster(t, 4)
	source := from.start(t, "c1", nil)
	fill(t, source)
	want := exported(t, source)
	if v := want["k003"]; !v.Tombstone || len(want) != 100 {
		t.Errorf("%d keys, k003 is %v, want 100 and a deletion", len(want), &v.Head)
	}
	if _, err := get(t, source, "k001", coord.Quorum); !errors.Is(err, coord.ErrKeyNotFound) {
		t.Errorf("k001, which has ended: %v", err)
	}
	if v := want["k001"]; v.Expires == 0 || len(v.Value) != 1 {
		t.Errorf("k001, which has ended, is %v with %q", &v.Head, v.Value)
	}

	target := to.start(t, "d7", nil)
	if r := imported(t, target, want); r.Written != 100 || r.Kept != 0 {
		t.Errorf("import: %+v, want all 100 written", r)
	}
	sameVersions(t, exported(t, target), want)
	for key, v := range want { // replicas hold them, and nobody else does
		eventually(t, "three nodes hold "+key, func() bool {
			holders := 0
			for _, n := range to.nodes {
				if sameHead(held(t, n, key), v.Head) {
					holders++
				}
			}
			return holders == 3
		})
	}
	if r := imported(t, target, want); r.Written != 0 || r.Kept != 100 {
		t.Errorf("imported again: %+v, want all 100 kept", r)
	}
	// A write descends what was restored, a read finds it.
	if v, err := get(t, target, "k005", coord.Quorum); err != nil || v != "vvvvv" {
		t.Errorf("read of a restored key: %q, %v", v, err)
	}
	if r := put(t, target, "k005", "new", coord.Quorum); r.Clock.String() != "{c1:1 d7:1}" {
		t.Errorf("a write over a restored key has the clock %v", r.Clock)
	}
	if _, err := get(t, target, "k003", coord.Quorum); !errors.Is(err, coord.ErrKeyNotFound) {
		t.Errorf("read of a restored deletion: %v", err)
	}
}

func TestImportKeepsTheGreater(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3).start(t, "c1", nil)
	put(t, c, "changed", "old", coord.All)
	put(t, c, "deleted", "old", coord.All)
	old := exported(t, c)
	put(t, c, "changed", "new", coord.All)
	remove(t, c, "deleted", coord.All)
	now := exported(t, c)
	if r := imported(t, c, old); r.Kept != 2 || r.Written != 0 {
		t.Errorf("import of older versions: %+v, want both kept out", r)
	}
	sameVersions(t, exported(t, c), now)
	// A backup may be ahead of every clock.
	ahead := now["changed"]
	ahead.Timestamp += int64(time.Hour)
	ahead.Value = []byte("ahead")
	if r := imported(t, c, map[string]coord.Version{"changed": ahead}); r.Written != 1 {
		t.Errorf("import of a version of the future: %+v, want it written", r)
	}
	put(t, c, "changed", "after it", coord.Quorum)
	if v, err := get(t, c, "changed", coord.Quorum); err != nil || v != "after it" {
		t.Errorf("a write after it: %q, %v", v, err)
	}
}

func TestImportNeedsAQuorum(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	put(t, c, "k", "v", coord.All)
	versions := exported(t, c)
	versions["other"] = versions["k"]
	a, b := cluster.nodes["storage-1"], cluster.nodes["storage-2"]
	a.cut()
	if r := imported(t, c, versions); r.Written != 1 || r.Kept != 1 {
		t.Errorf("with a node down: %+v, want one written and one kept", r)
	}
	b.cut()
	versions["third"] = versions["k"]
	_, err := c.Import(t.Context(), "shop", []coord.KeyVersion{{Key: "third", Version: versions["k"]}})
	if quorum := (*coord.QuorumError)(nil); !errors.As(err, &quorum) {
		t.Errorf("with two nodes down: %v, want a QuorumError", err)
	}
	if err := c.Export(t.Context(), coord.ExportRequest{Tenant: "shop"}, func(coord.ExportPage) error { return nil }); !errors.As(err, new(*coord.QuorumError)) {
		t.Errorf("export with two nodes down: %v, want a QuorumError", err)
	}
	a.mend()
	b.mend()
	// What missed it is brought up to date when it is imported again, even where
	// a majority holds it. Third always counts as written, since only a minority
	// holds it; other does unless its two holders answer and the third node is late.
	if r := imported(t, c, versions); r.Written < 1 || r.Written > 2 || r.Written+r.Kept != 3 {
		t.Errorf("imported again: %+v, want third written, perhaps other, and the rest kept", r)
	}
	for key := range versions {
		for id, n := range cluster.nodes {
			eventually(t, id+" holds "+key, func() bool { return sameHead(held(t, n, key), versions["k"].Head) })
		}
	}
}

// A greater version that only a minority holds does not stand in for the one of
// the backup: it is made durable first.
func TestImportSpreadsAGreaterVersion(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	put(t, c, "k", "old", coord.All)
	old := exported(t, c)
	a, b := cluster.nodes["storage-1"], cluster.nodes["storage-2"]
	a.cut()
	b.cut()
	put(t, c, "k", "new", coord.One)
	a.mend()
	b.mend()
	if r := imported(t, c, old); r.Kept != 1 {
		t.Errorf("import: %+v, want it kept out", r)
	}
	cluster.nodes["storage-3"].cut()
	if v, err := get(t, c, "k", coord.Quorum); err != nil || v != "new" {
		t.Errorf("without the node that had it: %q, %v", v, err)
	}
}

// A node that does not answer holds an import up for a moment only.
func TestImportPassesAFrozenNode(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	put(t, c, "k", "v", coord.All)
	versions := exported(t, c)
	versions["other"] = versions["k"]
	frozen := cluster.nodes["storage-1"]
	frozen.hold()
	defer frozen.release()
	if r := imported(t, c, versions); r.Written != 1 || r.Kept != 1 {
		t.Errorf("with a frozen node: %+v, want one written and one kept", r)
	}
}

func TestExportGoesOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3).start(t, "c1", nil)
	fill(t, c)
	want := exported(t, c)
	got := map[string]coord.Version{}
	errEnough := errors.New("enough")
	req := coord.ExportRequest{Tenant: "shop"}
	rounds := 0
	for done := false; !done; rounds++ {
		err := c.Export(t.Context(), req, func(p coord.ExportPage) error {
			for _, v := range p.Versions {
				got[v.Key] = v.Version
			}
			req.Space, req.After = p.Space, p.After
			done = p.After == nil
			return errEnough
		})
		if !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
	}
	if rounds < 2 {
		t.Errorf("%d pages, want the 2 MiB value to end one", rounds)
	}
	sameVersions(t, got, want)
}

func TestExportOfADeletedTenantFails(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3).start(t, "c1", nil)
	put(t, c, "k", "v", coord.All)
	var space string
	if err := c.Export(t.Context(), coord.ExportRequest{Tenant: "shop"}, func(p coord.ExportPage) error { space = p.Space; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteTenant(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	nothing := func(coord.ExportPage) error { return nil }
	if err := c.Export(t.Context(), coord.ExportRequest{Tenant: "shop"}, nothing); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("export of a deleted tenant: %v", err)
	}
	if _, err := c.CreateTenant(t.Context(), "shop", 3); err != nil {
		t.Fatal(err)
	}
	err := c.Export(t.Context(), coord.ExportRequest{Tenant: "shop", Space: space}, nothing)
	if !errors.Is(err, coord.ErrTenantNotFound) || !strings.Contains(err.Error(), "deleted meanwhile, and made again") {
		t.Errorf("export that goes on with another tenant of the same id: %v", err)
	}
	if _, err := c.Import(t.Context(), "nobody", []coord.KeyVersion{{Key: "k", Version: exampleVersion()}}); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("import into no tenant: %v", err)
	}
}

func exampleVersion() coord.Version {
	return coord.Version{Head: coord.Head{Timestamp: 1, Writer: coord.Writer{ID: "c", Incarnation: 1}}}
}

// Versions are restored while the nodes change: none is lost.
func TestImportDuringAChangeOfMembers(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 4)
	c := cluster.start(t, "c1", nil)
	head := exampleVersion().Head
	head.Timestamp = time.Now().UnixNano()
	all := map[string]coord.Version{}
	m, err := c.RemoveNode(t.Context(), "storage-2", coord.Removal{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		batch := map[string]coord.Version{}
		for j := range 20 {
			key := fmt.Sprintf("%d-%d", i, j)
			batch[key] = coord.Version{Head: head, Value: []byte(key)}
			all[key] = batch[key]
		}
		imported(t, c, batch)
	}
	completed(t, c, m)
	sameVersions(t, exported(t, c), all)
}

// unwatched is metadata that tells of no changes.
type unwatched struct{ coord.Metadata }

// A coordinator that missed a change of members is refused by the nodes, and goes
// on with the same versions once it knows the newer ring.
func TestTransferThroughAnOutdatedCoordinator(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 4)
	c := cluster.start(t, "c1", nil)
	late := cluster.start(t, "c2", func(o *coord.Options) {
		o.Metadata, o.TopologyInterval = unwatched{o.Metadata}, time.Hour
	})
	all := map[string]coord.Version{}
	for i := range 20 {
		v := coord.Version{Head: exampleVersion().Head, Value: fmt.Append(nil, i)}
		v.Timestamp = time.Now().UnixNano()
		all[fmt.Sprint(i)] = v
	}
	remove := func(id string) {
		t.Helper()
		m, err := c.RemoveNode(t.Context(), id, coord.Removal{})
		if err != nil {
			t.Fatal(err)
		}
		completed(t, c, m)
	}
	remove("storage-2")
	if r := imported(t, late, all); r.Written != 20 {
		t.Errorf("import: %+v, want all 20 written", r)
	}
	sameVersions(t, exported(t, c), all)
	if _, err := c.AddNode(t.Context(), coord.StorageNode{ID: "storage-2", Host: "127.0.0.1", Port: 1, VirtualNodes: 32}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node is a member again", func() bool {
		nodes, err := c.Nodes(t.Context())
		return err == nil && len(nodes) == 4 && !slices.ContainsFunc(nodes, func(n coord.NodeState) bool { return n.Status != coord.NodeActive })
	})
	sameVersions(t, exported(t, late), all)
}
