package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		os.Exit(child(path))
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) {
	conformance.Metadata(t, func(t *testing.T) conformance.OpenMetadata {
		path := filepath.Join(t.TempDir(), "metadata.db")
		return func(t *testing.T) coord.Metadata { return open(t, Options{Path: path}) }
	})
}

// open opens a store; whoever called closes it.
func open(t *testing.T, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// opened opens a store until the test ends.
func opened(t *testing.T, opts Options) *Store {
	t.Helper()
	s := open(t, opts)
	t.Cleanup(func() { closed(t, s) })
	return s
}

func closed(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestTenantTimesComeFromTheWallClock(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 999_999_999, time.FixedZone("east", 3600))
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db"), Wall: func() time.Time { return now }})
	created, err := s.CreateTenant(t.Context(), "shop", 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := now.Truncate(time.Second); !created.CreatedAt.Equal(want) || !created.UpdatedAt.Equal(want) {
		t.Errorf("created at %v, updated at %v, want %v", created.CreatedAt, created.UpdatedAt, want)
	}
	for i, step := range []struct{ by, wantAfter time.Duration }{
		{time.Minute, time.Minute},
		{-time.Hour, time.Minute}, // the clock was set back: the time stands
	} {
		now = now.Add(step.by)
		if err := s.SetTopology(t.Context(), coord.TopologyStep{
			Next: coord.Topology{Version: uint64(i + 1)}, Resize: &coord.Resize{Tenant: "shop", ReplicationFactor: 5},
		}); err != nil {
			t.Fatal(err)
		}
		after, err := s.Tenant(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if want := created.CreatedAt.Add(step.wantAfter); !after.UpdatedAt.Equal(want) || !after.CreatedAt.Equal(created.CreatedAt) {
			t.Errorf("clock moved by %v: updated at %v, want %v", step.by, after.UpdatedAt, want)
		}
	}
}

func TestIDsMayHoldAnyByte(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db")})
	ids := []string{"a", "a\x00", "a\x00b", "a\x01", "a\xff\xfe"}
	for i, id := range ids {
		if _, err := s.CreateTenant(t.Context(), id, i+1, 0); err != nil {
			t.Fatal(err)
		}
	}
	tenants, err := s.Tenants(t.Context(), "", 10)
	if err != nil || len(tenants) != len(ids) {
		t.Fatalf("listed %+v, %v", tenants, err)
	}
	for i, id := range ids {
		if tenants[i].ID != id || tenants[i].ReplicationFactor != i+1 {
			t.Errorf("tenant %d is %+v, want %q", i, tenants[i], id)
		}
	}
}

// TestBusy holds the write lock as another process would.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	holder, s := opened(t, Options{Path: path}), opened(t, Options{Path: path, BusyTimeout: 50 * time.Millisecond})
	patient := opened(t, Options{Path: path, BusyTimeout: time.Hour})
	if _, err := s.CreateTenant(t.Context(), "shop", 3, 0); err != nil {
		t.Fatal(err)
	}
	tx, err := holder.write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateTenant(t.Context(), "late", 3, 0); !errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("write while another process writes: got %v, want ErrMetadataUnavailable", err)
	}
	if _, err := s.AcquireIdentity(t.Context(), "c1"); !errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("acquire while another process writes: got %v, want ErrMetadataUnavailable", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = patient.CreateTenant(ctx, "late", 3, 0)
	if !errors.Is(err, coord.ErrMetadataUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("write with a deadline while another process writes: got %v, want ErrMetadataUnavailable and the deadline", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a write kept to its busy timeout instead of its context: it took %v", took)
	}
	if _, err := s.Tenant(t.Context(), "shop"); err != nil {
		t.Errorf("read while another process writes: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if _, err := patient.CreateTenant(t.Context(), "late", 3, 0); err != nil {
		t.Errorf("write after the other process's: %v", err)
	}
	// The acquisition that failed gave its lock back, and counted no life.
	identity, err := s.AcquireIdentity(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if identity.Writer.Incarnation != 1 {
		t.Errorf("incarnation %d, want 1", identity.Writer.Incarnation)
	}
	if err := identity.Release(); err != nil {
		t.Error(err)
	}
}

func TestWhatTheSchemaRefusesIsNotAnOutage(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db")})
	_, err := s.CreateTenant(t.Context(), "shop", 0, 0)
	if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) || errors.Is(err, coord.ErrTenantExists) {
		t.Errorf("replication factor 0: got %v, want a plain error", err)
	}
	if _, err = s.CreateTenant(t.Context(), "shop", 3, 0); err != nil {
		t.Fatal(err)
	}
	err = s.SetTopology(t.Context(), coord.TopologyStep{Next: coord.Topology{Version: 1}, Resize: &coord.Resize{Tenant: "shop"}})
	if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) || errors.Is(err, coord.ErrMigrationConflict) {
		t.Errorf("resize to replication factor 0: got %v, want a plain error", err)
	}
	if topology, err := s.Topology(t.Context()); err != nil || topology.Version != 0 {
		t.Errorf("after a refused step: %+v, %v", topology, err)
	}
}

// TestFailed: a store that was interrupted says so in many ways, of which only
// some name the context.
func TestFailed(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		what      string
		ctx       context.Context
		err       error
		is, isNot []error
	}{
		{"nothing", ended, nil, nil, []error{coord.ErrMetadataUnavailable}},
		{"answer", ended, coord.ErrTenantExists, []error{coord.ErrTenantExists}, []error{coord.ErrMetadataUnavailable, context.Canceled}},
		{"transaction gone", ended, sql.ErrTxDone, []error{coord.ErrMetadataUnavailable, context.Canceled, sql.ErrTxDone}, nil},
		{"no connection", t.Context(), sql.ErrConnDone, []error{coord.ErrMetadataUnavailable, sql.ErrConnDone}, []error{context.Canceled}},
	} {
		err := failed(test.ctx, "test", test.err)
		if (err == nil) != (test.err == nil) {
			t.Errorf("%s: got %v", test.what, err)
		}
		for _, kind := range test.is {
			if !errors.Is(err, kind) {
				t.Errorf("%s: %v is not %v", test.what, err, kind)
			}
		}
		for _, kind := range test.isNot {
			if errors.Is(err, kind) {
				t.Errorf("%s: %v is %v", test.what, err, kind)
			}
		}
	}
}

// TestChangeCutShort ends the context in the middle of a change.
func TestChangeCutShort(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db")})
	ctx, cancel := context.WithCancel(t.Context())
	err := s.update(ctx, "test", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE topology SET epoch = 7")
		cancel()
		return err
	})
	if !errors.Is(err, coord.ErrMetadataUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrMetadataUnavailable and Canceled", err)
	}
	if topology, err := s.Topology(t.Context()); err != nil || topology.Epoch != 0 {
		t.Errorf("after that the epoch is %d, %v; want 0", topology.Epoch, err)
	}
}
