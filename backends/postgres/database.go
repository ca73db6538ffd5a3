package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// database is a pool of connections and how to use them.
type database struct {
	pool     *pgxpool.Pool
	begin    pgx.TxOptions
	patience time.Duration // bounds a call whose context does not
}

// openPool makes a pool, which connects when it is used.
func openPool(config *pgxpool.Config, opts *Options, pooled bool) (*database, error) {
	config = config.Copy()
	config.MaxConns = int32(opts.MaxConnections)
	config.MinConns = int32(opts.MinConnections)
	config.MaxConnLifetime = opts.ConnMaxLifetime
	config.MaxConnLifetimeJitter = opts.ConnMaxLifetime / 10
	config.PingTimeout = opts.ConnectTimeout
	settings := opts.settings()
	settings.apply(config.ConnConfig, pooled)
	config.BeforeConnect = renewTLS
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("make a pool of connections: %w", err)
	}
	return &database{pool, settings.transaction(pooled), opts.ConnectTimeout + opts.StatementTimeout}, nil
}

// retrying runs f, which must change nothing when it is repeated, and runs it
// again on another connection where its own broke.
func (d *database) retrying(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	err := f(ctx)
	if isBroken(err) && ctx.Err() == nil {
		err = f(ctx)
	}
	return err
}

// update runs f in a transaction in which each statement sees what was
// committed before it.
func (d *database) update(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	tx, err := d.pool.BeginTx(ctx, d.begin)
	if isBroken(err) && ctx.Err() == nil {
		tx, err = d.pool.BeginTx(ctx, d.begin)
	}
	if err != nil {
		return err
	}
	if err := f(ctx, tx); err != nil {
		// The failure that matters is f's; the connection is dropped where the
		// rollback fails too.
		_ = tx.Rollback(ctx)
		if code(err) == codeReadOnly {
			d.pool.Reset() // the server has become a standby
		}
		return err
	}
	return tx.Commit(ctx)
}

// row runs a query and hands its one row to scan.
func (d *database) row(ctx context.Context, scan func(pgx.Row) error, query string, args ...any) error {
	return d.retrying(ctx, func(ctx context.Context) error {
		return scan(d.pool.QueryRow(ctx, query, args...))
	})
}

// into scans a row into places.
func into(places ...any) func(pgx.Row) error {
	return func(r pgx.Row) error { return r.Scan(places...) }
}

// list reads the rows of a query.
func list[T any](ctx context.Context, d *database, scan func(pgx.Row) (T, error), query string, args ...any) (items []T, err error) {
	err = d.retrying(ctx, func(ctx context.Context) error {
		found, err := d.pool.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		items, err = collect(found, scan)
		return err
	})
	return items, err
}

// collect reads all rows and closes them.
func collect[T any](rows pgx.Rows, scan func(pgx.Row) (T, error)) ([]T, error) {
	defer rows.Close()
	var items []T
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, rows.Err()
}

// PoolStats is how a pool of connections is used. Counts are since the start.
type PoolStats struct {
	Acquired, Idle, Total, Max int
	Waits                      int64 // how often a call found no idle connection
	Waited                     time.Duration
	Cancelled                  int64 // how often a call ended while it waited for one
}

// stats reads the pool's counters.
func (d *database) stats() PoolStats {
	s := d.pool.Stat()
	return PoolStats{
		Acquired: int(s.AcquiredConns()), Idle: int(s.IdleConns()), Total: int(s.TotalConns()), Max: int(s.MaxConns()),
		Waits: s.EmptyAcquireCount(), Waited: s.EmptyAcquireWaitTime(), Cancelled: s.CanceledAcquireCount(),
	}
}

func noRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
