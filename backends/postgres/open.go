// Package postgres keeps what coordinators share in a Postgres database:
// metadata and hints (Store), and keyed requests (Claims).
//
// A Store has a pool of connections for its queries and one more, its session,
// straight to the server: the session's advisory locks hold node ids, and it
// listens for changes. A pooler such as PgBouncer in transaction mode gives
// neither a lock nor a LISTEN to a client for longer than a transaction, and
// which mode a pooler has cannot be told from outside. So the session refuses
// any pooler, and says so when it is opened; with Options.SessionURL leading to
// the server itself, Options.URL may lead through a pooler in any mode but
// PgBouncer's statement mode.
//
// Each coordinator needs Options.MaxConnections and one more of the server's
// max_connections.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

// Defaults of Options.
const (
	DefaultMaxConnections   = 10
	DefaultConnMaxLifetime  = 30 * time.Minute
	DefaultConnectTimeout   = 5 * time.Second
	DefaultStatementTimeout = 10 * time.Second
	DefaultLockTimeout      = 5 * time.Second
	DefaultMaxHints         = 1_000_000
	DefaultMaxHintBytes     = 1 << 30
	DefaultApplicationName  = "pairdb-coordinator"
)

// Options say where the database is and how it is used. Zero values take the
// defaults above.
type Options struct {
	// URL is where queries go: postgres://USER:PASSWORD@HOST:PORT/DATABASE, or
	// several as HOST:PORT,HOST:PORT, of which the one that takes writes is
	// used. It is a secret, and in no error. Tables are made in the first
	// schema of its search_path.
	URL string
	// SessionURL leads to the same database without a pooler in between; URL
	// where it is empty.
	SessionURL string

	MaxConnections  int           // of the pool
	MinConnections  int           // of the pool, idle ones included
	ConnMaxLifetime time.Duration // after which a connection of the pool is replaced

	ConnectTimeout time.Duration
	// StatementTimeout and LockTimeout are the server's for each statement, and
	// for its wait for a lock. A call is given up after ConnectTimeout and
	// StatementTimeout together, if its context has not ended before.
	StatementTimeout time.Duration
	LockTimeout      time.Duration
	ApplicationName  string

	// MaxHints and MaxHintBytes bound the hints of all nodes together, in number
	// and by coord.Hint.Size. Coordinators that share the database should agree
	// on them.
	MaxHints     int64
	MaxHintBytes int64
}

func orDefault[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}

// complete fills in defaults and reports every fault.
func (o *Options) complete() error {
	orDefault(&o.MaxConnections, DefaultMaxConnections)
	orDefault(&o.ConnMaxLifetime, DefaultConnMaxLifetime)
	orDefault(&o.ConnectTimeout, DefaultConnectTimeout)
	orDefault(&o.StatementTimeout, DefaultStatementTimeout)
	orDefault(&o.LockTimeout, DefaultLockTimeout)
	orDefault(&o.MaxHints, DefaultMaxHints)
	orDefault(&o.MaxHintBytes, DefaultMaxHintBytes)
	orDefault(&o.ApplicationName, DefaultApplicationName)
	var faults []error
	if o.URL == "" {
		faults = append(faults, errors.New("no url"))
	}
	if o.MaxConnections < 1 || o.MaxConnections > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("at most %d connections, want 1 or more", o.MaxConnections))
	}
	if o.MinConnections < 0 || o.MinConnections > o.MaxConnections {
		faults = append(faults, fmt.Errorf("at least %d connections, want 0 to %d, the most", o.MinConnections, o.MaxConnections))
	}
	for name, d := range map[string]time.Duration{
		"lifetime of connections": o.ConnMaxLifetime, "connect timeout": o.ConnectTimeout,
		"statement timeout": o.StatementTimeout, "lock timeout": o.LockTimeout,
	} {
		if d < 0 {
			faults = append(faults, fmt.Errorf("%s %v is negative", name, d))
		}
	}
	if o.MaxHints < 0 || o.MaxHintBytes < 0 {
		faults = append(faults, fmt.Errorf("bounds of %d hints and %d bytes of them, neither may be negative", o.MaxHints, o.MaxHintBytes))
	}
	return errors.Join(faults...)
}

