package sqlite

import (
	"context"
	"database/sql"
	"fmt"
)

// DeletedSpaces implements coord.Metadata.
func (s *Store) DeletedSpaces(ctx context.Context, after string, limit int) ([]string, error) {
	// SQLite takes a negative limit for none.
	return list(ctx, s.read, "list spaces of deleted tenants", func(row scanner) (space string, err error) {
		err = row.Scan(&space)
		return space, err
	}, "SELECT space FROM deleted_spaces WHERE space > ? ORDER BY space LIMIT ?", after, max(limit, 0))
}

// ForgetSpace implements coord.Metadata.
func (s *Store) ForgetSpace(ctx context.Context, space string) error {
	return s.update(ctx, fmt.Sprintf("forget space %q", space), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM deleted_spaces WHERE space = ?", space)
		return err
	})
}
