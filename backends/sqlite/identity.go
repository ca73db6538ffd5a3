package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/pairdb/coordinator/coord"
)

// lockPoll is how often a held lock is tried again.
const lockPoll = 25 * time.Millisecond

// errLocked: the lock was held until the context ended.
var errLocked = errors.New("locked by another process")

// lockFile takes the operating system's lock on a file, which it creates. The
// lock ends with Unlock or the process; the file stays, because whoever
// removed it could remove it under the feet of the next holder. The error is
// errLocked where it was tried and held by another until ctx ended.
func lockFile(ctx context.Context, path string) (*flock.Flock, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lock := flock.New(path)
	var again *time.Ticker
	for {
		locked, err := lock.TryLock()
		if err != nil {
			return nil, err
		}
		if locked {
			return lock, nil
		}
		if again == nil {
			again = time.NewTicker(lockPoll)
			defer again.Stop()
		}
		select {
		case <-ctx.Done():
			return nil, errLocked
		case <-again.C:
		}
	}
}

// holder is what a lock file says of the process that holds it.
type holder struct {
	NodeID string    `json:"node_id"`
	PID    int       `json:"pid"`
	Host   string    `json:"host"`
	Since  time.Time `json:"since"`
}

// AcquireIdentity implements coord.Metadata: a lock on a file beside the
// database holds the id, the database counts the incarnations.
func (s *Store) AcquireIdentity(ctx context.Context, nodeID string) (coord.Identity, error) {
	doing := fmt.Sprintf("acquire node id %q", nodeID)
	if nodeID == coord.AutoNodeID {
		free, lock, err := s.lockFreeID(ctx)
		if err != nil {
			return coord.Identity{}, failed(ctx, doing, err)
		}
		return s.enter(ctx, doing, free, lock)
	}
	path := s.identityPath(nodeID)
	lock, err := lockFile(ctx, path)
	if errors.Is(err, errLocked) {
		return coord.Identity{}, fmt.Errorf("%w: %q is held by %s: %w", coord.ErrNodeIDTaken, nodeID, describeHolder(path), ctx.Err())
	}
	if err != nil {
		return coord.Identity{}, failed(ctx, doing, fmt.Errorf("lock %s: %w", path, err))
	}
	return s.enter(ctx, doing, nodeID, lock)
}

// lockFreeID locks the lowest id that nobody holds. Those who look at the same
// time each get the lock of another one.
func (s *Store) lockFreeID(ctx context.Context) (nodeID string, lock *flock.Flock, err error) {
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return "", nil, err
		}
		nodeID = fmt.Sprintf("coordinator-%d", n)
		path := s.identityPath(nodeID)
		lock = flock.New(path)
		locked, err := lock.TryLock()
		if err != nil {
			return "", nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if locked {
			return nodeID, lock, nil
		}
	}
}

// enter makes the holder of an id's lock its next incarnation.
func (s *Store) enter(ctx context.Context, doing, nodeID string, lock *flock.Flock) (coord.Identity, error) {
	incarnation, err := s.countIncarnation(ctx, nodeID)
	if err != nil {
		return coord.Identity{}, errors.Join(failed(ctx, doing, err), lock.Unlock())
	}
	return coord.Identity{
		Writer: coord.Writer{ID: nodeID, Incarnation: incarnation},
		Release: sync.OnceValue(func() error {
			if err := lock.Unlock(); err != nil {
				return fmt.Errorf("release node id %q: %w", nodeID, err)
			}
			return nil
		}),
	}, nil
}

// identityPath is hashed because an id may hold any character and be longer
// than a file name.
func (s *Store) identityPath(nodeID string) string {
	sum := sha256.Sum256([]byte(nodeID))
	return fmt.Sprintf("%s.node-%x.lock", s.path, sum[:16])
}

// countIncarnation writes the holder's name into the lock file and counts the
// incarnation up.
func (s *Store) countIncarnation(ctx context.Context, nodeID string) (incarnation uint64, err error) {
	path := s.identityPath(nodeID)
	if err := s.nameHolder(path, nodeID); err != nil {
		return 0, fmt.Errorf("write the holder into %s: %w", path, err)
	}
	err = s.update(ctx, fmt.Sprintf("count the incarnation of node id %q", nodeID), func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO identities (node_id, incarnation) VALUES (?, 1)
			ON CONFLICT (node_id) DO UPDATE SET incarnation = incarnation + 1 RETURNING incarnation`,
			nodeID).Scan(&incarnation)
	})
	return incarnation, err
}

func (s *Store) nameHolder(path, nodeID string) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	name, err := json.Marshal(holder{nodeID, os.Getpid(), host, s.wall().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// Written before it is cut to size, so that a reader never finds it empty
	// once it had a name.
	_, err = f.WriteAt(name, 0)
	if err == nil {
		err = f.Truncate(int64(len(name)))
	}
	return errors.Join(err, f.Close())
}

func describeHolder(path string) string {
	var h holder
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err != nil {
		return fmt.Sprintf("another process, whose name %s does not tell (%v)", path, err)
	}
	return fmt.Sprintf("process %d on %s since %s", h.PID, h.Host, h.Since.Format(time.RFC3339))
}
