package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
)

// before makes metadata as the release of a migration left it, and returns its address.
func before(t *testing.T, version int, statements string) string {
	t.Helper()
	address := postgrestest.Shared(t).Database(t)
	conn := must(pgx.Connect(t.Context(), address))(t)
	defer hangUp(conn)
	migrations := must(embeddedMigrations())(t)[:version]
	if err := migrate(t.Context(), conn, must(inspect(t.Context(), conn))(t).namespace, migrations); err != nil {
		t.Fatal(err)
	}
	must(conn.Exec(t.Context(), statements))(t)
	return address
}

// TestNodesOfEarlierReleases: the tables of nodes become the document that the
// engine would have written.
func TestNodesOfEarlierReleases(t *testing.T) {
	t.Run("without nodes", func(t *testing.T) {
		s := opened(t, Options{URL: before(t, 3, "INSERT INTO tenants VALUES ('shop', 3, 100, 200)")})
		if topology := must(s.Topology(t.Context()))(t); topology.Version != 0 || topology.Epoch != 0 {
			t.Errorf("got the topology %+v, want none", topology)
		}
		if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: coord.Topology{Version: 1, Epoch: 1}}); err != nil {
			t.Error(err)
		}
	})
	t.Run("with nodes", func(t *testing.T) {
		s := opened(t, Options{URL: before(t, 3, `
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
		got := must(s.Topology(t.Context()))(t)
		if a, b := must(got.Encode())(t), must(want.Encode())(t); string(a) != string(b) {
			t.Errorf("got the topology\n%s, want\n%s", a, b)
		}
		for id, rf := range map[string]int{"shop": 3, "other": 5} {
			tenant := must(s.Tenant(t.Context(), id))(t)
			if tenant.ReplicationFactor != rf || tenant.Space != id || tenant.Since != 0 || tenant.AsOf != 7 || tenant.CreatedAt.Unix() != 100 {
				t.Errorf("tenant %s is %+v", id, tenant)
			}
		}
		// Changes by hand are still told.
		changes := listen(t, s)
		must(s.db.pool.Exec(t.Context(), "UPDATE tenants SET updated_at = 300 WHERE id = 'shop'"))(t)
		wantChange(t, changes, coord.Change{Tenant: "shop"})
		got.Version++
		if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: got, LeastReplicas: 4}); !errors.Is(err, coord.ErrMigrationConflict) {
			t.Errorf("a tenant of before breaks the condition: got %v, want ErrMigrationConflict", err)
		}
		if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: got, LeastReplicas: 3}); err != nil {
			t.Error(err)
		}
		wantChange(t, changes, coord.Change{Topology: true})
	})
}

// A document that cannot be read is named, and not taken for an outage.
func TestCorruptTopology(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t)})
	if err := s.SetTopology(t.Context(), coord.TopologyStep{Next: coord.Topology{Version: 1, Epoch: 1}}); err != nil {
		t.Fatal(err)
	}
	whole := must((coord.Topology{Version: 1, Epoch: 1}).Encode())(t)
	for _, damage := range []string{"document = '{'", `document = '{"format":2}'`, "epoch = 2", "version = 2"} {
		must(s.db.pool.Exec(t.Context(), "UPDATE topology SET "+damage))(t)
		_, err := s.Topology(t.Context())
		if !errors.Is(err, coord.ErrCorrupt) || errors.Is(err, coord.ErrMetadataUnavailable) {
			t.Errorf("with %s: got %v, want ErrCorrupt", damage, err)
		}
		must(s.db.pool.Exec(t.Context(), "UPDATE topology SET version = 1, epoch = 1, document = $1", whole))(t)
	}
	must(s.Topology(t.Context()))(t)
}

// gate is a transaction that is held open.
type gate struct{ tx pgx.Tx }

// hold runs statements in a transaction and leaves it open.
func hold(t *testing.T, address, statements string) *gate {
	t.Helper()
	conn := must(pgx.Connect(t.Context(), address))(t)
	t.Cleanup(func() { hangUp(conn) })
	tx := must(conn.Begin(t.Context()))(t)
	must(tx.Exec(t.Context(), statements))(t)
	return &gate{tx}
}

// meet runs f, commits once f waits for the transaction, and returns f's error.
func (g *gate) meet(t *testing.T, f func(context.Context) error) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- f(context.WithoutCancel(t.Context())) }()
	waits := func() (n int) {
		err := g.tx.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))").Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); waits() == 0; time.Sleep(2 * time.Millisecond) {
		if len(ended) > 0 || time.Now().After(deadline) {
			t.Fatal("it does not wait for the transaction that is open")
		}
	}
	if err := g.tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return <-ended
}

// TestTenantsAndTopologyTakeTurns: what creates a tenant, deletes one and changes
// the topology waits for the others, and sees what they did.
func TestTenantsAndTopologyTakeTurns(t *testing.T) {
	const (
		creates = `SELECT FROM topology FOR SHARE;
			INSERT INTO tenants (id, replication_factor, created_at, updated_at, space, since) VALUES ('low', 2, 0, 0, 'low', 0)`
		changes = `SELECT FROM topology FOR UPDATE; UPDATE topology SET version = 1, epoch = 5, document = '{"format":1,"version":1,"epoch":5}'`
		deletes = `SELECT FROM topology FOR UPDATE; DELETE FROM tenants WHERE id = 'shop';
			INSERT INTO tenant_generations VALUES ('shop', 1); INSERT INTO deleted_spaces VALUES ('shop')`
	)
	setup := func(t *testing.T) (*Store, string) {
		address := postgrestest.Shared(t).Database(t)
		s := opened(t, Options{URL: address})
		must(s.CreateTenant(t.Context(), "shop", 3, 0))(t)
		return s, address
	}
	first := coord.Topology{Version: 1, Epoch: 1}
	t.Run("a step waits for a tenant that breaks its condition", func(t *testing.T) {
		s, address := setup(t)
		err := hold(t, address, creates).meet(t, func(ctx context.Context) error {
			return s.SetTopology(ctx, coord.TopologyStep{Next: first, LeastReplicas: 3})
		})
		if !errors.Is(err, coord.ErrMigrationConflict) {
			t.Errorf("got %v, want ErrMigrationConflict", err)
		}
	})
	t.Run("a tenant is of the step that it waited for", func(t *testing.T) {
		s, address := setup(t)
		var tenant coord.Tenant
		err := hold(t, address, changes).meet(t, func(ctx context.Context) (err error) {
			tenant, err = s.CreateTenant(ctx, "late", 2, 0)
			return err
		})
		if err != nil || tenant.Since != 5 || tenant.AsOf != 5 {
			t.Errorf("created %+v, %v; want it of epoch 5", tenant, err)
		}
	})
	t.Run("a step waits for another", func(t *testing.T) {
		s, address := setup(t)
		err := hold(t, address, changes).meet(t, func(ctx context.Context) error {
			return s.SetTopology(ctx, coord.TopologyStep{Next: first})
		})
		if !errors.Is(err, coord.ErrMigrationConflict) {
			t.Errorf("got %v, want ErrMigrationConflict", err)
		}
	})
	t.Run("a tenant gets no space of one that is being deleted", func(t *testing.T) {
		s, address := setup(t)
		var tenant coord.Tenant
		err := hold(t, address, deletes).meet(t, func(ctx context.Context) (err error) {
			tenant, err = s.CreateTenant(ctx, "shop", 2, 0)
			return err
		})
		if err != nil || tenant.Space != coord.TenantSpace("shop", 1) {
			t.Errorf("created %+v, %v; want the second of its id", tenant, err)
		}
	})
	t.Run("a deletion waits for a creation", func(t *testing.T) {
		s, address := setup(t)
		if err := hold(t, address, creates).meet(t, func(ctx context.Context) error { return s.DeleteTenant(ctx, "low") }); err != nil {
			t.Error(err)
		}
	})
}
