package sqlite

import (
	"context"
	"errors"
	"time"
)

// AcquireLease implements coord.Metadata.
func (s *Store) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	return false, errors.New("leases are not kept yet")
}

// ReleaseLease implements coord.Metadata.
func (s *Store) ReleaseLease(ctx context.Context, name, holder string) error {
	return errors.New("leases are not kept yet")
}
