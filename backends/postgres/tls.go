package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// renewTLS gives a connection that is about to be made the certificates and
// authorities that the URL's files hold now: they may have changed since. While
// they are at fault, what was read before stays in use.
func renewTLS(_ context.Context, config *pgx.ConnConfig) error {
	if config.TLSConfig == nil && len(config.Fallbacks) == 0 {
		return nil
	}
	if now, err := pgx.ParseConfig(config.ConnString()); err == nil {
		config.TLSConfig, config.Fallbacks = now.TLSConfig, now.Fallbacks
	}
	return nil
}
