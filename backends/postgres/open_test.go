package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
)

// changed is a URL with something else in it.
func changed(t *testing.T, address string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal("the URL cannot be parsed")
	}
	change(u)
	return u.String()
}

// TestThirtyStartTogether is what a deployment does: thirty coordinators open an
// empty database at once, each with a pool of two, in a server of Postgres's
// default limit of 100 connections.
func TestThirtyStartTogether(t *testing.T) {
	address := postgrestest.Shared(t).Database(t)
	const coordinators = 30
	stores, held := make([]*Store, coordinators), make([]coord.Identity, coordinators)
	errs := make([]error, coordinators)
	var group sync.WaitGroup
	for i := range coordinators {
		group.Go(func() {
			if stores[i], errs[i] = Open(t.Context(), Options{URL: address, MaxConnections: 2, MinConnections: 2}); errs[i] != nil {
				return
			}
			if held[i], errs[i] = stores[i].AcquireIdentity(t.Context(), coord.AutoNodeID); errs[i] != nil {
				return
			}
			// Two calls at a time need both connections.
			var calls sync.WaitGroup
			results := make([]error, 4)
			for j := range results {
				calls.Go(func() { _, results[j] = stores[i].CreateTenant(t.Context(), fmt.Sprintf("t%d", j), 3, 0) })
			}
			calls.Wait()
			for _, err := range results {
				if err != nil && !errors.Is(err, coord.ErrTenantExists) {
					errs[i] = err
				}
			}
		})
	}
	group.Wait()
	ids := map[string]bool{}
	for i := range coordinators {
		if errs[i] != nil {
			t.Errorf("coordinator %d: %v", i, errs[i])
		}
		if stores[i] != nil {
			defer closed(t, stores[i])
		}
		ids[held[i].Writer.ID] = true
	}
	for i := range coordinators {
		if id := fmt.Sprintf("coordinator-%d", i+1); !ids[id] {
			t.Errorf("nobody has %s", id)
		}
	}
	if stores[0] == nil {
		return
	}
	if tenants := must(stores[0].Tenants(t.Context(), "", 100))(t); len(tenants) != 4 {
		t.Errorf("they made %d tenants, want 4", len(tenants))
	}
	migrations := must(embeddedMigrations())(t)
	var versions, version int
	if err := stores[0].db.pool.QueryRow(t.Context(), "SELECT count(*), max(version) FROM pairdb_schema").Scan(&versions, &version); err != nil ||
		versions != 1 || version != latest(migrations) {
		t.Errorf("the schema's row is there %d times with version %d, %v; want once with %d", versions, version, err, latest(migrations))
	}
}

func TestMigrations(t *testing.T) {
	address := postgrestest.Shared(t).Database(t)
	s := opened(t, Options{URL: address})
	must(s.CreateTenant(t.Context(), "shop", 3, 0))(t)
	embedded := must(embeddedMigrations())(t)
	conn := must(pgx.Connect(t.Context(), address))(t)
	defer hangUp(conn)
	version := func() (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT version FROM pairdb_schema").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	next := latest(embedded) + 1
	if got := version(); got != next-1 {
		t.Errorf("schema version %d, want %d", got, next-1)
	}
	namespace := s.session.found.namespace
	broken := append(embedded, migration{next, "broken", "CREATE TABLE half (x INTEGER); INSERT INTO none VALUES (1)"})
	if err := migrate(t.Context(), conn, namespace, broken); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a broken migration: got %v, want an error that names it", err)
	}
	if got := version(); got != next-1 {
		t.Errorf("after a broken migration the version is %d, want %d", got, next-1)
	}
	whole := append(embedded, migration{next, "whole", "CREATE TABLE half (x INTEGER); INSERT INTO half VALUES (1)"})
	for range 2 {
		if err := migrate(t.Context(), conn, namespace, whole); err != nil {
			t.Fatal(err)
		}
	}
	var rows int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM half").Scan(&rows); err != nil || rows != 1 || version() != next {
		t.Errorf("a migration applied twice left %d rows and version %d, %v", rows, version(), err)
	}
	// The release that is running goes on; one that starts does not.
	must(s.Tenant(t.Context(), "shop"))(t)
	_, err := Open(t.Context(), Options{URL: address})
	if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("open of a newer release's metadata: got %v", err)
	}
}

