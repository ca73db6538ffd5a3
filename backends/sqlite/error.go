package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/pairdb/coordinator/coord"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// failed names what was attempted and tells the kinds of failure apart: an
// answer of the engine's own kind stays as it is, a statement that SQLite
// understood and turned down, or a record that cannot be read, is a plain
// error, and all else means that the store did not answer.
func failed(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case isAnswer(err):
		return err
	case isRefusal(err) || errors.Is(err, coord.ErrCorrupt):
		return fmt.Errorf("%s: %w", doing, err)
	}
	// SQLite reports an ended context as an interrupt, or not at all.
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return fmt.Errorf("%w: %s: %w", coord.ErrMetadataUnavailable, doing, err)
}

func isAnswer(err error) bool {
	return errors.Is(err, coord.ErrTenantNotFound) || errors.Is(err, coord.ErrTenantExists) ||
		errors.Is(err, coord.ErrMigrationConflict) ||
		errors.Is(err, coord.ErrMetadataUnavailable)
}

// isRefusal tells that SQLite will answer the same statement with the same
// error however often it is asked.
func isRefusal(err error) bool {
	switch resultCode(err) {
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG,
		sqlite3.SQLITE_RANGE, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_NOTADB:
		return true
	}
	return false
}

// resultCode is SQLite's primary result code, 0 where err is not SQLite's.
func resultCode(err error) int { return extendedCode(err) & 0xff }

func extendedCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code()
}