func (o *Options) settings() settings {
	return settings{
		name: o.ApplicationName, connect: o.ConnectTimeout, statement: o.StatementTimeout,
		lock: o.LockTimeout, idle: o.ConnectTimeout + o.StatementTimeout,
	}
}

// Store is metadata and hints in Postgres. It is safe for concurrent use. It
// finds a server that went away again by itself.
type Store struct {
	opts    Options
	db      *database
	session *session
	// ledgerKey is the advisory lock of whoever changes hints.
	ledgerKey int64
}

var (
	_ coord.Metadata = (*Store)(nil)
	_ coord.Hints    = (*Store)(nil)
	_ coord.Watcher  = (*Store)(nil)
)

// Open connects to the database and makes its tables, or brings them up to
// date; others that open it meanwhile wait, each until its ctx ends. The error
// wraps coord.ErrMetadataUnavailable where trying again may help; it does not
// where the address or the password is wrong, the server cannot be used as it
// is set up, or the tables are a newer release's.
func Open(ctx context.Context, opts Options) (*Store, error) {
	const doing = "open metadata in Postgres"
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	config, err := parseAddress(opts.URL)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	sessionConfig := config
	if opts.SessionURL != "" {
		if sessionConfig, err = parseAddress(opts.SessionURL); err != nil {
			return nil, fmt.Errorf("%s: session url: %w", doing, err)
		}
	}
	session, conn, err := prepareSession(ctx, sessionConfig.ConnConfig, opts.settings())
	if err != nil {
		return nil, opening(ctx, doing, err)
	}
	pooled := false
	if opts.SessionURL != "" {
		if pooled, err = probe(ctx, config.ConnConfig, opts.settings(), session.store); err != nil {
			hangUp(conn)
			return nil, opening(ctx, doing, err)
		}
	}
	db, err := openPool(config, &opts, pooled)
	if err != nil {
		hangUp(conn)
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	opts.URL, opts.SessionURL = "", "" // secrets, and not needed again
	session.broken = db.pool.Reset
	session.start(conn)
	return &Store{opts: opts, db: db, session: session, ledgerKey: lockKey("hints", session.store, "")}, nil
}

// opening tells what may get better by waiting from what will not.
func opening(ctx context.Context, doing string, err error) error {
	if isMisdirected(err) || errors.Is(err, errUnsuitable) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return failed(ctx, doing, err)
}

// probe looks where the pool's connections would lead: whether through a
// pooler, and whether to the store of that name.
func probe(ctx context.Context, config *pgx.ConnConfig, s settings, store string) (pooled bool, err error) {
	conn, found, err := s.dial(ctx, config)
	if err != nil {
		return false, err
	}
	defer hangUp(conn)
	var name string
	err = conn.QueryRow(ctx, "SELECT store FROM pairdb_schema", pgx.QueryExecModeExec).Scan(&name)
	if err != nil && !isRefusal(err) {
		return false, err
	}
	if name != store {
		return false, fmt.Errorf("%w: url and session_url lead to different databases or schemas", errors.Join(errUnsuitable, err))
	}
	return !found.direct, nil
}

// Ping implements coord.Metadata.
func (s *Store) Ping(ctx context.Context) error {
	var epoch int64
	return failed(ctx, "ping", s.db.row(ctx, into(&epoch), "SELECT epoch FROM topology"))
}

// PoolStats tells how the connections for queries are used. The session's is
// one more.
func (s *Store) PoolStats() PoolStats { return s.db.stats() }

// Close refuses new calls, waits for those under way, and gives back every
// identity that is still held. Claims that share the pool must be closed before.
func (s *Store) Close() error {
	s.session.close()
	s.db.pool.Close()
	return nil
}
