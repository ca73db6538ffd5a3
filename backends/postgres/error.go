package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pairdb/coordinator/coord"
)

// failed names what was attempted and tells the kinds of failure apart: an
// answer of the engine's own kind stays as it is, a statement that the server
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
	return unanswered(ctx, coord.ErrMetadataUnavailable, doing, err)
}

// unanswered is an error of a kind that means that the store did not answer.
func unanswered(ctx context.Context, kind error, doing string, err error) error {
	switch cause := ctx.Err(); {
	case cause != nil && !errors.Is(err, cause):
		err = fmt.Errorf("%w: %w", cause, err)
	case cause == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		// It was this package's own deadline: the caller's must not be blamed.
		err = fmt.Errorf("no answer in time: %v", err)
	}
	return fmt.Errorf("%w: %s: %w", kind, doing, err)
}

func isAnswer(err error) bool {
	return errors.Is(err, coord.ErrTenantNotFound) || errors.Is(err, coord.ErrTenantExists) ||
		errors.Is(err, coord.ErrMigrationConflict) ||
		errors.Is(err, coord.ErrNodeIDTaken) || errors.Is(err, coord.ErrMetadataUnavailable)
}

// SQLSTATE classes and codes of Postgres.
const (
	classConnection       = "08"
	classUnsupported      = "0A"
	classData             = "22"
	classConstraint       = "23"
	classAuthorization    = "28"
	classCatalogName      = "3D"
	classSyntaxOrAccess   = "42"
	classLimit            = "54"
	classShutdown         = "57P"
	codeProtocolViolation = "08P01"
	codeReadOnly          = "25006"
)

// code is the server's SQLSTATE, empty where err is not the server's.
func code(err error) string {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return ""
	}
	return e.Code
}

func hasClass(err error, classes ...string) bool {
	state := code(err)
	for _, class := range classes {
		if state != "" && strings.HasPrefix(state, class) {
			return true
		}
	}
	return false
}

// isRefusal tells that the server will answer the same statement with the same
// error however often it is asked.
func isRefusal(err error) bool {
	return hasClass(err, classUnsupported, classData, classConstraint, classSyntaxOrAccess, classLimit)
}

// isMisdirected tells of an address, while opening, that will not become right
// by waiting: the server knows neither the user and password nor the database.
func isMisdirected(err error) bool {
	return hasClass(err, classAuthorization, classCatalogName)
}

// isBroken tells that a connection that was there broke: another one may do.
func isBroken(err error) bool {
	if err == nil || isAnswer(err) || noRows(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return false
	}
	return code(err) == "" || hasClass(err, classConnection, classShutdown, codeReadOnly)
}
