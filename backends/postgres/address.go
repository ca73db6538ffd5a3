package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errAddress quotes nothing of the URL: where it cannot be parsed, any part of
// it may be the password.
var errAddress = errors.New("the url is not one of Postgres: want postgres://USER:PASSWORD@HOST:PORT/DATABASE," +
	" with the characters / ? # @ % and space in a password percent-encoded")

// parseAddress reads a connection URL, without its password in any error.
func parseAddress(address string) (*pgxpool.Config, error) {
	if _, rest, isURL := strings.Cut(address, "://"); isURL {
		authority, end := rest, strings.IndexAny(rest, "/?#")
		if end >= 0 {
			authority = rest[:end]
		}
		if strings.Count(authority, "@") > 1 || strings.Contains(rest[len(authority):], "@") {
			// A character that is not encoded would make a part of the password
			// another part of the URL, and no secret.
			return nil, errAddress
		}
	}
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, errAddress
	}
	return config, nil
}

// settings are how connections behave, other than where they lead.
type settings struct {
	name      string // application_name
	connect   time.Duration
	statement time.Duration
	lock      time.Duration
	idle      time.Duration // in a transaction
	lasting   bool          // the connection is a session: it may be silent, and its end should be noticed soon
}

// apply makes config a connection straight to the server, or through a pooler,
// which gives each transaction any connection, and takes no other settings than
// the few that it knows.
func (s settings) apply(config *pgx.ConnConfig, pooled bool) {
	config.ConnectTimeout = s.connect
	if config.ValidateConnect == nil {
		// After a failover the address may lead to a server that cannot write.
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	set := func(name, value string) {
		if _, given := config.RuntimeParams[name]; !given {
			config.RuntimeParams[name] = value
		}
	}
	set("application_name", s.name)
	if pooled {
		config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		return
	}
	set("statement_timeout", milliseconds(s.statement))
	set("lock_timeout", milliseconds(s.lock))
	set("idle_in_transaction_session_timeout", milliseconds(s.idle))
	config.RuntimeParams["default_transaction_isolation"] = "read committed"
	if !s.lasting {
		return
	}
	for name, value := range map[string]string{
		"idle_session_timeout": "0",
		// So that the server frees the locks of a machine that is gone within
		// half a minute.
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "20000",
	} {
		config.RuntimeParams[name] = value
	}
}

// transaction begins one. A pooler's connections have none of the settings.
func (s settings) transaction(pooled bool) pgx.TxOptions {
	if !pooled {
		return pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	}
	return pgx.TxOptions{BeginQuery: fmt.Sprintf(
		"begin isolation level read committed; set local statement_timeout = %s; set local lock_timeout = %s",
		milliseconds(s.statement), milliseconds(s.lock))}
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// server is what was found at the end of a connection.
type server struct {
	process   uint32 // that serves the connection
	started   time.Time
	direct    bool   // nothing stands between
	namespace uint32 // the schema's number
}

// minVersion is the oldest Postgres that is known to do.
const minVersion = 140000

// inspect asks a connection what it leads to, and refuses what cannot be worked with.
func inspect(ctx context.Context, conn *pgx.Conn) (server, error) {
	var s server
	var version int
	var encoding, durable, isolation, schema string
	var started *time.Time
	err := conn.QueryRow(ctx, `SELECT pg_backend_pid()::bigint,
		(SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),
		current_setting('server_version_num')::integer, current_setting('server_encoding'),
		current_setting('synchronous_commit'), current_setting('default_transaction_isolation'),
		coalesce(current_schema(), ''),
		coalesce((SELECT oid FROM pg_namespace WHERE nspname = current_schema()), 0)::bigint`,
		pgx.QueryExecModeExec).
		Scan(&s.process, &started, &version, &encoding, &durable, &isolation, &schema, &s.namespace)
	if err != nil {
		return server{}, fmt.Errorf("ask the server what it is: %w", err)
	}
	if started != nil {
		s.started = *started
	}
	// A pooler tells its clients numbers of its own.
	s.direct = conn.PgConn().PID() == s.process
	switch {
	case version < minVersion:
		return server{}, fmt.Errorf("%w: the server is Postgres %d, want %d or later", errUnsuitable, version/10000, minVersion/10000)
	case encoding != "UTF8":
		return server{}, fmt.Errorf("%w: the database's encoding is %s, want UTF8", errUnsuitable, encoding)
	case durable == "off":
		return server{}, fmt.Errorf("%w: synchronous_commit is off, so that a crash of the server would undo what it has acknowledged;"+
			" set it on for this user: ALTER ROLE ... SET synchronous_commit = on", errUnsuitable)
	case isolation != "read committed":
		return server{}, fmt.Errorf("%w: default_transaction_isolation is %s, want read committed for this user", errUnsuitable, isolation)
	case schema == "" || s.namespace == 0:
		return server{}, fmt.Errorf("%w: no schema of search_path exists, so there is none to make tables in", errUnsuitable)
	}
	return s, nil
}

// errUnsuitable: the server answers, and cannot be used as it is set up.
var errUnsuitable = errors.New("unsuitable Postgres")

// isPoolerRefusal tells that what answers is a pooler that does not know a
// setting.
func isPoolerRefusal(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == codeProtocolViolation && strings.Contains(e.Message, "startup parameter")
}

// dial connects to the server itself, or to what stands before it, and inspects it.
func (s settings) dial(ctx context.Context, config *pgx.ConnConfig) (conn *pgx.Conn, found server, err error) {
	config = config.Copy()
	if err := renewTLS(ctx, config); err != nil {
		return nil, server{}, err
	}
	straight := config.Copy()
	s.apply(straight, false)
	if conn, err = pgx.ConnectConfig(ctx, straight); isPoolerRefusal(err) {
		pooled := config.Copy()
		s.apply(pooled, true)
		conn, err = pgx.ConnectConfig(ctx, pooled)
	}
	if err != nil {
		return nil, server{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.connect)
	defer cancel()
	if found, err = inspect(ctx, conn); err != nil {
		hangUp(conn)
		return nil, server{}, err
	}
	return conn, found, nil
}

// hangUp ends a connection, politely where that is quick.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is gone either way
}
