package coord

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// Tenant is what the engine knows of a tenant.
type Tenant struct {
	ID                string
	ReplicationFactor int
	CreatedAt         time.Time // to the second
	UpdatedAt         time.Time // to the second
	Limits            TenantLimits
}

// NodeStatus is a storage node's membership, not its reachability.
type NodeStatus string

// An active node holds its ranges, an inactive one is joining, a draining one is leaving.
const (
	NodeActive   NodeStatus = "active"
	NodeInactive NodeStatus = "inactive"
	NodeDraining NodeStatus = "draining"
)

// StorageNode is a registered storage node.
type StorageNode struct {
	ID           string
	UUID         string // of its data directory; empty until it was first reached
	Host         string
	Port         int
	VirtualNodes int
	Status       NodeStatus
}

// Address is the node's HOST:PORT.
func (n StorageNode) Address() string { return net.JoinHostPort(n.Host, strconv.Itoa(n.Port)) }

// Topology is the registered nodes and the epoch that they make.
type Topology struct {
	Epoch uint64        // counted up by each change of membership, from 0 with no node
	Nodes []StorageNode // by id
}

// Ring is the ring of the active nodes.
func (t Topology) Ring() (*ring.Ring, error) {
	members := make([]ring.Node, 0, len(t.Nodes))
	for _, n := range t.Nodes {
		if n.Status == NodeActive {
			members = append(members, ring.Node{ID: n.ID, VirtualNodes: n.VirtualNodes})
		}
	}
	return ring.New(t.Epoch, members)
}

// Identity is a node id held by this process alone.
type Identity struct {
	Writer Writer
	// Lost is closed when the id is known to be held no longer: another process
	// has it, or has had it since. Nil where that cannot happen. The process must
	// then take the id again, in its next incarnation, or end.
	Lost <-chan struct{}
	// Release gives the id back. The operating system or the database does so
	// too when the process dies.
	Release func() error
}

// AutoNodeID asks AcquireIdentity for the lowest free id of the form
// coordinator-N, N from 1, so that processes that come and go reuse a few names
// and vector clocks stay short.
const AutoNodeID = "auto"

// Change is something in metadata that another coordinator may have changed.
type Change struct {
	Tenant   string // a tenant was created, changed or deleted
	Topology bool   // the nodes or the epoch have changed
	Lost     bool   // changes may have gone unnoticed: anything may have changed
}

// Watcher is metadata that tells of changes, its own included.
type Watcher interface {
	// Watch calls changed for each change, one at a time and within a second,
	// until ctx ends, and returns then. While the store does not answer it
	// tries again by itself; when it is back it reports Lost.
	Watch(ctx context.Context, changed func(Change))
}

// Metadata stores what coordinators share: tenants, nodes, identities. All
// methods are safe for concurrent use, keep to their context, and wrap
// ErrMetadataUnavailable where the store did not answer.
type Metadata interface {
	// AcquireIdentity takes nodeID for this process and counts its
	// incarnation up, from 1. Where another live process holds the id it waits
	// until ctx ends, and then fails with ErrNodeIDTaken, naming the holder.
	// AutoNodeID takes a free id; the Identity says which.
	AcquireIdentity(ctx context.Context, nodeID string) (Identity, error)

	// Tenant fails with ErrTenantNotFound.
	Tenant(ctx context.Context, id string) (Tenant, error)
	// CreateTenant fails with ErrTenantExists, and sets the times.
	CreateTenant(ctx context.Context, id string, replicationFactor int) (Tenant, error)
	// SetReplicationFactor returns the tenant as it was and as it is; ErrTenantNotFound.
	SetReplicationFactor(ctx context.Context, id string, replicationFactor int) (before, after Tenant, err error)
	// SetTenantLimits returns the tenant as it is then; ErrTenantNotFound.
	SetTenantLimits(ctx context.Context, id string, change LimitsChange) (Tenant, error)
	// DeleteTenant fails with ErrTenantNotFound.
	DeleteTenant(ctx context.Context, id string) error
	// Tenants lists at most limit tenants with ids greater than after, by id in byte order.
	Tenants(ctx context.Context, after string, limit int) ([]Tenant, error)
	// MaxReplicationFactor is the greatest of any tenant, 0 without one.
	MaxReplicationFactor(ctx context.Context) (int, error)

	// Topology returns a consistent snapshot.
	Topology(ctx context.Context) (Topology, error)
	// PutNode adds a node or replaces the one with its id. The epoch must be
	// the current one: where it is not, the topology that the decision was
	// made on is outdated, and the call fails with ErrMigrationConflict. It
	// returns the new topology, whose epoch is greater by one exactly where
	// membership (ids, status, virtual nodes, UUIDs) has changed.
	PutNode(ctx context.Context, epoch uint64, node StorageNode) (Topology, error)
	// RemoveNode takes a node out, likewise; ErrNodeNotFound. Its id stays known.
	RemoveNode(ctx context.Context, epoch uint64, id string) (Topology, error)
	// NodeKnown tells whether a node of this id was ever added, even if removed since.
	NodeKnown(ctx context.Context, id string) (bool, error)

	// AcquireLease makes holder the owner of a lease until ttl from now, by the
	// store's clock, if nobody else owns it; an owner renews it so. It tells
	// whether holder owns it now.
	AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error)
	// ReleaseLease ends holder's lease; without one it does nothing.
	ReleaseLease(ctx context.Context, name, holder string) error

	// Ping tells whether the store answers.
	Ping(ctx context.Context) error
	Close() error
}
