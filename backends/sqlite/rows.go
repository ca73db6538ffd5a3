package sqlite

import (
	"context"
	"database/sql"
)

// scanner is a row.
type scanner interface{ Scan(places ...any) error }

// list reads the rows of a query.
func list[T any](ctx context.Context, db *sql.DB, doing string, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, failed(ctx, doing, err)
	}
	defer rows.Close()
	var items []T
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, failed(ctx, doing, err)
		}
		items = append(items, item)
	}
	if err := rows.Err(); err != nil {
		return nil, failed(ctx, doing, err)
	}
	return items, nil
}
