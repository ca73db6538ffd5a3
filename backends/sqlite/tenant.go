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

// tenantColumns has the topology's epoch as of the same moment.
const tenantColumns = "id, replication_factor, created_at, updated_at, operations_per_second, bytes_per_second, concurrency, space, since, (SELECT epoch FROM topology)"

func scanTenant(row scanner) (coord.Tenant, error) {
	var t coord.Tenant
	var created, updated int64
	if err := row.Scan(&t.ID, &t.ReplicationFactor, &created, &updated,
		&t.Limits.OperationsPerSecond, &t.Limits.BytesPerSecond, &t.Limits.Concurrency, &t.Space, &t.Since, &t.AsOf); err != nil {
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
func (s *Store) CreateTenant(ctx context.Context, id string, replicationFactor int, epoch uint64) (coord.Tenant, error) {
	var t coord.Tenant
	err := s.update(ctx, fmt.Sprintf("create tenant %q", id), func(tx *sql.Tx) error {
		var generation uint64
		err := tx.QueryRowContext(ctx, "SELECT coalesce(max(generation), 0) FROM tenant_generations WHERE id = ?", id).Scan(&generation)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tenants (id, replication_factor, created_at, updated_at, space, since)
			VALUES (?1, ?2, ?3, ?3, ?4, (SELECT epoch FROM topology))`,
			id, replicationFactor, s.wall().Unix(), coord.TenantSpace(id, generation))
		if extendedCode(err) == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY {
			return fmt.Errorf("%w: %q", coord.ErrTenantExists, id)
		}
		if err != nil {
			return err
		}
		if t, err = scanTenant(tx.QueryRowContext(ctx, "SELECT "+tenantColumns+" FROM tenants WHERE id = ?", id)); err != nil {
			return err
		}
		return t.CheckEpoch(epoch)
	})
	if err != nil {
		return coord.Tenant{}, err
	}
	return t, nil
}

// DeleteTenant implements coord.Metadata.
func (s *Store) DeleteTenant(ctx context.Context, id string) error {
	return s.update(ctx, fmt.Sprintf("delete tenant %q", id), func(tx *sql.Tx) error {
		t, err := scanTenant(tx.QueryRowContext(ctx, "DELETE FROM tenants WHERE id = ? RETURNING "+tenantColumns, id))
		if t, err = tenantOr(t, err, id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO deleted_spaces (space) VALUES (?)", t.Space); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tenant_generations (id, generation) VALUES (?, 1)
			ON CONFLICT (id) DO UPDATE SET generation = generation + 1`, id)
		return err
	})
}

// Tenants implements coord.Metadata.
func (s *Store) Tenants(ctx context.Context, after string, limit int) ([]coord.Tenant, error) {
	// SQLite takes a negative limit for none.
	return list(ctx, s.read, "list tenants", scanTenant,
		"SELECT "+tenantColumns+" FROM tenants WHERE id > ? ORDER BY id LIMIT ?", after, max(limit, 0))
}

// ReplicationFactors implements coord.Metadata.
func (s *Store) ReplicationFactors(ctx context.Context) ([]int, error) {
	return list(ctx, s.read, "list replication factors", func(row scanner) (rf int, err error) {
		err = row.Scan(&rf)
		return rf, err
	}, "SELECT DISTINCT replication_factor FROM tenants ORDER BY replication_factor")
}
