package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

const (
	tenantColumns = "id, replication_factor, created_at, updated_at, operations_per_second, bytes_per_second, concurrency"
	// nowSeconds is the database's clock.
	nowSeconds = "floor(extract(epoch FROM clock_timestamp()))::bigint"
)

func scanTenant(row pgx.Row) (coord.Tenant, error) {
	var t coord.Tenant
	var created, updated int64
	if err := row.Scan(&t.ID, &t.ReplicationFactor, &created, &updated,
		&t.Limits.OperationsPerSecond, &t.Limits.BytesPerSecond, &t.Limits.Concurrency); err != nil {
		return coord.Tenant{}, err
	}
	t.CreatedAt = time.Unix(created, 0).UTC()
	t.UpdatedAt = time.Unix(updated, 0).UTC()
	return t, nil
}

// tenantOr turns the lack of a row into an answer of the engine's.
func tenantOr(answer error, t coord.Tenant, err error, id string) (coord.Tenant, error) {
	if noRows(err) {
		return coord.Tenant{}, fmt.Errorf("%w: %q", answer, id)
	}
	return t, err
}

// Tenant implements coord.Metadata.
func (s *Store) Tenant(ctx context.Context, id string) (t coord.Tenant, err error) {
	err = s.db.row(ctx, func(row pgx.Row) (err error) {
		t, err = scanTenant(row)
		return err
	}, "SELECT "+tenantColumns+" FROM tenants WHERE id = $1", id)
	t, err = tenantOr(coord.ErrTenantNotFound, t, err, id)
	return t, failed(ctx, fmt.Sprintf("get tenant %q", id), err)
}

// CreateTenant implements coord.Metadata.
func (s *Store) CreateTenant(ctx context.Context, id string, replicationFactor int) (coord.Tenant, error) {
	var t coord.Tenant
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		t, err = scanTenant(tx.QueryRow(ctx, "INSERT INTO tenants ("+tenantColumns+`)
			SELECT $1, $2, now, now, 0, 0, 0 FROM (SELECT `+nowSeconds+` AS now) AS clock
			ON CONFLICT DO NOTHING RETURNING `+tenantColumns, id, replicationFactor))
		t, err = tenantOr(coord.ErrTenantExists, t, err, id)
		return err
	})
	if err != nil {
		return coord.Tenant{}, failed(ctx, fmt.Sprintf("create tenant %q", id), err)
	}
	return t, nil
}

// SetReplicationFactor implements coord.Metadata. UpdatedAt never falls, even
// where the clock was set back.
func (s *Store) SetReplicationFactor(ctx context.Context, id string, replicationFactor int) (before, after coord.Tenant, err error) {
	err = s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		before, err = scanTenant(tx.QueryRow(ctx, "SELECT "+tenantColumns+" FROM tenants WHERE id = $1 FOR UPDATE", id))
		if before, err = tenantOr(coord.ErrTenantNotFound, before, err, id); err != nil {
			return err
		}
		after, err = scanTenant(tx.QueryRow(ctx,
			"UPDATE tenants SET replication_factor = $2, updated_at = greatest(updated_at, "+nowSeconds+") WHERE id = $1 RETURNING "+tenantColumns,
			id, replicationFactor))
		return err
	})
	if err != nil {
		return coord.Tenant{}, coord.Tenant{}, failed(ctx, fmt.Sprintf("set replication factor of tenant %q", id), err)
	}
	return before, after, nil
}

// DeleteTenant implements coord.Metadata.
func (s *Store) DeleteTenant(ctx context.Context, id string) error {
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		t, err := scanTenant(tx.QueryRow(ctx, "DELETE FROM tenants WHERE id = $1 RETURNING "+tenantColumns, id))
		_, err = tenantOr(coord.ErrTenantNotFound, t, err, id)
		return err
	})
	return failed(ctx, fmt.Sprintf("delete tenant %q", id), err)
}

// Tenants implements coord.Metadata.
func (s *Store) Tenants(ctx context.Context, after string, limit int) ([]coord.Tenant, error) {
	tenants, err := list(ctx, s.db, scanTenant,
		"SELECT "+tenantColumns+" FROM tenants WHERE id > $1 ORDER BY id LIMIT $2", after, max(limit, 0))
	return tenants, failed(ctx, "list tenants", err)
}

// MaxReplicationFactor implements coord.Metadata.
func (s *Store) MaxReplicationFactor(ctx context.Context) (int, error) {
	var greatest int
	err := s.db.row(ctx, into(&greatest), "SELECT coalesce(max(replication_factor), 0) FROM tenants")
	return greatest, failed(ctx, "get the greatest replication factor", err)
}