func TestMigrationNames(t *testing.T) {
	for what, names := range map[string][]string{
		"not from one": {"0002_a.sql"}, "number twice": {"0001_a.sql", "0001_b.sql"},
		"other file": {"0001_a.sql", "README"}, "short number": {"1_a.sql"}, "without words": {"0001.sql"},
	} {
		dir := fstest.MapFS{}
		for _, name := range names {
			dir[name] = &fstest.MapFile{Data: []byte("SELECT 1")}
		}
		if got, err := readMigrations(dir); err == nil {
			t.Errorf("%s: %v was accepted as %v", what, names, got)
		}
	}
}

func TestOpenWaitsForWhoeverMigrates(t *testing.T) {
	address := postgrestest.Shared(t).Database(t)
	conn := must(pgx.Connect(t.Context(), address))(t)
	defer hangUp(conn)
	found := must(inspect(t.Context(), conn))(t)
	must(conn.Exec(t.Context(), "SELECT pg_advisory_lock($1)", lockKey("schema", fmt.Sprint(found.namespace), "")))(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, Options{URL: address, LockTimeout: time.Millisecond}); !errors.Is(err, coord.ErrMetadataUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want ErrMetadataUnavailable and the deadline", err)
	}
}

// TestSchemasAreApart: two clusters may share a database.
func TestSchemasAreApart(t *testing.T) {
	server := postgrestest.Shared(t)
	address := server.Database(t)
	server.Administer(t, address, "CREATE SCHEMA one AUTHORIZATION "+postgrestest.User+"; CREATE SCHEMA two AUTHORIZATION "+postgrestest.User)
	var stores []*Store
	for _, schema := range []string{"one", "two"} {
		s := opened(t, Options{URL: changed(t, address, func(u *url.URL) { u.RawQuery += "&search_path=" + schema })})
		identity := must(s.AcquireIdentity(t.Context(), coord.AutoNodeID))(t)
		if want := (coord.Writer{ID: "coordinator-1", Incarnation: 1}); identity.Writer != want {
			t.Errorf("in schema %s the first id is %+v, want %+v", schema, identity.Writer, want)
		}
		stores = append(stores, s)
	}
	changes := listen(t, stores[1])
	must(stores[0].CreateTenant(t.Context(), "first", 3, 0))(t)
	must(stores[1].CreateTenant(t.Context(), "second", 3, 0))(t)
	// That of another schema, the first, would be told before.
	wantChange(t, changes, coord.Change{Tenant: "second"})
}

