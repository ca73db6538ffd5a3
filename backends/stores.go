// Package backends opens the stores that a coordinator works with: which ones
// is configuration, what they are to the engine is coord's interfaces.
package backends

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pairdb/coordinator/backends/badger"
	"github.com/pairdb/coordinator/backends/postgres"
	"github.com/pairdb/coordinator/backends/redis"
	"github.com/pairdb/coordinator/backends/sqlite"
	"github.com/pairdb/coordinator/coord"
)

// Options choose the stores: one of metadata, one of idempotency.
type Options struct {
	SQLite   *sqlite.Options
	Postgres *postgres.Options

	Badger *badger.ClaimsOptions
	Redis  *redis.Options
	// PostgresClaims keeps claims in ClaimsDatabase, or, where that is nil, in
	// the database of the metadata.
	PostgresClaims *postgres.ClaimsOptions
	ClaimsDatabase *postgres.Options

	// NodeID is the node id to take; coord.AutoNodeID takes a free one.
	NodeID string
	// Waiting is told why a start cannot go on yet.
	Waiting func(what string, err error)
}

// Metadata is a store of tenants and nodes that keeps hints, too.
type Metadata interface {
	coord.Metadata
	coord.Hints
}

// Stores are the open stores. The pings may be called from any goroutine and at
// any time; the fields are set by Open and must not be read before it returns.
type Stores struct {
	Metadata    Metadata
	Idempotency coord.Idempotency
	Identity    coord.Identity

	mu   sync.Mutex // guards open
	open struct {
		metadata    coord.Metadata
		idempotency coord.Idempotency
	}
}

const (
	// identityPatience is how long a start waits for a process that holds the
	// same node id: its predecessor may be about to end.
	identityPatience = 10 * time.Second
	// retryMin and retryMax bound the pause between attempts to reach a store
	// that is down at the start.
	retryMin = 250 * time.Millisecond
	retryMax = 5 * time.Second
)

// Open opens the stores, waiting for those that are down, and takes the node
// id. It fails where waiting would not help, or when ctx ends; what was opened
// then is closed by Close.
func (s *Stores) Open(ctx context.Context, o Options) (err error) {
	s.Metadata, err = retry(ctx, o, "open metadata", func() (Metadata, error) { return o.openMetadata(ctx) })
	if err != nil {
		return fmt.Errorf("open metadata: %w", err)
	}
	s.mu.Lock()
	s.open.metadata = s.Metadata
	s.mu.Unlock()
	// The node id comes before stores that only one process may have open: who
	// holds it can be named.
	s.Identity, err = retry(ctx, o, "take node id", func() (coord.Identity, error) {
		patience, cancel := context.WithTimeout(ctx, identityPatience)
		defer cancel()
		return s.Metadata.AcquireIdentity(patience, o.NodeID)
	})
	if err != nil {
		return fmt.Errorf("take node id %q (-node-id): %w", o.NodeID, err)
	}
	s.Idempotency, err = retry(ctx, o, "open idempotency store", func() (coord.Idempotency, error) { return o.openIdempotency(ctx, s.Metadata) })
	if err != nil {
		return fmt.Errorf("open idempotency store: %w", err)
	}
	s.mu.Lock()
	s.open.idempotency = s.Idempotency
	s.mu.Unlock()
	return nil
}

// retry tries again while a store does not answer, until ctx ends.
func retry[T any](ctx context.Context, o Options, what string, try func() (T, error)) (T, error) {
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		value, err := try()
		waits := errors.Is(err, coord.ErrMetadataUnavailable) || errors.Is(err, coord.ErrIdempotencyUnavailable)
		if !waits || ctx.Err() != nil {
			return value, err
		}
		o.Waiting(what, err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// ErrNoStore means that the options name no store.
var ErrNoStore = errors.New("no store is chosen")

// Constructors return concrete types; none of their nil pointers may become an
// interface that is not nil.
func (o *Options) openMetadata(ctx context.Context) (Metadata, error) {
	var err error
	switch {
	case o.SQLite != nil:
		var store *sqlite.Store
		if store, err = sqlite.Open(ctx, *o.SQLite); err == nil {
			return store, nil
		}
	case o.Postgres != nil:
		var store *postgres.Store
		if store, err = postgres.Open(ctx, *o.Postgres); err == nil {
			return store, nil
		}
	default:
		err = ErrNoStore
	}
	return nil, err
}

func (o *Options) openIdempotency(ctx context.Context, metadata Metadata) (coord.Idempotency, error) {
	var err error
	switch {
	case o.Badger != nil:
		var store *badger.Claims
		if store, err = badger.OpenClaims(*o.Badger); err == nil {
			return store, nil
		}
	case o.Redis != nil:
		var store *redis.Store
		if store, err = redis.Open(*o.Redis); err == nil {
			return store, nil
		}
	case o.PostgresClaims != nil:
		var store *postgres.Claims
		if shared, ok := metadata.(*postgres.Store); ok && o.ClaimsDatabase == nil {
			store, err = shared.Claims(*o.PostgresClaims)
		} else if o.ClaimsDatabase == nil {
			return nil, fmt.Errorf("%w: claims in Postgres, without a database", ErrNoStore)
		} else {
			store, err = postgres.OpenClaims(ctx, *o.ClaimsDatabase, *o.PostgresClaims)
		}
		if err == nil {
			return store, nil
		}
	default:
		err = ErrNoStore
	}
	return nil, err
}

var errNotOpen = errors.New("not open yet")

// PingMetadata tells whether the metadata store is open and answers.
func (s *Stores) PingMetadata(ctx context.Context) error {
	s.mu.Lock()
	store := s.open.metadata
	s.mu.Unlock()
	if store == nil {
		return errNotOpen
	}
	return store.Ping(ctx)
}

// PingIdempotency tells whether the idempotency store is open and answers.
func (s *Stores) PingIdempotency(ctx context.Context) error {
	s.mu.Lock()
	store := s.open.idempotency
	s.mu.Unlock()
	if store == nil {
		return errNotOpen
	}
	return store.Ping(ctx)
}

// Syncs counts how often the idempotency store has waited for this machine's disk.
func (s *Stores) Syncs() uint64 {
	if store, ok := s.Idempotency.(interface{ Syncs() uint64 }); ok {
		return store.Syncs()
	}
	return 0
}

// Close closes what was opened. An engine gives the node id back by itself;
// here it goes back where no engine came to be.
func (s *Stores) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.open.idempotency != nil {
		errs = append(errs, s.open.idempotency.Close())
	}
	if s.Identity.Release != nil {
		errs = append(errs, s.Identity.Release())
	}
	if s.open.metadata != nil {
		errs = append(errs, s.open.metadata.Close())
	}
	return errors.Join(errs...)
}
