package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pairdb/coordinator/coord"
)

const nodeColumns = "id, uuid, host, port, virtual_nodes, status"

func scanNode(row interface{ Scan(...any) error }) (coord.StorageNode, error) {
	var n coord.StorageNode
	err := row.Scan(&n.ID, &n.UUID, &n.Host, &n.Port, &n.VirtualNodes, &n.Status)
	return n, err
}

// Topology implements coord.Metadata.
func (s *Store) Topology(ctx context.Context) (coord.Topology, error) {
	var t coord.Topology
	err := s.snapshot(ctx, "read topology", func(tx *sql.Tx) (err error) {
		t, err = readTopology(ctx, tx)
		return err
	})
	if err != nil {
		return coord.Topology{}, err
	}
	return t, nil
}

func readTopology(ctx context.Context, tx *sql.Tx) (coord.Topology, error) {
	var t coord.Topology
	var err error
	if t.Epoch, err = readEpoch(ctx, tx); err != nil {
		return coord.Topology{}, err
	}
	rows, err := tx.QueryContext(ctx, "SELECT "+nodeColumns+" FROM storage_nodes ORDER BY id")
	if err != nil {
		return coord.Topology{}, err
	}
	defer rows.Close()
	for rows.Next() {
		n, err := scanNode(rows)
		if err != nil {
			return coord.Topology{}, err
		}
		t.Nodes = append(t.Nodes, n)
	}
	return t, rows.Err()
}

func readEpoch(ctx context.Context, tx *sql.Tx) (uint64, error) {
	var epoch uint64
	err := tx.QueryRowContext(ctx, "SELECT epoch FROM topology").Scan(&epoch)
	return epoch, err
}

// PutNode implements coord.Metadata.
func (s *Store) PutNode(ctx context.Context, epoch uint64, node coord.StorageNode) (coord.Topology, error) {
	return s.changeTopology(ctx, epoch, fmt.Sprintf("put node %q", node.ID), func(tx *sql.Tx) (bool, error) {
		held, err := scanNode(tx.QueryRowContext(ctx, "SELECT "+nodeColumns+" FROM storage_nodes WHERE id = ?", node.ID))
		known := err == nil
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return false, err
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO storage_nodes ("+nodeColumns+") VALUES (?, ?, ?, ?, ?, ?)",
			node.ID, node.UUID, node.Host, node.Port, node.VirtualNodes, node.Status); err != nil {
			return false, err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO known_nodes (id) VALUES (?) ON CONFLICT DO NOTHING", node.ID); err != nil {
			return false, err
		}
		held.Host, held.Port = node.Host, node.Port
		return !known || held != node, nil
	})
}

// RemoveNode implements coord.Metadata.
func (s *Store) RemoveNode(ctx context.Context, epoch uint64, id string) (coord.Topology, error) {
	return s.changeTopology(ctx, epoch, fmt.Sprintf("remove node %q", id), func(tx *sql.Tx) (bool, error) {
		result, err := tx.ExecContext(ctx, "DELETE FROM storage_nodes WHERE id = ?", id)
		if err != nil {
			return false, err
		}
		removed, err := result.RowsAffected()
		if err == nil && removed == 0 {
			err = fmt.Errorf("%w: %q", coord.ErrNodeNotFound, id)
		}
		return true, err
	})
}

// changeTopology runs change if epoch is the current one, and counts it up if
// change tells that membership changed.
func (s *Store) changeTopology(ctx context.Context, epoch uint64, doing string, change func(*sql.Tx) (bool, error)) (coord.Topology, error) {
	var t coord.Topology
	err := s.update(ctx, doing, func(tx *sql.Tx) error {
		current, err := readEpoch(ctx, tx)
		if err != nil {
			return err
		}
		if current != epoch {
			return fmt.Errorf("%w: %s was decided at epoch %d, and the epoch is %d now",
				coord.ErrMigrationConflict, doing, epoch, current)
		}
		membership, err := change(tx)
		if err != nil {
			return err
		}
		if membership {
			if _, err := tx.ExecContext(ctx, "UPDATE topology SET epoch = epoch + 1"); err != nil {
				return err
			}
		}
		t, err = readTopology(ctx, tx)
		return err
	})
	if err != nil {
		return coord.Topology{}, err
	}
	return t, nil
}

// NodeKnown implements coord.Metadata.
func (s *Store) NodeKnown(ctx context.Context, id string) (bool, error) {
	var known bool
	err := s.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM known_nodes WHERE id = ?)", id).Scan(&known)
	return known, failed(ctx, fmt.Sprintf("look for node %q", id), err)
}
