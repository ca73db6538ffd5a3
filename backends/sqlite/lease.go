package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// AcquireLease implements coord.Metadata by the clock of the process, which is
// that of the one machine that the file is on.
func (s *Store) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	doing := fmt.Sprintf("acquire lease %q for %q", name, holder)
	if ttl <= 0 {
		return false, fmt.Errorf("%s: it would end after %v, want a time from now", doing, ttl)
	}
	owned := false
	err := s.update(ctx, doing, func(tx *sql.Tx) error {
		now := s.wall()
		err := tx.QueryRowContext(ctx, `INSERT INTO leases (name, holder, ends) VALUES (?1, ?2, ?3)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, ends = excluded.ends
			WHERE holder = excluded.holder OR ends <= ?4 RETURNING true`,
			name, holder, now.Add(ttl).UnixNano(), now.UnixNano()).Scan(&owned)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // another's
		}
		return err
	})
	if err != nil {
		return false, err
	}
	return owned, nil
}

// ReleaseLease implements coord.Metadata.
func (s *Store) ReleaseLease(ctx context.Context, name, holder string) error {
	return s.update(ctx, fmt.Sprintf("release lease %q of %q", name, holder), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM leases WHERE name = ? AND holder = ?", name, holder)
		return err
	})
}
