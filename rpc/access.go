package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/pairdb/coordinator/rpc/auth"
)

// access is what a token must allow for an RPC to be served.
type access uint8

const (
	noAccess        access = iota
	accessTenant           // the request's tenant
	accessOwnTenant        // the tenant of each operation of a stream
	accessTenantOrAdmin
	accessAdmin
	accessAnyone // any good token
)

// accessRules holds the rule of every RPC: a server does not start with one
// that has none.
var accessRules = map[string]access{
	"WriteKeyValue":           accessTenant,
	"ReadKeyValue":            accessTenant,
	"DeleteKeyValue":          accessTenant,
	"Pipeline":                accessOwnTenant,
	"BatchWrite":              accessTenant,
	"BatchRead":               accessTenant,
	"ListKeys":                accessTenant,
	"Explain":                 accessTenantOrAdmin,
	"ScanKeys":                accessTenant,
	"CreateTenant":            accessAdmin,
	"UpdateReplicationFactor": accessAdmin,
	"GetTenant":               accessTenantOrAdmin,
	"ListTenants":             accessAdmin,
	"DeleteTenant":            accessAdmin,
	"GetTenantLimits":         accessAdmin,
	"SetTenantLimits":         accessAdmin,
	"AddStorageNode":          accessAdmin,
	"RemoveStorageNode":       accessAdmin,
	"ListStorageNodes":        accessAnyone,
	"GetMigrationStatus":      accessAdmin,
	"ListMigrations":          accessAdmin,
	"CancelMigration":         accessAdmin,
	"PlanNodeChange":          accessAdmin,
	"RepairReplicas":          accessAdmin,
	"ExportVersions":          accessAdmin,
	"ImportVersions":          accessAdmin,
	"GetStatus":               accessAnyone,
}

var (
	errUnauthenticated = errors.New("unauthenticated")
	errForbidden       = errors.New("forbidden")

	errNoToken      = fmt.Errorf("%w: want the metadata authorization: Bearer TOKEN", errUnauthenticated)
	errOtherTenant  = fmt.Errorf("%w: the token does not allow this", errForbidden)
	errNoAdmin      = fmt.Errorf("%w: the token lacks the role %s", errForbidden, auth.AdminRole)
	errUndeclared   = errors.New("the RPC has no access rule")
	errNoTenantSent = errors.New("the request names no tenant")
)

// caller is who sent a request or opened a stream; nil where nobody is asked
// for a token.
type caller struct {
	verifier  *auth.Verifier
	principal *auth.Principal
	token     string
}

// authenticate tells who calls. It fails with errUnauthenticated.
func (s *Server) authenticate(ctx context.Context) (*caller, error) {
	if s.opts.Auth == nil {
		return nil, nil
	}
	token, ok := bearer(ctx)
	if !ok {
		return nil, errNoToken
	}
	p, err := s.opts.Auth.Verify(token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnauthenticated, err)
	}
	return &caller{s.opts.Auth, p, token}, nil
}

// bearer returns the token that came with a request.
func bearer(ctx context.Context) (token string, ok bool) {
	sent := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(sent) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(sent[0], " ")
	return token, ok && strings.EqualFold(scheme, "bearer")
}

// ofTenant is a request of one tenant.
type ofTenant interface{ GetTenantId() string }

// allow fails with errForbidden where the caller's token does not allow a request.
func (a access) allow(c *caller, request any) error {
	if c == nil {
		return nil
	}
	p := c.principal
	switch a {
	case accessAnyone:
		return nil
	case accessAdmin:
		if p.Admin() {
			return nil
		}
		return errNoAdmin
	case accessTenantOrAdmin:
		if p.Admin() {
			return nil
		}
	case accessTenant:
	default:
		return errUndeclared
	}
	of, ok := request.(ofTenant)
	if !ok {
		return errNoTenantSent
	}
	return c.mayReach(of.GetTenantId())
}

// mayReach fails with errForbidden where the caller's token does not allow a
// tenant. One that cannot exist is told to be invalid, whoever asks.
func (c *caller) mayReach(tenant string) error {
	if c == nil || c.principal.May(tenant) {
		return nil
	}
	if err := checkTenant(tenant); err != nil {
		return err
	}
	return errOtherTenant
}

// stillGood fails with errUnauthenticated once the caller's token has ended.
func (c *caller) stillGood() error {
	if c == nil {
		return nil
	}
	if err := c.verifier.StillGood(c.principal, c.token); err != nil {
		return fmt.Errorf("%w: %w", errUnauthenticated, err)
	}
	return nil
}
