// Package auth verifies bearer tokens: it tells who calls, and what a caller may
// reach. It knows nothing of RPCs.
package auth

import (
	"slices"
	"time"
)

// AllTenants as a token's tenant stands for every tenant.
const AllTenants = "*"

// AdminRole is the role that administers tenants and storage nodes.
const AdminRole = "admin"

// Principal is who a token says that a caller is. It never changes.
type Principal struct {
	Subject string // of the token; may be empty
	KeyID   string // of the key that has signed it
	tenants []string
	all     bool
	admin   bool
	from    time.Time // nbf, less the leeway; zero: at once
	until   time.Time // exp, and the leeway
	keys    *keySet
}

// May tells whether the principal may reach a tenant's data.
func (p *Principal) May(tenant string) bool { return p.all || slices.Contains(p.tenants, tenant) }

// Admin tells whether the principal has the admin role.
func (p *Principal) Admin() bool { return p.admin }
