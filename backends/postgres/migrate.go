package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration takes the schema to version. Once released it never changes.
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

var migrationName = regexp.MustCompile(`^[0-9]{4}_[a-z0-9_]+\.sql$`)

// readMigrations reads a directory of files NNNN_words.sql with rising numbers, from
// 0001. Numbers may be missing.
func readMigrations(dir fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(dir, ".") // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	var migrations []migration
	for _, entry := range entries {
		name := entry.Name()
		if !migrationName.MatchString(name) {
			return nil, fmt.Errorf("read migrations: %q is not named like 0001_words.sql", name)
		}
		version, err := strconv.Atoi(name[:4])
		first := len(migrations) == 0
		if err != nil || first && version != 1 || !first && version <= latest(migrations) {
			return nil, fmt.Errorf("read migrations: found %q where a rising number was expected, the first 0001", name)
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		migrations = append(migrations, migration{version, name, string(text)})
	}
	return migrations, nil
}

// latest is the greatest version of migrations, of which there is one at least.
func latest(migrations []migration) int { return migrations[len(migrations)-1].version }

// queryer is a connection or a transaction on one.
type queryer interface {
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}

// schemaVersion is 0 where there are no tables yet. It reads the catalogue as a
// table: functions such as to_regclass answer from a cache, which a wait for an
// advisory lock does not refresh.
func schemaVersion(ctx context.Context, q queryer, namespace uint32, latest int) (version int, err error) {
	var exists bool
	if err := q.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE relname = 'pairdb_schema' AND relnamespace = $1)",
		namespace).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	if err := q.QueryRow(ctx, "SELECT version FROM pairdb_schema", pgx.QueryExecModeExec).Scan(&version); err != nil {
		return 0, err
	}
	if version > latest {
		return 0, fmt.Errorf("%w: its schema has version %d, and this release knows versions up to %d: it was last opened by a newer release, which is needed to open it",
			errUnsuitable, version, latest)
	}
	return version, nil
}

// migrate applies what the database lacks, all or nothing, in a transaction
// under an advisory lock of the schema: of those who start at once one does it.
func migrate(ctx context.Context, conn *pgx.Conn, namespace uint32, migrations []migration) error {
	version, err := schemaVersion(ctx, conn, namespace, latest(migrations))
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if version == latest(migrations) {
		return nil
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	err = func() error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", lockKey("schema", fmt.Sprint(namespace), "")); err != nil {
			return fmt.Errorf("wait for others who migrate: %w", err)
		}
		version, err := schemaVersion(ctx, tx, namespace, latest(migrations))
		if err != nil {
			return fmt.Errorf("read the schema's version: %w", err)
		}
		for _, m := range migrations {
			if m.version <= version {
				continue
			}
			if _, err := tx.Exec(ctx, m.sql); err != nil {
				return fmt.Errorf("apply migration %s: %w", m.name, err)
			}
		}
		_, err = tx.Exec(ctx, "UPDATE pairdb_schema SET version = $1", latest(migrations))
		return err
	}()
	if err != nil {
		_ = tx.Rollback(ctx) // the connection is dropped where it fails
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