func TestOpenRefusesWhatCannotBeUsed(t *testing.T) {
	server := postgrestest.Shared(t)
	database := func(statements string) string {
		address := server.Database(t)
		if statements != "" {
			server.Administer(t, address, statements)
		}
		return address
	}
	elsewhere := server.Database(t)
	for what, test := range map[string]struct {
		opts Options
		want []string
	}{
		"no url":                {Options{}, []string{"no url"}},
		"not a url":             {Options{URL: "metadata"}, []string{"not one of Postgres"}},
		"pool of less than one": {Options{URL: "postgres://a/b", MaxConnections: -1, MinConnections: -2, MaxHints: -1, LockTimeout: -1}, []string{"at most -1", "at least -2", "-1 hints", "lock timeout"}},
		"more kept than pooled": {Options{URL: "postgres://a/b", MaxConnections: 2, MinConnections: 3}, []string{"at least 3", "to 2"}},
		"other tables":          {Options{URL: database("CREATE TABLE tenants (id TEXT)")}, []string{"0001", "tenants"}},
		"other tables of PairDB": {Options{URL: database("CREATE TABLE pairdb_schema (version INTEGER); INSERT INTO pairdb_schema VALUES (9999); GRANT SELECT ON pairdb_schema TO PUBLIC")},
			[]string{"version 9999", "knows versions up to", "newer release"}},
		"no schema":           {Options{URL: changed(t, database(""), func(u *url.URL) { u.RawQuery += "&search_path=nowhere" })}, []string{"no schema"}},
		"not durable":         {Options{URL: changed(t, database(""), func(u *url.URL) { u.RawQuery += "&synchronous_commit=off" })}, []string{"synchronous_commit"}},
		"no such database":    {Options{URL: changed(t, database(""), func(u *url.URL) { u.Path = "/nowhere" })}, []string{"nowhere"}},
		"wrong password":      {Options{URL: changed(t, database(""), func(u *url.URL) { u.User = url.UserPassword(postgrestest.User, "wrong hush/hush") })}, []string{"password authentication failed"}},
		"sessions elsewhere":  {Options{URL: elsewhere, SessionURL: database("")}, []string{"different databases"}},
		"a session url's own": {Options{URL: elsewhere, SessionURL: "postgres://a:hush/hush@b/c"}, []string{"session url", "percent-encoded"}},
	} {
		t.Run(what, func(t *testing.T) {
			s, err := Open(t.Context(), test.opts)
			if err == nil {
				closed(t, s)
				t.Fatal("it was opened")
			}
			if errors.Is(err, coord.ErrMetadataUnavailable) {
				t.Errorf("trying again would not help, but the error says so: %v", err)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			wantNoSecret(t, err)
		})
	}
}

// databaseName is the name of a URL's database.
func databaseName(t *testing.T, address string) (name string) {
	changed(t, address, func(u *url.URL) { name = u.Path[1:] })
	return name
}

func wantNoSecret(t *testing.T, err error) {
	t.Helper()
	for text := err.Error(); ; text = err.Error() {
		for _, part := range []string{"hush", "7c1", url.QueryEscape(postgrestest.Password), url.PathEscape(postgrestest.Password)} {
			if strings.Contains(text, part) {
				t.Errorf("the error shows a password: %q", text)
			}
		}
		if err = errors.Unwrap(err); err == nil {
			return
		}
	}
}

// TestErrorsHoldNoPassword gives addresses that are wrong in every way.
func TestErrorsHoldNoPassword(t *testing.T) {
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort := unused.Addr().String()
	if err := unused.Close(); err != nil {
		t.Fatal(err)
	}
	password := url.UserPassword("u", postgrestest.Password).String()
	for _, address := range []string{
		"postgres://" + password + "@" + closedPort + "/d",
		"postgres://" + password + "@host.invalid:5432/d",
		"postgres://" + password + "@" + closedPort + "/d?sslmode=sometimes",
		"postgres://" + password + "@" + closedPort + "/d?connect_timeout=hush",
		"postgres://" + password + "@" + closedPort + "/d?pool_max_conns=hush",
		"postgres://" + password + "@127.0.0.1:hush/d",
		"postgres://u:hush/hush@127.0.0.1:1/d", "postgres://u:hush#hush@127.0.0.1:1/d", "postgres://u:hush?hush@127.0.0.1:1/d",
		"postgres://u:1/hush@127.0.0.1:1/d", "postgres://u:1?hush@127.0.0.1:1/d", "postgres://u:1#hush@127.0.0.1:1/d",
		"postgres://u:hush%zz@127.0.0.1:1/d", "postgres://u:hush hush@127.0.0.1:1/d", "postgres://u:hush@hush@127.0.0.1:1/d",
		"postgres://u:[hush@127.0.0.1:1/d", "postgres://u:hush%@127.0.0.1:1/d",
		"host=127.0.0.1 port=1 user=u password=hush", "host=127.0.0.1 port=1 user=u password='hush",
		"host=127.0.0.1 port=hush password=hush", "hush", "hush://u:hush@h/d", "mysql://u:hush@127.0.0.1:1/d",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if s, err := Open(ctx, Options{URL: address}); err == nil {
			closed(t, s)
			t.Errorf("an address was opened: %s", address)
		} else {
			wantNoSecret(t, err)
		}
		if c, err := OpenClaims(ctx, Options{URL: address}, ClaimsOptions{}); err == nil {
			closed(t, c)
			t.Errorf("claims at an address were opened: %s", address)
		} else {
			wantNoSecret(t, err)
		}
		cancel()
	}
}

func TestServerDownAtStart(t *testing.T) {
	server := postgrestest.Start(t)
	address := server.Database(t)
	server.Stop(t)
	if _, err := Open(t.Context(), Options{URL: address}); !errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("open while the server is down: got %v, want ErrMetadataUnavailable", err)
	}
	if _, err := OpenClaims(t.Context(), Options{URL: address}, ClaimsOptions{}); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Errorf("open claims while the server is down: got %v, want ErrIdempotencyUnavailable", err)
	}
	server.Start(t)
	must(opened(t, Options{URL: address}).CreateTenant(t.Context(), "shop", 3, 0))(t)
}

