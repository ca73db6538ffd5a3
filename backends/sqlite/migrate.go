package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"

	sqlite3 "modernc.org/sqlite/lib"
)

// applicationID marks a file as PairDB metadata; the first migration sets it.
const applicationID = 0x50524442 // "PRDB"

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration takes the schema from version-1 to version. Once released it never changes.
type migration struct {
	version int
	name    string
	sql     string
}

func embeddedMigrations() ([]migration, error) {
	dir, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return readMigrations(dir)
}

// readMigrations reads a directory of files NNNN_words.sql with rising numbers, from
// 0001. Numbers may be missing.
func readMigrations(dir fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(dir, ".") // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	form := regexp.MustCompile(`^(\d{4})_[a-z0-9_]+\.sql$`)
	migrations := make([]migration, 0, len(entries))
	for _, entry := range entries {
		match := form.FindStringSubmatch(entry.Name())
		if match == nil {
			return nil, fmt.Errorf("read migrations: %q is not named like 0001_words.sql", entry.Name())
		}
		version, err := strconv.Atoi(match[1])
		first := len(migrations) == 0
		if err != nil || first && version != 1 || !first && version <= migrations[len(migrations)-1].version {
			return nil, fmt.Errorf("read migrations: found %q where a rising number was expected, the first 0001", entry.Name())
		}
		text, err := fs.ReadFile(dir, entry.Name())
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		migrations = append(migrations, migration{version, entry.Name(), string(text)})
	}
	return migrations, nil
}

// checkFile refuses, before anything is changed, a file that is not an SQLite
// database, is another application's, or has a schema above latest.
func checkFile(ctx context.Context, db *sql.DB, latest int) error {
	var application, version, objects int64
	err := transact(ctx, db, &sql.TxOptions{ReadOnly: true}, "read what it holds", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT
			(SELECT application_id FROM pragma_application_id),
			(SELECT user_version FROM pragma_user_version),
			(SELECT count(*) FROM sqlite_schema)`).Scan(&application, &version, &objects)
	})
	switch {
	case resultCode(err) == sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("it is a file of another kind, expected an SQLite database or no file yet: %w", err)
	case err != nil:
		return err
	case application != applicationID && (application != 0 || version != 0 || objects != 0):
		return fmt.Errorf("it is an SQLite database of another application (application id %#x), expected PairDB metadata (%#x) or no file yet",
			application, applicationID)
	case version > int64(latest):
		return fmt.Errorf("its schema has version %d, and this release knows versions up to %d: it was last opened by a newer release, which is needed to open it",
			version, latest)
	}
	return nil
}

// migrate applies what the file lacks. Each migration and the version that
// records it are one transaction under the file's write lock, so that a crash
// leaves a version behind that is whole.
func migrate(ctx context.Context, db *sql.DB, migrations []migration) error {
	for _, m := range migrations {
		err := transact(ctx, db, nil, "apply migration "+m.name, func(tx *sql.Tx) error {
			var version int
			if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
				return err
			}
			if version >= m.version {
				return nil
			}
			if _, err := tx.ExecContext(ctx, m.sql); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "PRAGMA user_version = "+strconv.Itoa(m.version))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
