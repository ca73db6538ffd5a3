package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pairdb/coordinator/coord"
)

const (
	// keepalive is how often a silent connection is tried.
	keepalive = 5 * time.Second
	// sessionPatience bounds what the session's own statements take.
	sessionPatience = 5 * time.Second
	// reconnectAfter and reconnectAtMost are the pauses between attempts.
	reconnectAfter  = 25 * time.Millisecond
	reconnectAtMost = time.Second
	maxRequests     = 256
)

// session is one connection straight to the server, that holds locks for as
// long as it lasts and hears of changes. One goroutine has the connection: it
// listens, runs requests between, and connects again when it was lost.
type session struct {
	config   *pgx.ConnConfig
	settings settings
	store    string // the name of what it is connected to
	found    server // at the end of the current connection
	broken   func() // called when the connection is lost

	requests chan *request
	held     map[string]*holding // by node id; the goroutine's own

	ctx  context.Context
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	wake     context.CancelFunc // ends the wait for a notification
	watchers map[*watcher]struct{}
}

var errSessionClosed = errors.New("the store is closed")

// request is something to be done on the session's connection.
type request struct {
	// run is called on the session's goroutine with the connection, or down is
	// while there is none; it may be nil. The caller may go away while it runs:
	// before it does what must not be in vain it calls wanted, which tells
	// whether the caller is still there, and will be until it returns.
	run  func(ctx context.Context, conn *pgx.Conn, wanted func() bool) error
	down func()

	state atomic.Int32
	done  chan error
}

// States of a request.
const (
	requestWaits = iota
	requestRuns
	requestEnded
	requestAbandoned
)

// prepareSession connects, and brings the schema up to date. The connection is
// for start.
func prepareSession(ctx context.Context, config *pgx.ConnConfig, s settings) (*session, *pgx.Conn, error) {
	s.lasting = true
	conn, found, err := s.dial(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	migrations, err := embeddedMigrations()
	if err == nil {
		err = found.wantDirect()
	}
	if err == nil {
		err = migrate(ctx, conn, found.namespace, migrations)
	}
	var store string
	if err == nil {
		err = conn.QueryRow(ctx, "SELECT store FROM pairdb_schema").Scan(&store)
	}
	if err == nil {
		_, err = conn.Exec(ctx, "LISTEN "+channel(found.namespace))
	}
	if err != nil {
		hangUp(conn)
		return nil, nil, err
	}
	return &session{
		config: config, settings: s, store: store, found: found,
		requests: make(chan *request, maxRequests),
		held:     make(map[string]*holding),
		done:     make(chan struct{}),
		watchers: make(map[*watcher]struct{}),
	}, conn, nil
}

// wantDirect refuses a pooler.
func (s *server) wantDirect() error {
	if s.direct {
		return nil
	}
	return fmt.Errorf("%w: the url leads to a connection pooler, such as PgBouncer, and not to the server itself."+
		" A node id is held by a lock of a server connection, and changes are heard of by LISTEN:"+
		" with a pooler both are lost without notice when a transaction ends."+
		" Give the server's own address as session_url, and leave the pooler's as url", errUnsuitable)
}

// channel is where the triggers of a schema's tables announce changes.
func channel(namespace uint32) string { return "pairdb_" + strconv.FormatUint(uint64(namespace), 10) }

// lockKey is the number of an advisory lock; all schemas of a database share
// the numbers, so scope names the schema or the store in it.
func lockKey(kind, scope, name string) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "pairdb %s %s %s", kind, scope, name))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

func (s *session) start(conn *pgx.Conn) {
	s.ctx, s.stop = context.WithCancel(context.Background())
	go s.run(conn)
}

// close ends the session and what it holds.
func (s *session) close() {
	s.stop()
	<-s.done
}

func (s *session) run(conn *pgx.Conn) {
	defer close(s.done)
	for conn != nil {
		s.serve(conn)
		hangUp(conn)
		for _, h := range s.held {
			h.locked = false
		}
		if s.ctx.Err() == nil {
			s.broken()
			conn = s.reconnect()
		} else {
			conn = nil
		}
	}
	for id, h := range s.held {
		h.lose()
		delete(s.held, id)
	}
	s.refuse(errSessionClosed)
}

// serve listens and runs requests until the connection breaks or the session ends.
func (s *session) serve(conn *pgx.Conn) {
	for s.ctx.Err() == nil && !conn.IsClosed() {
		ctx, wake := context.WithTimeout(s.ctx, keepalive)
		s.mu.Lock()
		s.wake = wake // whoever asks from now on ends the wait
		s.mu.Unlock()
		s.answer(conn)
		notification, err := conn.WaitForNotification(ctx)
		waited := ctx.Err()
		wake()
		switch {
		case notification != nil:
			s.announce(notification)
		case err != nil && waited == nil:
			return
		case errors.Is(waited, context.DeadlineExceeded):
			ctx, cancel := context.WithTimeout(s.ctx, sessionPatience)
			err := conn.Ping(ctx)
			cancel()
			if err != nil {
				return
			}
		}
	}
}

