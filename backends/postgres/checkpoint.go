package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
)

// Checkpoint implements coord.Metadata.
func (s *Store) Checkpoint(ctx context.Context, name string) ([]byte, error) {
	var data []byte
	err := s.db.row(ctx, into(&data), "SELECT data FROM checkpoints WHERE name = $1", name)
	if noRows(err) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(ctx, fmt.Sprintf("get checkpoint %q", name), err)
	}
	return data, nil
}

// SaveCheckpoint implements coord.Metadata.
func (s *Store) SaveCheckpoint(ctx context.Context, name string, data []byte) error {
	doing := fmt.Sprintf("save checkpoint %q", name)
	if len(data) > coord.MaxCheckpoint {
		return fmt.Errorf("%s: it has %d bytes, want at most %d", doing, len(data), coord.MaxCheckpoint)
	}
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		if data == nil {
			_, err = tx.Exec(ctx, "DELETE FROM checkpoints WHERE name = $1", name)
		} else {
			_, err = tx.Exec(ctx, `INSERT INTO checkpoints (name, data) VALUES ($1, $2)
				ON CONFLICT (name) DO UPDATE SET data = excluded.data`, name, data)
		}
		return err
	})
	return failed(ctx, doing, err)
}
