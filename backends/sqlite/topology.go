package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"math"

	"github.com/pairdb/coordinator/coord"
)

// Topology implements coord.Metadata.
func (s *Store) Topology(ctx context.Context) (coord.Topology, error) {
	const doing = "read topology"
	var version, epoch uint64
	var document []byte
	err := s.read.QueryRowContext(ctx, "SELECT version, epoch, document FROM topology").Scan(&version, &epoch, &document)
	if err != nil {
		return coord.Topology{}, failed(ctx, doing, err)
	}
	if version == 0 {
		return coord.Topology{}, nil
	}
	t, err := coord.DecodeTopology(document)
	if err == nil && (t.Version != version || t.Epoch != epoch) {
		err = fmt.Errorf("%w: version %d and epoch %d are stored as version %d and epoch %d",
			coord.ErrCorrupt, t.Version, t.Epoch, version, epoch)
	}
	if err != nil {
		return coord.Topology{}, failed(ctx, doing, err)
	}
	return t, nil
}

// SetTopology implements coord.Metadata.
func (s *Store) SetTopology(ctx context.Context, step coord.TopologyStep) error {
	doing := fmt.Sprintf("set topology of version %d", step.Next.Version)
	document, err := step.Next.Encode()
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if step.Next.Epoch > math.MaxInt64 {
		return fmt.Errorf("%s: epoch %d is above %d", doing, step.Next.Epoch, math.MaxInt64)
	}
	return s.update(ctx, doing, func(tx *sql.Tx) error {
		var version uint64
		if err := tx.QueryRowContext(ctx, "SELECT version FROM topology").Scan(&version); err != nil {
			return err
		}
		if version != step.Next.Version-1 {
			return fmt.Errorf("%w: %s was decided on another version than %d, which stands now", coord.ErrMigrationConflict, doing, version)
		}
		if err := checkReplicas(ctx, tx, &step); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE topology SET version = ?, epoch = ?, document = ?",
			step.Next.Version, step.Next.Epoch, document); err != nil {
			return err
		}
		if step.Resize == nil {
			return nil
		}
		// UpdatedAt never falls, even where the clock was set back.
		_, err := tx.ExecContext(ctx, "UPDATE tenants SET replication_factor = ?2, since = ?3, updated_at = max(updated_at, ?4) WHERE id = ?1 AND ?5 IN (space, '')",
			step.Resize.Tenant, step.Resize.ReplicationFactor, step.Next.Epoch, s.wall().Unix(), step.Resize.Space)
		return err
	})
}

// checkReplicas fails where a tenant has fewer or more replicas than a step allows.
func checkReplicas(ctx context.Context, tx *sql.Tx, step *coord.TopologyStep) error {
	if step.LeastReplicas <= 0 && step.MostReplicas <= 0 {
		return nil
	}
	var fewest, most sql.NullInt64
	if err := tx.QueryRowContext(ctx, "SELECT min(replication_factor), max(replication_factor) FROM tenants").Scan(&fewest, &most); err != nil {
		return err
	}
	return step.CheckReplicas(int(fewest.Int64), int(most.Int64))
}
