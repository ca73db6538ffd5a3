package coord

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Tenant is what the engine knows of a tenant.
type Tenant struct {
	ID                string
	ReplicationFactor int
	CreatedAt         time.Time // to the second
	UpdatedAt         time.Time // to the second
	Limits            TenantLimits
	// Space is the name under which storage nodes keep the tenant's keys. It is
	// the ID until a tenant of that id was deleted: the next one gets another,
	// so that it never sees what is still being removed.
	Space string
	// Since is the epoch at which the tenant got its replication factor: the
	// topology's when the tenant was made, or that of the step that changed it.
	Since uint64
	// AsOf is the topology's epoch when this was read.
	AsOf uint64
}

// CheckEpoch fails, with ErrMigrationConflict, where the tenant was made or read
// at another epoch than the one that it was decided on; 0 is not checked.
func (t *Tenant) CheckEpoch(epoch uint64) error {
	if epoch == 0 || t.AsOf == epoch {
		return nil
	}
	return fmt.Errorf("%w: tenant %q was decided on at epoch %d, and the epoch is %d now", ErrMigrationConflict, t.ID, epoch, t.AsOf)
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
	ID           string     `json:"id"`
	UUID         string     `json:"uuid,omitempty"` // of its data directory; empty until it was first reached
	Host         string     `json:"host"`
	Port         int        `json:"port"`
	VirtualNodes int        `json:"virtual_nodes"`
	Status       NodeStatus `json:"status"`
	// Unswept, where it is not 0, is the epoch since which the node may hold
	// keys that it does not own. Until they are dropped it is given no range.
	Unswept uint64 `json:"unswept,omitempty"`
}

// Address is the node's HOST:PORT.
func (n StorageNode) Address() string { return net.JoinHostPort(n.Host, strconv.Itoa(n.Port)) }

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

// TopologyStep is a change of the topology with what belongs to it.
type TopologyStep struct {
	Next Topology
	// LeastReplicas is the condition that no tenant has fewer replicas, before
	// the step. No tenant can be created meanwhile that breaks it. 0: there is none.
	LeastReplicas int
	// MostReplicas is likewise the condition that no tenant has more replicas.
	MostReplicas int
	// Resize, where it is not nil, gives a tenant another replication factor:
	// its Since becomes Next.Epoch, its UpdatedAt now. A tenant that is gone, and
	// one of the same id that has followed it, are left out.
	Resize *Resize
}

// CheckReplicas fails, with ErrMigrationConflict, where the fewest or the most
// replicas of any tenant break the step's conditions; both are 0 without tenants.
func (s *TopologyStep) CheckReplicas(fewest, most int) error {
	switch {
	case most == 0:
	case fewest < s.LeastReplicas:
		return fmt.Errorf("%w: a tenant has replication factor %d, and the change is right only where all have %d or more",
			ErrMigrationConflict, fewest, s.LeastReplicas)
	case s.MostReplicas > 0 && most > s.MostReplicas:
		return fmt.Errorf("%w: a tenant has replication factor %d, and the change is right only where all have %d or less",
			ErrMigrationConflict, most, s.MostReplicas)
	}
	return nil
}

// Resize is a tenant's new replication factor.
type Resize struct {
	Tenant            string
	Space             string // of that tenant; empty: whichever has the id
	ReplicationFactor int
}

// MaxCheckpoint bounds a checkpoint, in bytes.
const MaxCheckpoint = 64 << 10

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
	// CreateTenant fails with ErrTenantExists, and sets the times, the space and
	// the epoch since when. Where epoch is not 0 and the topology has another one
	// by then, the decision to create it is outdated: it fails with
	// ErrMigrationConflict, unless the tenant exists.
	CreateTenant(ctx context.Context, id string, replicationFactor int, epoch uint64) (Tenant, error)
	// SetTenantLimits returns the tenant as it is then; ErrTenantNotFound.
	SetTenantLimits(ctx context.Context, id string, change LimitsChange) (Tenant, error)
	// DeleteTenant fails with ErrTenantNotFound. The tenant's space is listed by
	// DeletedSpaces from then on.
	DeleteTenant(ctx context.Context, id string) error
	// DeletedSpaces lists spaces of deleted tenants whose keys are still to be
	// removed, in byte order, at most limit of those greater than after.
	DeletedSpaces(ctx context.Context, after string, limit int) ([]string, error)
	// ForgetSpace takes a space off that list; it does nothing where it is not on it.
	ForgetSpace(ctx context.Context, space string) error
	// Tenants lists at most limit tenants with ids greater than after, by id in byte order.
	Tenants(ctx context.Context, after string, limit int) ([]Tenant, error)
	// ReplicationFactors lists those that tenants have, each once, in ascending order.
	ReplicationFactors(ctx context.Context) ([]int, error)

	// Topology returns a consistent snapshot; the zero Topology before the
	// first SetTopology.
	Topology(ctx context.Context) (Topology, error)
	// SetTopology takes a step: it replaces the topology if its version is
	// step.Next.Version - 1 and the step's condition holds, with what else
	// belongs to the step, in one transaction. Where the version is another, the
	// topology that the decision was made on is outdated: the call fails with
	// ErrMigrationConflict, and so where the condition does not hold. Where the
	// store did not answer, the step may have been taken all the same.
	SetTopology(ctx context.Context, step TopologyStep) error

	// Checkpoint returns what was last saved under a name, nil where nothing is.
	Checkpoint(ctx context.Context, name string) ([]byte, error)
	// SaveCheckpoint saves at most MaxCheckpoint bytes under a name, in place of
	// what was saved there; nil removes it.
	SaveCheckpoint(ctx context.Context, name string, data []byte) error

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
