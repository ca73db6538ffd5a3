package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

const nodeColumns = "id, uuid, host, port, virtual_nodes, status"

func scanNode(row pgx.Row) (n coord.StorageNode, err error) {
	err = row.Scan(&n.ID, &n.UUID, &n.Host, &n.Port, &n.VirtualNodes, &n.Status)
	return n, err
}

// queryTopology sees epoch and nodes in one statement, so as of one moment.
const queryTopology = `SELECT epoch, n.id IS NOT NULL, coalesce(id, ''), coalesce(uuid, ''), coalesce(host, ''),
	coalesce(port, 0), coalesce(virtual_nodes, 0), coalesce(status, '')
	FROM topology LEFT JOIN storage_nodes n ON true ORDER BY n.id`

// seat is a row of queryTopology: a node, or the epoch alone.
type seat struct {
	epoch uint64
	taken bool
	node  coord.StorageNode
}

func scanSeat(row pgx.Row) (s seat, err error) {
	n := &s.node
	err = row.Scan(&s.epoch, &s.taken, &n.ID, &n.UUID, &n.Host, &n.Port, &n.VirtualNodes, &n.Status)
	return s, err
}

func makeTopology(seats []seat) (coord.Topology, error) {
	var t coord.Topology
	if len(seats) == 0 {
		return t, fmt.Errorf("%w: the epoch's row is missing", coord.ErrCorrupt)
	}
	t.Epoch = seats[0].epoch
	for _, s := range seats {
		if s.taken {
			t.Nodes = append(t.Nodes, s.node)
		}
	}
	return t, nil
}

// Topology implements coord.Metadata.
func (s *Store) Topology(ctx context.Context) (coord.Topology, error) {
	const doing = "read topology"
	seats, err := list(ctx, s.db, scanSeat, queryTopology)
	if err != nil {
		return coord.Topology{}, failed(ctx, doing, err)
	}
	t, err := makeTopology(seats)
	return t, failed(ctx, doing, err)
}

// PutNode implements coord.Metadata.
func (s *Store) PutNode(ctx context.Context, epoch uint64, node coord.StorageNode) (coord.Topology, error) {
	return s.changeTopology(ctx, epoch, fmt.Sprintf("put node %q", node.ID), func(ctx context.Context, tx pgx.Tx) (bool, error) {
		held, err := scanNode(tx.QueryRow(ctx, "SELECT "+nodeColumns+" FROM storage_nodes WHERE id = $1", node.ID))
		known := err == nil
		if err != nil && !noRows(err) {
			return false, err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO storage_nodes ("+nodeColumns+`) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (id) DO UPDATE SET uuid = excluded.uuid, host = excluded.host, port = excluded.port,
			virtual_nodes = excluded.virtual_nodes, status = excluded.status`,
			node.ID, node.UUID, node.Host, node.Port, node.VirtualNodes, node.Status); err != nil {
			return false, err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO known_nodes (id) VALUES ($1) ON CONFLICT DO NOTHING", node.ID); err != nil {
			return false, err
		}
		held.Host, held.Port = node.Host, node.Port
		return !known || held != node, nil
	})
}

// RemoveNode implements coord.Metadata.
func (s *Store) RemoveNode(ctx context.Context, epoch uint64, id string) (coord.Topology, error) {
	return s.changeTopology(ctx, epoch, fmt.Sprintf("remove node %q", id), func(ctx context.Context, tx pgx.Tx) (bool, error) {
		removed, err := tx.Exec(ctx, "DELETE FROM storage_nodes WHERE id = $1", id)
		if err == nil && removed.RowsAffected() == 0 {
			err = fmt.Errorf("%w: %q", coord.ErrNodeNotFound, id)
		}
		return true, err
	})
}

// changeTopology runs change if epoch is the current one, and counts it up if
// change tells that membership changed. The epoch's row is locked meanwhile.
func (s *Store) changeTopology(ctx context.Context, epoch uint64, doing string, change func(context.Context, pgx.Tx) (bool, error)) (coord.Topology, error) {
	var t coord.Topology
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var current uint64
		if err := tx.QueryRow(ctx, "SELECT epoch FROM topology FOR UPDATE").Scan(&current); err != nil {
			return err
		}
		if current != epoch {
			return fmt.Errorf("%w: %s was decided at epoch %d, and the epoch is %d now",
				coord.ErrMigrationConflict, doing, epoch, current)
		}
		membership, err := change(ctx, tx)
		if err != nil {
			return err
		}
		if membership {
			if _, err := tx.Exec(ctx, "UPDATE topology SET epoch = epoch + 1"); err != nil {
				return err
			}
		}
		found, err := tx.Query(ctx, queryTopology)
		if err != nil {
			return err
		}
		seats, err := collect(found, scanSeat)
		if err != nil {
			return err
		}
		t, err = makeTopology(seats)
		return err
	})
	if err != nil {
		return coord.Topology{}, failed(ctx, doing, err)
	}
	return t, nil
}

// NodeKnown implements coord.Metadata.
func (s *Store) NodeKnown(ctx context.Context, id string) (bool, error) {
	var known bool
	err := s.db.row(ctx, into(&known), "SELECT EXISTS (SELECT 1 FROM known_nodes WHERE id = $1)", id)
	return known, failed(ctx, fmt.Sprintf("look for node %q", id), err)
}
