package rpc

import (
	"context"

	"github.com/pairdb/coordinator/coord"
)

// Engine is what the handlers call; *coord.Coordinator is one. Errors wrap
// coord's sentinels, those of Write are *coord.WriteError. The handlers have
// checked sizes, characters and ranges before they call. Operations keep to
// the deadlines of their requests.
type Engine interface {
	// Write writes a value or, with Delete set, deletes the key.
	Write(context.Context, coord.WriteRequest) (coord.WriteResult, error)
	// Read fails with ErrKeyNotFound.
	Read(context.Context, coord.ReadRequest) (coord.ReadResult, error)
	// StartWrite and StartRead return at once; the waiter is told the answer
	// exactly once, at the latest when the request's deadline has passed.
	StartWrite(coord.WriteRequest, coord.Waiter)
	StartRead(coord.ReadRequest, coord.Waiter)
	// Keys returns a page of a tenant's keys.
	Keys(context.Context, coord.KeysRequest) (coord.KeysPage, error)

	CreateTenant(ctx context.Context, id string, replicationFactor int) (coord.Tenant, error)
	// Tenant reads from metadata, and from a cache only while that does not answer.
	Tenant(ctx context.Context, id string) (coord.Tenant, error)
	// Tenants lists at most limit tenants with ids greater than after, by id.
	Tenants(ctx context.Context, after string, limit int) ([]coord.Tenant, error)
	// SetReplicationFactor returns the tenant as it is, and the migration that
	// was begun, which has no id where none is needed.
	SetReplicationFactor(ctx context.Context, id string, replicationFactor int) (coord.Tenant, coord.Migration, error)
	DeleteTenant(ctx context.Context, id string) error
	SetTenantLimits(ctx context.Context, id string, change coord.LimitsChange) (coord.Tenant, error)
	// KnownLimits returns a tenant's own limits where they are at hand.
	KnownLimits(id string) (limits coord.TenantLimits, known bool)

	// AddNode asks the node for its UUID, and begins to make it a member. The
	// migration has no id where none is needed.
	AddNode(context.Context, coord.StorageNode) (coord.Migration, error)
	RemoveNode(ctx context.Context, id string, how coord.Removal) (coord.Migration, error)
	// Plan tells what a change of members would move.
	Plan(context.Context, coord.PlanRequest) (coord.Plan, error)
	Migration(ctx context.Context, id string) (coord.MigrationState, error)
	Migrations(context.Context) ([]coord.MigrationState, error)
	CancelMigration(ctx context.Context, id string) error
	// Repair compares replicas, and tells how far it has come.
	Repair(ctx context.Context, req coord.RepairRequest, tell func(coord.RepairProgress)) error
	// Export hands all versions of a tenant to send, page by page.
	Export(ctx context.Context, req coord.ExportRequest, send func(coord.ExportPage) error) error
	// Import brings versions to a quorum of replicas, which keep greater ones.
	Import(ctx context.Context, tenant string, versions []coord.KeyVersion) (coord.ImportResult, error)
	// Nodes lists the registered nodes by id.
	Nodes(context.Context) ([]coord.NodeState, error)
	Status(context.Context) coord.Status
	// Explain tells what an operation on a key would do, and does nothing.
	Explain(ctx context.Context, tenant, key string, level coord.Level) (coord.Explanation, error)
}
