package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/coord"
	sqlite3 "modernc.org/sqlite/lib"
)

const tenantColumns = "id, replication_factor, created_at, updated_at, operations_per_second, bytes_per_second, concurrency"

func scanTenant(row interface{ Scan(...any) error }) (coord.Tenant, error) {
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

// tenantOr turns the lack of a row into the engine's answer.
func tenantOr(t coord.Tenant, err error, id string) (coord.Tenant, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return coord.Tenant{}, fmt.Errorf("%w: %q", coord.ErrTenantNotFound, id)
	}
	return t, err
}

// Tenant implements coord.Metadata.
func (s *Store) Tenant(ctx context.Context, id string) (coord.Tenant, error) {
	t, err := scanTenant(s.read.QueryRowContext(ctx, "SELECT "+tenantColumns+" FROM tenants WHERE id = ?", id))
	t, err = tenantOr(t, err, id)
	return t, failed(ctx, fmt.Sprintf("get tenant %q", id), err)
}

// CreateTenant implements coord.Metadata.
func (s *Store) CreateTenant(ctx context.Context, id string, replicationFactor int) (coord.Tenant, error) {
	var t coord.Tenant
	err := s.update(ctx, fmt.Sprintf("create tenant %q", id), func(tx *sql.Tx) (err error) {
		t, err = scanTenant(tx.QueryRowContext(ctx,
			"INSERT INTO tenants ("+tenantColumns+") VALUES (?1, ?2, ?3, ?3, 0, 0, 0) RETURNING "+tenantColumns,
			id, replicationFactor, s.wall().Unix()))
		if extendedCode(err) == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY {
			return fmt.Errorf("%w: %q", coord.ErrTenantExists, id)
		}
		return err
	})
	if err != nil {
		return coord.Tenant{}, err
	}
	return t, nil
}

// SetReplicationFactor implements coord.Metadata. UpdatedAt never falls, even
// where the clock was set back.
func (s *Store) SetReplicationFactor(ctx context.Context, id string, replicationFactor int) (before, after coord.Tenant, err error) {
	err = s.update(ctx, fmt.Sprintf("set replication factor of tenant %q", id), func(tx *sql.Tx) (err error) {
		before, err = scanTenant(tx.QueryRowContext(ctx, "SELECT "+tenantColumns+" FROM tenants WHERE id = ?", id))
		if before, err = tenantOr(before, err, id); err != nil {
			return err
		}
		after, err = scanTenant(tx.QueryRowContext(ctx,
			"UPDATE tenants SET replication_factor = ?2, updated_at = max(updated_at, ?3) WHERE id = ?1 RETURNING "+tenantColumns,
			id, replicationFactor, s.wall().Unix()))
		return err
	})
	if err != nil {
		return coord.Tenant{}, coord.Tenant{}, err
	}
	return before, after, nil
}

// DeleteTenant implements coord.Metadata.
func (s *Store) DeleteTenant(ctx context.Context, id string) error {
	return s.update(ctx, fmt.Sprintf("delete tenant %q", id), func(tx *sql.Tx) error {
		t, err := scanTenant(tx.QueryRowContext(ctx, "DELETE FROM tenants WHERE id = ? RETURNING "+tenantColumns, id))
		_, err = tenantOr(t, err, id)
		return err
	})
}

// Tenants implements coord.Metadata.
func (s *Store) Tenants(ctx context.Context, after string, limit int) ([]coord.Tenant, error) {
	const doing = "list tenants"
	// SQLite takes a negative limit for none.
	rows, err := s.read.QueryContext(ctx,
		"SELECT "+tenantColumns+" FROM tenants WHERE id > ? ORDER BY id LIMIT ?", after, max(limit, 0))
	if err != nil {
		return nil, failed(ctx, doing, err)
	}
	defer rows.Close()
	var tenants []coord.Tenant
	for rows.Next() {
		t, err := scanTenant(rows)
		if err != nil {
			return nil, failed(ctx, doing, err)
		}
		tenants = append(tenants, t)
	}
	if err := rows.Err(); err != nil {
		return nil, failed(ctx, doing, err)
	}
	return tenants, nil
}

// MaxReplicationFactor implements coord.Metadata.
func (s *Store) MaxReplicationFactor(ctx context.Context) (int, error) {
	var greatest int
	err := s.read.QueryRowContext(ctx, "SELECT coalesce(max(replication_factor), 0) FROM tenants").Scan(&greatest)
	return greatest, failed(ctx, "get the greatest replication factor", err)
}
