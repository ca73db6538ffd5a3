package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/pairdb/coordinator/coord"
)

// SetTenantLimits implements coord.Metadata.
func (s *Store) SetTenantLimits(ctx context.Context, id string, change coord.LimitsChange) (coord.Tenant, error) {
	var t coord.Tenant
	err := s.update(ctx, fmt.Sprintf("set limits of tenant %q", id), func(tx *sql.Tx) (err error) {
		t, err = scanTenant(tx.QueryRowContext(ctx, `UPDATE tenants SET
			operations_per_second = coalesce(?2, operations_per_second),
			bytes_per_second = coalesce(?3, bytes_per_second),
			concurrency = coalesce(?4, concurrency),
			updated_at = max(updated_at, ?5) WHERE id = ?1 RETURNING `+tenantColumns,
			id, change.OperationsPerSecond, change.BytesPerSecond, change.Concurrency, s.wall().Unix()))
		t, err = tenantOr(t, err, id)
		return err
	})
	if err != nil {
		return coord.Tenant{}, err
	}
	return t, nil
}
