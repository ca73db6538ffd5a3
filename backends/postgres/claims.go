package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

const (
	// sweepEvery is about how often each coordinator removes claims that have
	// ended, and sweepBatch how many at a time.
	sweepEvery = time.Minute
	sweepBatch = 1000
)

// ClaimsOptions say how keyed requests are kept. Zero values take the defaults.
type ClaimsOptions struct {
	TTL time.Duration // of minted claims; default coord.DefaultIdempotencyTTL
	// Warn is told what goes wrong in the background, a line each. It may be
	// called from any goroutine.
	Warn func(message string)
}

// Claims is an idempotency store in Postgres. A step that has returned is on
// the server's disk, and on its synchronous standbys' if it has any: a failover
// to one of those forgets nothing. Leases and the TTL end by the database's
// clock. Each step is one round trip and one transaction. It is safe for
// concurrent use, and needs no session: a pooler may be in between.
type Claims struct {
	db   *database
	own  bool // the pool is the claims' alone
	ttl  time.Duration
	warn func(string)

	stop      context.CancelFunc
	sweeping  sync.WaitGroup
	closeOnce sync.Once
}

var _ coord.Idempotency = (*Claims)(nil)

// Claims keeps keyed requests in the store's database, through its pool. They
// must be closed before the store.
func (s *Store) Claims(opts ClaimsOptions) (*Claims, error) {
	return newClaims(s.db, false, opts)
}

// OpenClaims opens the keyed requests of a database, with a pool of their own;
// tables are made as by Open. Of the options those about hints and sessions do
// not matter. The error wraps coord.ErrIdempotencyUnavailable where trying
// again may help.
func OpenClaims(ctx context.Context, opts Options, claims ClaimsOptions) (*Claims, error) {
	const doing = "open idempotency store in Postgres"
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	config, err := parseAddress(opts.URL)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	pooled, err := prepareTables(ctx, config.ConnConfig, opts.settings())
	switch {
	case err != nil && (isMisdirected(err) || isRefusal(err) || errors.Is(err, errUnsuitable)):
		return nil, fmt.Errorf("%s: %w", doing, err)
	case err != nil:
		return nil, unanswered(ctx, coord.ErrIdempotencyUnavailable, doing, err)
	}
	db, err := openPool(config, &opts, pooled)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	c, err := newClaims(db, true, claims)
	if err != nil {
		db.pool.Close()
		return nil, err
	}
	return c, nil
}

// prepareTables brings the schema up to date, and tells whether a pooler is in
// between; a transaction, which a migration is, works through one.
func prepareTables(ctx context.Context, config *pgx.ConnConfig, s settings) (pooled bool, err error) {
	conn, found, err := s.dial(ctx, config)
	if err != nil {
		return false, err
	}
	defer hangUp(conn)
	migrations, err := embeddedMigrations()
	if err != nil {
		return false, err
	}
	return !found.direct, migrate(ctx, conn, found.namespace, migrations)
}

func newClaims(db *database, own bool, opts ClaimsOptions) (*Claims, error) {
	orDefault(&opts.TTL, coord.DefaultIdempotencyTTL)
	if opts.TTL < 0 {
		return nil, fmt.Errorf("open idempotency store in Postgres: TTL %v is negative", opts.TTL)
	}
	if opts.Warn == nil {
		opts.Warn = func(string) {}
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Claims{db: db, own: own, ttl: opts.TTL, warn: opts.Warn, stop: stop}
	c.sweeping.Go(func() { c.sweep(ctx) })
	return c, nil
}

const claimColumns = "state, level, fingerprint, attempt, minted"

func scanClaim(row pgx.Row) (coord.Claim, error) {
	var c coord.Claim
	var state, level int16
	var fingerprint, attempt, minted []byte
	if err := row.Scan(&state, &level, &fingerprint, &attempt, &minted); err != nil {
		return coord.Claim{}, err
	}
	c.State, c.Level = coord.ClaimState(state), coord.Level(level)
	if copy(c.Fingerprint[:], fingerprint) != len(c.Fingerprint) || copy(c.Attempt[:], attempt) != len(c.Attempt) ||
		c.State < coord.ClaimReserved || c.State > coord.ClaimDone || c.Level > coord.All {
		return coord.Claim{}, fmt.Errorf("%w: claim in state %d at level %d", coord.ErrCorrupt, state, level)
	}
	if c.State == coord.ClaimReserved {
		return c, nil
	}
	head, rest, err := coord.DecodeHead(minted, nil)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes behind the version", coord.ErrCorrupt, len(rest))
	}
	c.Minted = head
	return c, err
}

// claimID hashes the parts with their lengths, so that no two keys collide, and
// none is too long for an index.
func claimID(k coord.ClaimKey) []byte {
	b := make([]byte, 0, 2*binary.MaxVarintLen32+len(k.Tenant)+len(k.Key)+len(k.IdempotencyKey))
	b = binary.AppendUvarint(b, uint64(len(k.Tenant)))
	b = append(b, k.Tenant...)
	b = binary.AppendUvarint(b, uint64(len(k.Key)))
	b = append(b, k.Key...)
	b = append(b, k.IdempotencyKey...)
	id := sha256.Sum256(b)
	return id[:]
}

// versionID is what makes two heads the same version.
func versionID(h *coord.Head) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(h.Timestamp))
	b = binary.BigEndian.AppendUint64(b, h.Writer.Incarnation)
	return append(b, h.Writer.ID...)
}

