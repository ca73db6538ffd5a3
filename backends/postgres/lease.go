package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// AcquireLease implements coord.Metadata, by the database's clock.
func (s *Store) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	doing := fmt.Sprintf("acquire lease %q for %q", name, holder)
	if ttl <= 0 {
		return false, fmt.Errorf("%s: it would end after %v, want a time from now", doing, ttl)
	}
	var owned bool
	err := s.db.row(ctx, into(&owned), `INSERT INTO leases (name, holder, ends) VALUES ($1, $2, clock_timestamp() + $3::interval)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, ends = clock_timestamp() + $3::interval
		WHERE leases.holder = excluded.holder OR leases.ends <= clock_timestamp() RETURNING true`, name, holder, ttl)
	if noRows(err) {
		return false, nil // another's
	}
	return owned, failed(ctx, doing, err)
}

// ReleaseLease implements coord.Metadata.
func (s *Store) ReleaseLease(ctx context.Context, name, holder string) error {
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM leases WHERE name = $1 AND holder = $2", name, holder)
		return err
	})
	return failed(ctx, fmt.Sprintf("release lease %q of %q", name, holder), err)
}