// answer runs the requests that wait, as long as the connection lasts.
func (s *session) answer(conn *pgx.Conn) {
	for !conn.IsClosed() {
		select {
		case r := <-s.requests:
			if !r.state.CompareAndSwap(requestWaits, requestRuns) {
				continue
			}
			ctx, cancel := context.WithTimeout(s.ctx, sessionPatience)
			err := r.run(ctx, conn, r.wanted)
			cancel()
			r.state.CompareAndSwap(requestRuns, requestEnded)
			r.done <- err
		default:
			return
		}
	}
}

// wanted makes the caller wait for the end, where it has not gone already.
func (r *request) wanted() bool {
	return r.state.CompareAndSwap(requestRuns, requestEnded) || r.state.Load() == requestEnded
}

// refuse answers the requests that wait with an error.
func (s *session) refuse(err error) {
	for {
		select {
		case r := <-s.requests:
			s.refuseOne(r, err)
		default:
			return
		}
	}
}

func (s *session) refuseOne(r *request, err error) {
	if r.state.CompareAndSwap(requestWaits, requestEnded) {
		if r.down != nil {
			r.down()
		}
		r.done <- err
	}
}

// do has a request run and waits for it, or until the context ends. It waits
// longer, but no longer than sessionPatience, for what must not be in vain.
func (s *session) do(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.done = make(chan error, 1)
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return errSessionClosed
	}
	s.mu.Lock()
	if s.wake != nil {
		s.wake()
	}
	s.mu.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		if r.state.CompareAndSwap(requestWaits, requestAbandoned) || r.state.CompareAndSwap(requestRuns, requestAbandoned) {
			return ctx.Err()
		}
		return <-r.done
	case <-s.done:
		s.refuse(errSessionClosed) // it may have come too late for the goroutine
		return <-r.done
	}
}

// reconnect tries until there is a connection, or returns nil when the session
// ends. It takes back what the session held, and tells watchers that they may
// have missed something.
func (s *session) reconnect() *pgx.Conn {
	former := s.found
	for pause := reconnectAfter; ; pause = min(2*pause, reconnectAtMost) {
		conn, err := s.resume(former)
		if err == nil {
			s.lost()
			return conn
		}
		if s.ctx.Err() != nil {
			return nil
		}
		again := time.NewTimer(pause/2 + rand.N(pause))
		for waiting := true; waiting; {
			select {
			case r := <-s.requests:
				s.refuseOne(r, err)
			case <-again.C:
				waiting = false
			case <-s.ctx.Done():
				again.Stop()
				return nil
			}
		}
	}
}

// resume connects again and takes back the ids that were held. Former is what
// served the connection before.
func (s *session) resume(former server) (*pgx.Conn, error) {
	conn, found, err := s.settings.dial(s.ctx, s.config)
	if err != nil {
		return nil, err
	}
	s.found = found
	ctx, cancel := context.WithTimeout(s.ctx, sessionPatience)
	defer cancel()
	err = found.wantDirect()
	if err == nil {
		err = s.sameStore(ctx, conn)
	}
	if err == nil {
		_, err = conn.Exec(ctx, "LISTEN "+channel(found.namespace))
	}
	if err == nil && len(s.held) > 0 {
		err = s.takeBack(ctx, conn, former)
	}
	if err != nil {
		hangUp(conn)
		return nil, err
	}
	return conn, nil
}

// sameStore refuses another store than the one that was opened.
func (s *session) sameStore(ctx context.Context, conn *pgx.Conn) error {
	var store string
	if err := conn.QueryRow(ctx, "SELECT store FROM pairdb_schema").Scan(&store); err != nil {
		return err
	}
	if store != s.store {
		return errors.New("the address leads to another database or schema than before")
	}
	return nil
}

// announce tells watchers of a notification.
func (s *session) announce(n *pgconn.Notification) {
	var change coord.Change
	if tenant, ok := strings.CutPrefix(n.Payload, "tenant:"); ok && tenant != "" {
		change.Tenant = tenant
	} else if n.Payload == "topology" {
		change.Topology = true
	} else {
		change.Lost = true // a newer release may have more to tell
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.tell(change)
	}
}

// lost tells watchers that changes may have gone unnoticed.
func (s *session) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.tell(coord.Change{Lost: true})
	}
}
