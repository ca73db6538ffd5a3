package sqlite

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// before makes metadata as the release of a migration left it, and returns its path.
func before(t *testing.T, version int, statements string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.db")
	migrations, err := embeddedMigrations()
	if err != nil {
		t.Fatal(err)
	}
	db, err := connect(path, time.Second, 1, "_txlock", "immediate")
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), db, migrations[:version]); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, path, statements)
	return path
}

// TestNodesOfEarlierReleases: the tables of nodes become the document that the
// engine would have written.
func TestNodesOfEarlierReleases(t *testing.T) {
	t.Run("without nodes", func(t *testing.T) {
		s := opened(t, Options{Path: before(t, 3, "INSERT INTO tenants VALUES ('shop', 3, 100, 200)")})
		if topology, err := s.Topology(t.Context()); err != nil || topology.Version != 0 || topology.Epoch != 0 {
			t.Errorf("got the topology %+v, %v; want none", topology, err)
		}
		if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: coord.Topology{Version: 1, Epoch: 1}}); err != nil {
			t.Error(err)
		}
	})
	t.Run("with nodes", func(t *testing.T) {
		s := opened(t, Options{Path: before(t, 3, `
			UPDATE topology SET epoch = 7;
			INSERT INTO known_nodes VALUES ('gone "x"'), ('a'), ('B'), ('é\'), ('away');
			INSERT INTO storage_nodes VALUES ('a', 'uuid-1', '::1', 7001, 150, 'active'), ('é\', '', 'host', 7002, 1, 'inactive'),
				('B', 'uuid-2', 'h"<&>', 7003, 10, 'draining');
			INSERT INTO tenants VALUES ('shop', 3, 100, 200), ('other', 5, 100, 100)`)})
		want := coord.Topology{
			Version: 1, Epoch: 7, Gone: []string{"away", `gone "x"`},
			Nodes: []coord.StorageNode{
				{ID: "B", UUID: "uuid-2", Host: `h"<&>`, Port: 7003, VirtualNodes: 10, Status: coord.NodeDraining},
				{ID: "a", UUID: "uuid-1", Host: "::1", Port: 7001, VirtualNodes: 150, Status: coord.NodeActive},
				{ID: `é\`, Host: "host", Port: 7002, VirtualNodes: 1, Status: coord.NodeInactive},
			},
		}
		got, err := s.Topology(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if a, b := encoded(t, got), encoded(t, want); a != b {
			t.Errorf("got the topology\n%s, want\n%s", a, b)
		}
		for id, rf := range map[string]int{"shop": 3, "other": 5} {
			tenant, err := s.Tenant(t.Context(), id)
			if err != nil || tenant.ReplicationFactor != rf || tenant.Space != id || tenant.Since != 0 || tenant.AsOf != 7 || tenant.CreatedAt.Unix() != 100 {
				t.Errorf("tenant %s is %+v, %v", id, tenant, err)
			}
		}
		got.Version++
		if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: got, LeastReplicas: 4}); !errors.Is(err, coord.ErrMigrationConflict) {
			t.Errorf("a tenant of before breaks the condition: got %v, want ErrMigrationConflict", err)
		}
		if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: got, LeastReplicas: 3}); err != nil {
			t.Error(err)
		}
	})
}

func encoded(t *testing.T, topology coord.Topology) string {
	t.Helper()
	b, err := topology.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A document that cannot be read is named, and not taken for an outage.
func TestCorruptTopology(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db")})
	if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: coord.Topology{Version: 1, Epoch: 1}}); err != nil {
		t.Fatal(err)
	}
	whole := []byte(encoded(t, coord.Topology{Version: 1, Epoch: 1}))
	for _, damage := range []string{"document = x'7b'", "document = CAST('{\"format\":2}' AS BLOB)", "epoch = 2", "version = 2"} {
		if _, err := s.write.Exec("UPDATE topology SET " + damage); err != nil {
			t.Fatal(err)
		}
		_, err := s.Topology(t.Context())
		if !errors.Is(err, coord.ErrCorrupt) || errors.Is(err, coord.ErrMetadataUnavailable) {
			t.Errorf("with %s: got %v, want ErrCorrupt", damage, err)
		}
		if _, err := s.write.Exec("UPDATE topology SET version = 1, epoch = 1, document = ?", whole); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Topology(t.Context()); err != nil {
		t.Errorf("whole again: %v", err)
	}
}