// Reserve implements coord.Idempotency. Of those that find no claim the first
// makes it; it is locked until the claim that stands has been read, so that it
// cannot go away in between.
func (c *Claims) Reserve(ctx context.Context, key coord.ClaimKey, fp coord.Fingerprint, attempt coord.AttemptID, lease time.Duration) (coord.Claim, error) {
	id := claimID(key)
	return c.step(ctx, "reserve", func(b *pgx.Batch) {
		b.Queue(`INSERT INTO claims (id, state, level, fingerprint, attempt, ends)
			VALUES ($1, 1, 0, $2, $3, clock_timestamp() + $4::interval)
			ON CONFLICT (id) DO UPDATE SET state = 1, level = 0, fingerprint = excluded.fingerprint, attempt = excluded.attempt,
			version = NULL, minted = NULL, ends = clock_timestamp() + $4::interval
			WHERE claims.ends <= clock_timestamp()`, id, fp[:], attempt[:], lease)
		b.Queue("SELECT "+claimColumns+" FROM claims WHERE id = $1", id)
	})
}

// Mint implements coord.Idempotency.
func (c *Claims) Mint(ctx context.Context, key coord.ClaimKey, attempt coord.AttemptID, version coord.Head) (coord.Claim, error) {
	if !version.Exists() || version.Timestamp < 0 || version.Writer.ID == "" {
		return coord.Claim{}, fmt.Errorf("mint claim: %w: version %s", coord.ErrInvalidRequest, &version)
	}
	id, minted := claimID(key), coord.AppendHead(nil, &version)
	if _, _, err := coord.DecodeHead(minted, nil); err != nil {
		return coord.Claim{}, fmt.Errorf("mint claim: %w: %w", coord.ErrInvalidRequest, err)
	}
	return c.step(ctx, "mint", func(b *pgx.Batch) {
		b.Queue(`UPDATE claims SET state = 2, version = $3, minted = $4, ends = clock_timestamp() + $5::interval
			WHERE id = $1 AND attempt = $2 AND state = 1 AND ends > clock_timestamp()`,
			id, attempt[:], versionID(&version), minted, c.ttl)
		b.Queue("SELECT "+claimColumns+" FROM claims WHERE id = $1 AND ends > clock_timestamp()", id)
	})
}

// Complete implements coord.Idempotency.
func (c *Claims) Complete(ctx context.Context, key coord.ClaimKey, version coord.Head, level coord.Level) error {
	if level == coord.LevelDefault || level > coord.All {
		return fmt.Errorf("complete claim: %w: level %d", coord.ErrInvalidRequest, level)
	}
	_, err := c.step(ctx, "complete", func(b *pgx.Batch) {
		b.Queue(`UPDATE claims SET state = 3, level = $3
			WHERE id = $1 AND version = $2 AND state >= 2 AND level < $3 AND ends > clock_timestamp()`,
			claimID(key), versionID(&version), int16(level))
	})
	return err
}

// Release implements coord.Idempotency.
func (c *Claims) Release(ctx context.Context, key coord.ClaimKey, attempt coord.AttemptID) error {
	_, err := c.step(ctx, "release", func(b *pgx.Batch) {
		b.Queue("DELETE FROM claims WHERE id = $1 AND attempt = $2 AND state = 1", claimID(key), attempt[:])
	})
	return err
}

// step runs one or two statements as one transaction, of which the second, if
// there is one, reads the claim that stands; where it finds none that is the
// zero Claim. Every step may be repeated: it then changes nothing more.
func (c *Claims) step(ctx context.Context, what string, queue func(*pgx.Batch)) (claim coord.Claim, err error) {
	err = c.db.retrying(ctx, func(ctx context.Context) error {
		claim = coord.Claim{}
		var b pgx.Batch
		queue(&b)
		results := c.db.pool.SendBatch(ctx, &b)
		defer results.Close()
		if _, err := results.Exec(); err != nil {
			return err
		}
		if b.Len() > 1 {
			stands, err := scanClaim(results.QueryRow())
			if err != nil && !noRows(err) {
				return err
			}
			claim = stands
		}
		return results.Close() // the commit
	})
	if err != nil {
		return coord.Claim{}, unanswered(ctx, coord.ErrIdempotencyUnavailable, what+" claim", err)
	}
	return claim, nil
}

// Ping implements coord.Idempotency.
func (c *Claims) Ping(ctx context.Context) error {
	var some bool
	if err := c.db.row(ctx, into(&some), "SELECT EXISTS (SELECT 1 FROM claims)"); err != nil {
		return unanswered(ctx, coord.ErrIdempotencyUnavailable, "ping", err)
	}
	return nil
}

// PoolStats tells how the connections are used; they are the store's where the
// claims share its pool.
func (c *Claims) PoolStats() PoolStats { return c.db.stats() }

// sweep removes claims that have ended, now and then. All coordinators do, each
// passing over the rows that another is at.
func (c *Claims) sweep(ctx context.Context) {
	for {
		again := time.NewTimer(sweepEvery/2 + rand.N(sweepEvery))
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-again.C:
		}
		for more := true; more; {
			removed, err := c.sweepBatch(ctx)
			if err != nil && ctx.Err() == nil {
				c.warn(fmt.Sprintf("remove claims that have ended: %v", err))
			}
			more = removed == sweepBatch
		}
	}
}

func (c *Claims) sweepBatch(ctx context.Context) (removed int, err error) {
	err = c.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		gone, err := tx.Exec(ctx, `DELETE FROM claims WHERE id IN (
			SELECT id FROM claims WHERE ends <= clock_timestamp() ORDER BY ends LIMIT $1 FOR UPDATE SKIP LOCKED)`, sweepBatch)
		removed = int(gone.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// Close implements coord.Idempotency. Calling it again does no harm.
func (c *Claims) Close() error {
	c.closeOnce.Do(func() {
		c.stop()
		c.sweeping.Wait()
		if c.own {
			c.db.pool.Close()
		}
	})
	return nil
}
