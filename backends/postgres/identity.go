package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

const (
	// identityPoll is how often an id that another holds is tried again.
	identityPoll = 50 * time.Millisecond
	// lingering is how long this process's own former connection may keep its
	// locks after the server was told to end it.
	lingering = 2 * time.Second
)

// holding is a node id that the session holds, or will as soon as it has a
// connection again. All but losing is for the session's goroutine alone.
type holding struct {
	nodeID      string
	key         int64
	incarnation uint64
	locked      bool // by the session's present connection
	lost        chan struct{}
	losing      sync.Once
}

func (h *holding) lose() { h.losing.Do(func() { close(h.lost) }) }

// AcquireIdentity implements coord.Metadata: an advisory lock of the session's
// connection holds the id, so that the server frees it when the process dies.
//
// While the server cannot be reached nobody else can take the id, so the
// identity stands. When it is back, the lock is taken again at once; Lost is
// closed where another process was faster, or had the id in between, and when
// the store is closed. Whatever happened, the incarnation makes the versions of
// two holders differ.
func (s *Store) AcquireIdentity(ctx context.Context, nodeID string) (coord.Identity, error) {
	doing := fmt.Sprintf("acquire node id %q", nodeID)
	again := time.NewTicker(identityPoll)
	defer again.Stop()
	for holder := ""; ; {
		h, by, err := s.session.acquire(ctx, nodeID)
		switch {
		case err != nil && ctx.Err() != nil && holder != "":
			return coord.Identity{}, taken(ctx, nodeID, holder)
		case err != nil:
			return coord.Identity{}, failed(ctx, doing, err)
		case h != nil:
			return coord.Identity{
				Writer:  coord.Writer{ID: h.nodeID, Incarnation: h.incarnation},
				Lost:    h.lost,
				Release: sync.OnceValue(func() error { return s.session.release(h) }),
			}, nil
		}
		holder = by
		select {
		case <-ctx.Done():
			return coord.Identity{}, taken(ctx, nodeID, holder)
		case <-again.C:
		}
	}
}

// errUnwanted: whoever asked has gone.
var errUnwanted = errors.New("given up")

func taken(ctx context.Context, nodeID, holder string) error {
	return fmt.Errorf("%w: %q is held by %s: %w", coord.ErrNodeIDTaken, nodeID, holder, ctx.Err())
}

// acquire tries once; where another holds the id it says who.
func (s *session) acquire(ctx context.Context, nodeID string) (*holding, string, error) {
	// The goroutine's, until do has returned without an error.
	var h *holding
	var holder string
	err := s.do(ctx, &request{
		run: func(ctx context.Context, conn *pgx.Conn, wanted func() bool) (err error) {
			if nodeID == coord.AutoNodeID {
				h, err = s.takeFree(ctx, conn, wanted)
				return err
			}
			if h, err = s.take(ctx, conn, nodeID, wanted); h == nil && err == nil {
				holder, err = describeHolder(ctx, conn, nodeID)
			}
			return err
		},
	})
	if err != nil {
		return nil, "", err
	}
	return h, holder, nil
}

// takeFree takes the lowest id that is free. Those who look at the same time
// each get the lock of another one.
func (s *session) takeFree(ctx context.Context, conn *pgx.Conn, wanted func() bool) (*holding, error) {
	for n := 1; ; n++ {
		h, err := s.take(ctx, conn, fmt.Sprintf("coordinator-%d", n), wanted)
		if h != nil || err != nil {
			return h, err
		}
	}
}

