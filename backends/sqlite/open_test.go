package sqlite

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gofrs/flock"
	"github.com/pairdb/coordinator/coord"
)

func TestOpenSettings(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db"), BusyTimeout: 1234 * time.Millisecond})
	for name, db := range map[string]*sql.DB{"read": s.read, "write": s.write} {
		for pragma, want := range map[string]string{
			"journal_mode": "wal", "busy_timeout": "1234", "foreign_keys": "1", "synchronous": "2", "application_id": "1347568706",
		} {
			var got string
			if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s connection: %s is %s, %v; want %s", name, pragma, got, err, want)
			}
		}
	}
	if _, err := s.read.Exec("DELETE FROM tenants"); err == nil {
		t.Error("a read connection wrote")
	}
}

func TestOpenMakesMissingDirectories(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{
		"a/b/c/m.db", "odd ?&=#%41:name/m?mode=ro&x=#1.db", "file:m.db", ":memory:", "'quoted\".db",
	} {
		path = filepath.Join(dir, path)
		closed(t, open(t, Options{Path: path}))
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("after opening %q there is no database there: %v", path, err)
		}
	}
}

func TestOpenRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	s := opened(t, Options{Path: "m.db"})
	t.Chdir(t.TempDir())
	if _, err := s.CreateTenant(t.Context(), "shop", 3, 0); err != nil {
		t.Fatal(err)
	}
	identity, err := s.AcquireIdentity(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.Release(); err != nil {
		t.Error(err)
	}
}

// TestOpenBySymbolicLink: whoever opens the file by another name must still
// contend for the same identities.
func TestOpenBySymbolicLink(t *testing.T) {
	real, links := filepath.Join(t.TempDir(), "m.db"), t.TempDir()
	s := opened(t, Options{Path: real})
	identity, err := s.AcquireIdentity(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"file.db": real, "dir": filepath.Dir(real)} {
		if err := os.Symlink(target, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(links, "file.db"), filepath.Join(links, "dir", "m.db")} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := opened(t, Options{Path: path}).AcquireIdentity(ctx, "c1"); !errors.Is(err, coord.ErrNodeIDTaken) {
			t.Errorf("acquire through %s: got %v, want ErrNodeIDTaken", path, err)
		}
		cancel()
	}
	if err := identity.Release(); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesWhatIsNotMetadata(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, content []byte) string {
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	noise := make([]byte, 20_000)
	_, _ = rand.Read(noise) // never fails
	if err := syscall.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(at("nowhere"), at("dangling")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what, path string
		want       []string
	}{
		{"empty path", "", []string{"path", "empty"}},
		{"directory", dir, []string{dir, "is a directory", "expected an SQLite database"}},
		{"pipe", at("pipe"), []string{at("pipe"), "not a regular file", "expected an SQLite database"}},
		{"link to nothing", at("dangling"), []string{at("dangling"), "no such file"}},
		{"below a file", filepath.Join(write("plain", nil), "m.db"), []string{at("plain"), "not a directory"}},
		{"short text", write("short", []byte("hello\n")), []string{at("short"), "expected an SQLite database"}},
		{"noise", write("noise", noise), []string{at("noise"), "expected an SQLite database"}},
		{"another application's", foreignDatabase(t, at("foreign.db")), []string{at("foreign.db"), "another application", "expected PairDB metadata"}},
		{"newer", newerDatabase(t, at("newer.db")), []string{at("newer.db"), "version 9999", "knows versions up to", "newer release"}},
		{"NUL in the path", at("a\x00b"), []string{"invalid argument"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			before, beforeErr := os.ReadFile(regular(test.path))
			s, err := Open(t.Context(), Options{Path: test.path})
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
			if after, err := os.ReadFile(regular(test.path)); !bytes.Equal(before, after) || (err == nil) != (beforeErr == nil) {
				t.Error("the file was changed")
			}
		})
	}
	if _, err := Open(t.Context(), Options{Path: at("m.db"), BusyTimeout: -1}); err == nil {
		t.Error("a negative busy timeout was accepted")
	}
}

// regular is path where that can be read without waiting, else nothing.
func regular(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return path
}

func foreignDatabase(t *testing.T, path string) string {
	t.Helper()
	execute(t, path, "CREATE TABLE albums (title TEXT)")
	return path
}

func newerDatabase(t *testing.T, path string) string {
	t.Helper()
	closed(t, open(t, Options{Path: path}))
	execute(t, path, "PRAGMA user_version = 9999")
	return path
}

func execute(t *testing.T, path, statement string) {
	t.Helper()
	db, err := connect(path, time.Second, 1, "_txlock", "immediate")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(statement); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenWaitsForWhoeverSetsUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	lock := flock.New(path + ".setup.lock")
	if locked, err := lock.TryLock(); !locked || err != nil {
		t.Fatal(locked, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Options{Path: path})
	if !errors.Is(err, coord.ErrMetadataUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want ErrMetadataUnavailable and the deadline", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	closed(t, open(t, Options{Path: path}))
}

func TestOpenWithEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Open(ctx, Options{Path: filepath.Join(t.TempDir(), "m.db")})
	if !errors.Is(err, coord.ErrMetadataUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrMetadataUnavailable and Canceled", err)
	}
}

func TestMigrations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	embedded, err := embeddedMigrations()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // from empty, then twice with nothing to do
		s := open(t, Options{Path: path})
		if got := userVersion(t, s.write); got != embedded[len(embedded)-1].version {
			t.Errorf("schema version %d, want %d", got, embedded[len(embedded)-1].version)
		}
		if _, err := s.CreateTenant(t.Context(), "shop", 3, 0); err != nil && !errors.Is(err, coord.ErrTenantExists) {
			t.Error(err)
		}
		closed(t, s)
	}

	s := opened(t, Options{Path: path})
	next := embedded[len(embedded)-1].version + 1
	broken := append(embedded, migration{next, "broken", "CREATE TABLE half (x INTEGER); INSERT INTO none VALUES (1)"})
	if err := migrate(t.Context(), s.write, broken); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a broken migration: got %v, want an error that names it", err)
	}
	if got := userVersion(t, s.write); got != embedded[len(embedded)-1].version {
		t.Errorf("after a broken migration the version is %d, want %d", got, next-1)
	}
	whole := append(embedded, migration{next, "whole", "CREATE TABLE half (x INTEGER); INSERT INTO half VALUES (1)"})
	for range 2 {
		if err := migrate(t.Context(), s.write, whole); err != nil {
			t.Fatal(err)
		}
	}
	var rows int
	if err := s.write.QueryRow("SELECT count(*) FROM half").Scan(&rows); err != nil || rows != 1 {
		t.Errorf("a migration applied twice left %d rows, %v; want 1", rows, err)
	}
	if _, err := s.Tenant(t.Context(), "shop"); err != nil {
		t.Errorf("a tenant from before: %v", err)
	}
}

func userVersion(t *testing.T, db *sql.DB) (version int) {
	t.Helper()
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

func TestMigrationNames(t *testing.T) {
	for what, names := range map[string][]string{
		"not from one":  {"0002_a.sql"},
		"number twice":  {"0001_a.sql", "0001_b.sql"},
		"other file":    {"0001_a.sql", "README"},
		"short number":  {"1_a.sql"},
		"without words": {"0001.sql"},
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
