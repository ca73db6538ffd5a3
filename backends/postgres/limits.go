package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

// SetTenantLimits implements coord.Metadata.
func (s *Store) SetTenantLimits(ctx context.Context, id string, change coord.LimitsChange) (coord.Tenant, error) {
	var t coord.Tenant
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		t, err = scanTenant(tx.QueryRow(ctx, `UPDATE tenants SET
			operations_per_second = coalesce($2, operations_per_second),
			bytes_per_second = coalesce($3, bytes_per_second),
			concurrency = coalesce($4, concurrency),
			updated_at = greatest(updated_at, `+nowSeconds+`) WHERE id = $1 RETURNING `+tenantColumns,
			id, change.OperationsPerSecond, change.BytesPerSecond, change.Concurrency))
		t, err = tenantOr(coord.ErrTenantNotFound, t, err, id)
		return err
	})
	if err != nil {
		return coord.Tenant{}, failed(ctx, fmt.Sprintf("set limits of tenant %q", id), err)
	}
	return t, nil
}