// take locks an id and makes this process its next incarnation; it returns nil
// where the id is held.
func (s *session) take(ctx context.Context, conn *pgx.Conn, nodeID string, wanted func() bool) (*holding, error) {
	if s.held[nodeID] != nil {
		return nil, nil // a connection that has a lock would get it again
	}
	h := &holding{nodeID: nodeID, key: lockKey("node id", s.store, nodeID), lost: make(chan struct{})}
	if err := s.lock(ctx, conn, h); err != nil || !h.locked {
		return nil, err
	}
	if !wanted() {
		s.giveBack(ctx, conn, h)
		return nil, errUnwanted
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	err = conn.QueryRow(ctx, `INSERT INTO identities AS known (node_id, incarnation, process, host, since) VALUES ($1, 1, $2, $3, clock_timestamp())
		ON CONFLICT (node_id) DO UPDATE SET incarnation = known.incarnation + 1,
		process = excluded.process, host = excluded.host, since = excluded.since RETURNING incarnation`,
		nodeID, os.Getpid(), host).Scan(&h.incarnation)
	if err != nil {
		s.giveBack(ctx, conn, h)
		return nil, fmt.Errorf("count the incarnation: %w", err)
	}
	s.held[nodeID] = h
	return h, nil
}

func (s *session) lock(ctx context.Context, conn *pgx.Conn, h *holding) error {
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", h.key).Scan(&h.locked); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

// giveBack frees an id. Where that fails it ends the connection, which frees
// the others too until they are taken back.
func (s *session) giveBack(ctx context.Context, conn *pgx.Conn, h *holding) {
	if s.held[h.nodeID] == h {
		delete(s.held, h.nodeID)
	}
	if !h.locked {
		return
	}
	h.locked = false
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", h.key); err != nil {
		hangUp(conn)
	}
}

// release gives an id back for its holder. Without a connection there is
// nothing to give back but the wish to have it again.
func (s *session) release(h *holding) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.settings.connect+sessionPatience)
	defer cancel()
	down := false
	err := s.do(ctx, &request{
		run: func(ctx context.Context, conn *pgx.Conn, _ func() bool) error {
			s.giveBack(ctx, conn, h)
			return nil
		},
		down: func() {
			down = true
			if s.held[h.nodeID] == h {
				delete(s.held, h.nodeID)
			}
		},
	})
	if err != nil && !down && !errors.Is(err, errSessionClosed) {
		return fmt.Errorf("release node id %q: %w", h.nodeID, err)
	}
	return nil
}

func describeHolder(ctx context.Context, conn *pgx.Conn, nodeID string) (string, error) {
	var process int
	var host string
	var since time.Time
	err := conn.QueryRow(ctx, "SELECT process, host, since FROM identities WHERE node_id = $1", nodeID).Scan(&process, &host, &since)
	if noRows(err) {
		return "another process, which has not said its name yet", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask for the holder: %w", err)
	}
	return fmt.Sprintf("process %d on %s since %s", process, host, since.UTC().Format(time.RFC3339)), nil
}

// takeBack locks again, on a new connection, what was held on the former one.
// An id that another process has, or had meanwhile, is lost.
func (s *session) takeBack(ctx context.Context, conn *pgx.Conn, former server) error {
	// Where only the way to the server broke, it may not have noticed that the
	// former connection is dead, which keeps its locks.
	var lingers bool
	err := conn.QueryRow(ctx, `SELECT coalesce(bool_or(pg_terminate_backend(pid)), false)
		FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2`, int64(former.process), former.started).Scan(&lingers)
	if err != nil {
		return fmt.Errorf("end the former connection: %w", err)
	}
	until := time.Now()
	if lingers {
		until = until.Add(lingering)
	}
	for id, h := range s.held {
		for {
			if err := s.lock(ctx, conn, h); err != nil {
				return err
			}
			if h.locked || !time.Now().Before(until) {
				break
			}
			select {
			case <-time.After(identityPoll / 5):
			case <-ctx.Done():
				return fmt.Errorf("wait for the former connection to end: %w", ctx.Err())
			}
		}
		var incarnation uint64
		if h.locked {
			err := conn.QueryRow(ctx, "SELECT incarnation FROM identities WHERE node_id = $1", id).Scan(&incarnation)
			if err != nil && !noRows(err) {
				return fmt.Errorf("look who had node id %q meanwhile: %w", id, err)
			}
		}
		if incarnation != h.incarnation {
			s.giveBack(ctx, conn, h)
			h.lose()
		}
	}
	return nil
}