func TestSettings(t *testing.T) {
	s := opened(t, Options{
		URL: postgrestest.Shared(t).Database(t), StatementTimeout: 1234 * time.Millisecond, LockTimeout: 567 * time.Millisecond,
		ApplicationName: "coordinator-7", MaxConnections: 3,
	})
	for setting, want := range map[string]string{
		"statement_timeout": "1234ms", "lock_timeout": "567ms", "application_name": "coordinator-7", "default_transaction_isolation": "read committed",
	} {
		var got string
		if err := s.db.pool.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", setting, got, err, want)
		}
	}
}

// TestHeldLock: a statement that waits for another's lock gives up, by the
// server's clock, or its caller's.
func TestHeldLock(t *testing.T) {
	address := postgrestest.Shared(t).Database(t)
	s := opened(t, Options{URL: address, LockTimeout: 50 * time.Millisecond})
	patient := opened(t, Options{URL: address})
	must(s.CreateTenant(t.Context(), "shop", 3, 0))(t)
	conn := must(pgx.Connect(t.Context(), address))(t)
	defer hangUp(conn)
	tx := must(conn.Begin(t.Context()))(t)
	must(tx.Exec(t.Context(), "SELECT * FROM tenants FOR UPDATE"))(t)
	if err := s.DeleteTenant(t.Context(), "shop"); !errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("got %v, want ErrMetadataUnavailable", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := patient.DeleteTenant(ctx, "shop"); !errors.Is(err, coord.ErrMetadataUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want ErrMetadataUnavailable and the deadline", err)
	}
	must(s.Tenant(t.Context(), "shop"))(t)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := patient.DeleteTenant(t.Context(), "shop"); err != nil {
		t.Error(err)
	}
}

func TestPoolStats(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t), MaxConnections: 1})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one idle connection of one", func() bool {
		p := s.PoolStats()
		return p.Idle == 1 && p.Acquired == 0 && p.Total == 1 && p.Max == 1
	})
	conn := must(s.db.pool.Acquire(t.Context()))(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call for which no connection was free: %v", err)
	}
	if p := s.PoolStats(); p.Acquired != 1 || p.Idle != 0 || p.Cancelled != 1 {
		t.Errorf("with one connection in use, and one call that waited for it: %+v", p)
	}
	hold := time.Millisecond
	eventually(t, "a call that waited is counted", func() bool {
		served := make(chan error, 1)
		go func() { served <- s.Ping(context.Background()) }()
		time.Sleep(hold) // nothing tells that it waits: where it did not yet, it is tried again for longer
		conn.Release()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if s.PoolStats().Waits > 0 {
			return true
		}
		conn, hold = must(s.db.pool.Acquire(t.Context()))(t), 2*hold
		return false
	})
}

func TestWhatTheSchemaRefusesIsNotAnOutage(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t)})
	_, err := s.CreateTenant(t.Context(), "shop", 0, 0)
	if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) || errors.Is(err, coord.ErrTenantExists) {
		t.Errorf("replication factor 0: got %v, want a plain error", err)
	}
	for _, id := range []string{"a\x00b", "a\xff"} {
		if _, err := s.CreateTenant(t.Context(), id, 3, 0); err == nil || errors.Is(err, coord.ErrMetadataUnavailable) {
			t.Errorf("tenant %q: got %v, want a plain error", id, err)
		}
	}
	must(s.CreateTenant(t.Context(), "shop", 3, 0))(t)
	err = s.SetTopology(t.Context(), coord.TopologyStep{Next: coord.Topology{Version: 1}, Resize: &coord.Resize{Tenant: "shop"}})
	if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) || errors.Is(err, coord.ErrMigrationConflict) {
		t.Errorf("resize to replication factor 0: got %v, want a plain error", err)
	}
	if topology := must(s.Topology(t.Context()))(t); topology.Version != 0 {
		t.Errorf("after a refused step: %+v", topology)
	}
}
