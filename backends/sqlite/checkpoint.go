package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pairdb/coordinator/coord"
)

// Checkpoint implements coord.Metadata.
func (s *Store) Checkpoint(ctx context.Context, name string) ([]byte, error) {
	var data []byte
	err := s.read.QueryRowContext(ctx, "SELECT data FROM checkpoints WHERE name = ?", name).Scan(&data)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, failed(ctx, fmt.Sprintf("get checkpoint %q", name), err)
	case data == nil:
		data = []byte{} // nil would mean that there is none
	}
	return data, nil
}

// SaveCheckpoint implements coord.Metadata.
func (s *Store) SaveCheckpoint(ctx context.Context, name string, data []byte) error {
	doing := fmt.Sprintf("save checkpoint %q", name)
	if len(data) > coord.MaxCheckpoint {
		return fmt.Errorf("%s: it has %d bytes, want at most %d", doing, len(data), coord.MaxCheckpoint)
	}
	return s.update(ctx, doing, func(tx *sql.Tx) (err error) {
		if data == nil {
			_, err = tx.ExecContext(ctx, "DELETE FROM checkpoints WHERE name = ?", name)
		} else {
			_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO checkpoints (name, data) VALUES (?, ?)", name, data)
		}
		return err
	})
}
