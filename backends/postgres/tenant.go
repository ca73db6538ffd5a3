package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

const (
	// tenantColumns has the topology's epoch as of the same moment.
	tenantColumns = "id, replication_factor, created_at, updated_at, operations_per_second, bytes_per_second, concurrency, space, since, (SELECT epoch FROM topology)"
	// nowSeconds is the database's clock.
	nowSeconds = "floor(extract(epoch FROM clock_timestamp()))::bigint"
)

func scanTenant(row pgx.Row) (coord.Tenant, error) {
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

// CreateTenant implements coord.Metadata. It shares the topology's row with
// others that create, and keeps those that change the topology or delete a
// tenant waiting, so that neither the epoch nor the generation is outdated when
// the tenant comes to be.
func (s *Store) CreateTenant(ctx context.Context, id string, replicationFactor int, epoch uint64) (coord.Tenant, error) {
	var t coord.Tenant
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		generation, err := shareTopology(ctx, tx, id)
		if err != nil {
			return err
		}
		t, err = scanTenant(tx.QueryRow(ctx, `INSERT INTO tenants (id, replication_factor, created_at, updated_at, space, since)
			SELECT $1, $2, now, now, $3, epoch FROM topology, (SELECT `+nowSeconds+` AS now) AS clock
			ON CONFLICT (id) DO NOTHING RETURNING `+tenantColumns, id, replicationFactor, coord.TenantSpace(id, generation)))
		if t, err = tenantOr(coord.ErrTenantExists, t, err, id); err != nil {
			return err
		}
		return t.CheckEpoch(epoch)
	})
	if err != nil {
		return coord.Tenant{}, failed(ctx, fmt.Sprintf("create tenant %q", id), err)
	}
	return t, nil
}

// shareTopology locks the topology's row, and then looks how many tenants of an
// id were deleted.
func shareTopology(ctx context.Context, tx pgx.Tx, id string) (generation uint64, err error) {
	var both pgx.Batch
	both.Queue("SELECT FROM topology FOR SHARE")
	both.Queue("SELECT coalesce(max(generation), 0) FROM tenant_generations WHERE id = $1", id)
	results := tx.SendBatch(ctx, &both)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return 0, fmt.Errorf("lock the topology: %w", err)
	}
	if err := results.QueryRow().Scan(&generation); err != nil {
		return 0, err
	}
	return generation, results.Close()
}

// DeleteTenant implements coord.Metadata.
func (s *Store) DeleteTenant(ctx context.Context, id string) error {
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT FROM topology FOR UPDATE"); err != nil {
			return fmt.Errorf("lock the topology: %w", err)
		}
		deleted, err := tx.Exec(ctx, `WITH gone AS (DELETE FROM tenants WHERE id = $1 RETURNING id, space),
			counted AS (INSERT INTO tenant_generations AS g (id, generation) SELECT id, 1 FROM gone
				ON CONFLICT (id) DO UPDATE SET generation = g.generation + 1)
			INSERT INTO deleted_spaces (space) SELECT space FROM gone`, id)
		if err == nil && deleted.RowsAffected() == 0 {
			err = fmt.Errorf("%w: %q", coord.ErrTenantNotFound, id)
		}
		return err
	})
	return failed(ctx, fmt.Sprintf("delete tenant %q", id), err)
}

// DeletedSpaces implements coord.Metadata.
func (s *Store) DeletedSpaces(ctx context.Context, after string, limit int) ([]string, error) {
	spaces, err := list(ctx, s.db, func(row pgx.Row) (space string, err error) {
		err = row.Scan(&space)
		return space, err
	}, "SELECT space FROM deleted_spaces WHERE space > $1 ORDER BY space LIMIT $2", after, max(limit, 0))
	return spaces, failed(ctx, "list spaces of deleted tenants", err)
}

// ForgetSpace implements coord.Metadata.
func (s *Store) ForgetSpace(ctx context.Context, space string) error {
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM deleted_spaces WHERE space = $1", space)
		return err
	})
	return failed(ctx, fmt.Sprintf("forget space %q", space), err)
}

// Tenants implements coord.Metadata.
func (s *Store) Tenants(ctx context.Context, after string, limit int) ([]coord.Tenant, error) {
	tenants, err := list(ctx, s.db, scanTenant,
		"SELECT "+tenantColumns+" FROM tenants WHERE id > $1 ORDER BY id LIMIT $2", after, max(limit, 0))
	return tenants, failed(ctx, "list tenants", err)
}

// ReplicationFactors implements coord.Metadata.
func (s *Store) ReplicationFactors(ctx context.Context) ([]int, error) {
	factors, err := list(ctx, s.db, func(row pgx.Row) (rf int, err error) {
		err = row.Scan(&rf)
		return rf, err
	}, "SELECT DISTINCT replication_factor FROM tenants ORDER BY replication_factor")
	return factors, failed(ctx, "list replication factors", err)
}
