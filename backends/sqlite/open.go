// Package sqlite keeps metadata in one SQLite file, which any number of
// coordinator processes on one machine may share. The file must lie on a local
// disk: SQLite's locks and the identities' do not hold on network file systems.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pairdb/coordinator/coord"
	"modernc.org/sqlite"
)

// DefaultBusyTimeout is how long a statement waits for another process's write.
const DefaultBusyTimeout = 5 * time.Second

// readers bounds the connections that read at the same time. Writes have one
// connection: SQLite allows one writer, and a queue in this process is fair
// where polling for the file's lock is not.
const readers = 4

// Options say where the metadata is.
type Options struct {
	// Path of the database file. Missing directories, and the file, are created.
	Path string
	// BusyTimeout is how long a call waits for a write of another process, if
	// its context lets it; DefaultBusyTimeout where it is 0.
	BusyTimeout time.Duration
	// MaxHints and MaxHintBytes bound the hints of all nodes together, in number
	// and by coord.Hint.Size; DefaultMaxHints and DefaultMaxHintBytes where they
	// are 0. Processes that share the file should agree on them.
	MaxHints     int64
	MaxHintBytes int64
	// Wall tells the time of tenants' changes and of hints' arrival; time.Now
	// where it is nil.
	Wall func() time.Time
}

// Store is metadata in an SQLite file. A change is on disk (synced) before the
// call that made it returns. It is safe for concurrent use.
type Store struct {
	path         string // absolute, without symbolic links
	wall         func() time.Time
	maxHints     int64
	maxHintBytes int64
	read         *sql.DB
	write        *sql.DB
}

var (
	_ coord.Metadata = (*Store)(nil)
	_ coord.Hints    = (*Store)(nil)
)

// Open opens the metadata at a path, creating it or bringing its schema up to
// date where needed; other processes that open it meanwhile wait, each until
// its ctx ends. The error wraps coord.ErrMetadataUnavailable where trying
// again may help; it does not where the path holds something else or a newer
// release's metadata.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.BusyTimeout == 0 {
		opts.BusyTimeout = DefaultBusyTimeout
	}
	if opts.MaxHints == 0 {
		opts.MaxHints = DefaultMaxHints
	}
	if opts.MaxHintBytes == 0 {
		opts.MaxHintBytes = DefaultMaxHintBytes
	}
	if opts.Wall == nil {
		opts.Wall = time.Now
	}
	if opts.Path == "" {
		return nil, errors.New("open metadata: the path of the SQLite file is empty")
	}
	if opts.BusyTimeout < 0 {
		return nil, fmt.Errorf("open metadata %s: busy timeout %v is negative", opts.Path, opts.BusyTimeout)
	}
	if opts.MaxHints < 0 || opts.MaxHintBytes < 0 {
		return nil, fmt.Errorf("open metadata %s: bounds of %d hints and %d bytes of them, neither may be negative",
			opts.Path, opts.MaxHints, opts.MaxHintBytes)
	}
	path, err := locate(opts.Path)
	if err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", opts.Path, err)
	}
	s := &Store{path: path, wall: opts.Wall, maxHints: opts.MaxHints, maxHintBytes: opts.MaxHintBytes}
	if s.write, err = connect(path, opts.BusyTimeout, 1, "_txlock", "immediate"); err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", opts.Path, err)
	}
	if s.read, err = connect(path, opts.BusyTimeout, readers, "_query_only", "on"); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", opts.Path, err), s.write.Close())
	}
	if err := s.setUp(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", opts.Path, err), s.Close())
	}
	return s, nil
}

// locate makes the directory of a database and returns the file's path without
// symbolic links, so that whoever opens it, by whatever name, finds the same
// lock files beside it.
func locate(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dir, name := filepath.Split(path)
	if err := makeDir(filepath.Clean(dir)); err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	// Reading the file here would, on closing it, drop the locks that this
	// process holds on it through another Store; so only its kind is looked at.
	switch info, err := os.Stat(path); {
	case err != nil:
		return "", err
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory, expected an SQLite database file or none yet", path)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file (%v), expected an SQLite database file or none yet", path, info.Mode().Type())
	}
	return path, nil
}

// makeDir makes a directory and the missing ones above it, and syncs the
// entries it made: without that a power cut could take away a whole database
// whose own writes were synced.
func makeDir(dir string) error {
	switch info, err := os.Stat(dir); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s is not a directory, expected the database's directory", dir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// connect makes a pool of at most size connections; it opens none yet.
func connect(path string, busy time.Duration, size int, option, value string) (*sql.DB, error) {
	query := url.Values{
		"_busy_timeout": {strconv.FormatInt(max(busy.Milliseconds(), 1), 10)},
		"_foreign_keys": {"on"},
		"_synchronous":  {"FULL"},
		option:          {value},
	}
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: query.Encode()}
	connector, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
}

// setUp checks what the file is and brings it up to date. One process at a
// time: SQLite fails instead of waiting where two switch a file to WAL at once.
func (s *Store) setUp(ctx context.Context) (err error) {
	path := s.path + ".setup.lock"
	lock, err := lockFile(ctx, path)
	if errors.Is(err, errLocked) {
		return fmt.Errorf("%w: another process is setting it up and holds %s: %w", coord.ErrMetadataUnavailable, path, ctx.Err())
	}
	if err != nil {
		return failed(ctx, "lock "+path, err)
	}
	defer func() {
		if unlockErr := lock.Unlock(); unlockErr != nil {
			err = errors.Join(err, fmt.Errorf("unlock %s: %w", path, unlockErr))
		}
	}()
	migrations, err := embeddedMigrations()
	if err != nil {
		return err
	}
	if err := checkFile(ctx, s.write, len(migrations)); err != nil {
		return err
	}
	var mode string
	if err := s.write.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return failed(ctx, "switch to a write-ahead log", err)
	}
	if mode != "wal" {
		return fmt.Errorf("switch to a write-ahead log: SQLite keeps journal mode %q, expected wal; is the file on a local disk?", mode)
	}
	if err := migrate(ctx, s.write, migrations); err != nil {
		return err
	}
	return s.Ping(ctx)
}

// Ping reads from the file.
func (s *Store) Ping(ctx context.Context) error {
	var epoch int64
	if err := s.read.QueryRowContext(ctx, "SELECT epoch FROM topology").Scan(&epoch); err != nil {
		return failed(ctx, "ping", err)
	}
	return nil
}

// Close refuses new calls; those under way go on. Identities stay held until
// they are released or the process ends.
func (s *Store) Close() error {
	if err := errors.Join(s.read.Close(), s.write.Close()); err != nil {
		return fmt.Errorf("close metadata %s: %w", s.path, err)
	}
	return nil
}

// update runs f in a transaction that holds the file's write lock from its
// start, so that nothing f reads is outdated when it writes.
func (s *Store) update(ctx context.Context, doing string, f func(*sql.Tx) error) error {
	return transact(ctx, s.write, nil, doing, f)
}

func transact(ctx context.Context, db *sql.DB, opts *sql.TxOptions, doing string, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return failed(ctx, doing, err)
	}
	if err := f(tx); err != nil {
		// The failure that matters is f's; the connection is dropped where the
		// rollback fails too.
		_ = tx.Rollback()
		return failed(ctx, doing, err)
	}
	if err := tx.Commit(); err != nil {
		return failed(ctx, doing, err)
	}
	return nil
}
