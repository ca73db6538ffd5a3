package coord

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// Topology is who holds what: the storage nodes, the change of them that is
// under way, and those that wait. It is one document, replaced as a whole by a
// compare-and-set on its version, so that every step of a change is atomic. Its
// methods are pure: they return what a step makes of it.
type Topology struct {
	// Version counts the writes of the document, from 1; 0 before the first.
	Version uint64 `json:"version"`
	// Epoch counts the steps that change which replicas a key has. Every call
	// on a replica carries it.
	Epoch uint64 `json:"epoch"`
	// TenantsEpoch is the last epoch that changed a tenant's replication factor.
	TenantsEpoch uint64        `json:"tenants_epoch,omitempty"`
	Nodes        []StorageNode `json:"nodes,omitempty"` // by id
	// Gone are the ids of nodes that were members once.
	Gone []string `json:"gone,omitempty"`
	// Migrations are those under way or waiting and the last that ended, oldest
	// first. At most one is under way.
	Migrations []Migration `json:"migrations,omitempty"`
}

// MigrationKind is what a migration changes.
type MigrationKind string

// Kinds of migration. A replacement gives a node's place to another data
// directory, which is empty.
const (
	MigrationAdd     MigrationKind = "add"
	MigrationReplace MigrationKind = "replace"
	MigrationRemove  MigrationKind = "remove"
	MigrationResize  MigrationKind = "resize"
)

// Type is what clients and operators know the kind by: node_addition,
// node_deletion or replication_change.
func (k MigrationKind) Type() string {
	switch k {
	case MigrationRemove:
		return "node_deletion"
	case MigrationResize:
		return "replication_change"
	}
	return "node_addition"
}

// MigrationStatus is how far a migration has come.
type MigrationStatus string

// A pending migration waits for others to end, or for nodes to be swept.
const (
	MigrationPending    MigrationStatus = "pending"
	MigrationInProgress MigrationStatus = "in_progress"
	MigrationCompleted  MigrationStatus = "completed"
	MigrationFailed     MigrationStatus = "failed"
	MigrationCancelled  MigrationStatus = "cancelled"
)

// Migration is a change of topology: two steps, each an epoch. The first makes
// every operation need both the replicas before and those after the change, the
// second only those after it, or again those before it where it is cancelled.
type Migration struct {
	ID     string          `json:"id"`
	Kind   MigrationKind   `json:"kind"`
	Status MigrationStatus `json:"status"`
	Node   string          `json:"node,omitempty"`   // id, of all kinds but a resize
	Tenant string          `json:"tenant,omitempty"` // id, of a resize
	Space  string          `json:"space,omitempty"`  // of that tenant: one that follows it has another
	From   int             `json:"from,omitempty"`   // replication factor, of a resize
	To     int             `json:"to,omitempty"`
	// Joining is the node that is added, or the data directory and address that
	// replace another's.
	Joining *StorageNode `json:"joining,omitempty"`
	// Force removes a node that is lost: the others rebuild what it held.
	Force bool `json:"force,omitempty"`
	// AcceptLoss lets a forced removal go on with whichever replicas are left,
	// though they may lack what was acknowledged.
	AcceptLoss bool `json:"accept_loss,omitempty"`
	// Joint is the epoch of the first step, 0 before it.
	Joint     uint64    `json:"joint,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	Error     string    `json:"error,omitempty"` // why it failed
}

// lostNode is the id of the node whose data is lost, so that it has no vote
// among the replicas before the change.
func (m *Migration) lostNode() string {
	if mutant == mutantReplacementVotes && m.Kind == MigrationReplace {
		return ""
	}
	if m.Kind == MigrationReplace || m.Kind == MigrationRemove && m.Force {
		return m.Node
	}
	return ""
}

// resizes tells whether the migration changes the replicas of a space's keys.
// One that an older release has begun knows the tenant by its id alone.
func (m *Migration) resizes(space string) bool {
	if m.Space == "" {
		return m.Tenant == tenantOfSpace(space)
	}
	return m.Space == space
}

const (
	// maxWaitingMigrations bounds the migrations that have not ended.
	maxWaitingMigrations = 100
	// keptMigrations is how many of those that ended are remembered.
	keptMigrations = 100
)

// topologyFormat is the format of an encoded topology.
const topologyFormat = 1

type encodedTopology struct {
	Format int `json:"format"`
	Topology
}

// Encode makes the binary form of t, as metadata and storage nodes keep it.
func (t Topology) Encode() ([]byte, error) {
	b, err := json.Marshal(encodedTopology{topologyFormat, t})
	if err != nil {
		return nil, fmt.Errorf("encode topology: %w", err)
	}
	return b, nil
}

// DecodeTopology reads what Encode made.
func DecodeTopology(b []byte) (Topology, error) {
	var e encodedTopology
	if err := json.Unmarshal(b, &e); err != nil {
		return Topology{}, fmt.Errorf("decode topology: %w: %w", ErrCorrupt, err)
	}
	if e.Format != topologyFormat {
		return Topology{}, fmt.Errorf("decode topology: %w: format %d; this release knows format %d", ErrCorrupt, e.Format, topologyFormat)
	}
	return e.Topology, nil
}

// Ring is the ring of the members as they are, or were before the change that
// is under way.
func (t *Topology) Ring() (*ring.Ring, error) {
	return t.ring(func(n *StorageNode) bool { return n.Status != NodeInactive })
}

// NextRing is the ring that the change under way leads to, nil where none does
// that changes the members.
func (t *Topology) NextRing() (*ring.Ring, error) {
	m := t.Current()
	if m == nil || m.Kind == MigrationResize || m.Kind == MigrationReplace {
		return nil, nil
	}
	return t.ring(func(n *StorageNode) bool {
		if n.ID == m.Node {
			return m.Kind == MigrationAdd
		}
		return n.Status != NodeInactive
	})
}

func (t *Topology) ring(member func(*StorageNode) bool) (*ring.Ring, error) {
	members := make([]ring.Node, 0, len(t.Nodes))
	for i := range t.Nodes {
		if n := &t.Nodes[i]; member(n) {
			members = append(members, ring.Node{ID: n.ID, VirtualNodes: n.VirtualNodes})
		}
	}
	return ring.New(t.Epoch, members)
}

// Current is the migration under way, nil without one.
func (t *Topology) Current() *Migration {
	for i := range t.Migrations {
		if t.Migrations[i].Status == MigrationInProgress {
			return &t.Migrations[i]
		}
	}
	return nil
}

// Next is the migration that is to begin next, nil without one: the oldest, but
// one that rebuilds what a lost node held goes before the others. Keys have too
// few replicas until then, and others may wait for the lost node to be swept.
func (t *Topology) Next() (next *Migration) {
	for i := range t.Migrations {
		m := &t.Migrations[i]
		if m.Status != MigrationPending {
			continue
		}
		if m.lostNode() != "" {
			return m
		}
		if next == nil {
			next = m
		}
	}
	return next
}

// Migration is the one with an id, nil where there is none.
func (t *Topology) Migration(id string) *Migration {
	for i := range t.Migrations {
		if t.Migrations[i].ID == id {
			return &t.Migrations[i]
		}
	}
	return nil
}

// Node is the registered node with an id, nil where there is none.
func (t *Topology) Node(id string) *StorageNode {
	at, found := slices.BinarySearchFunc(t.Nodes, id, compareNodeID)
	if !found {
		return nil
	}
	return &t.Nodes[at]
}

// Known tells whether a node of this id is registered, or was a member once.
func (t *Topology) Known(id string) bool {
	_, gone := slices.BinarySearch(t.Gone, id)
	return gone || t.Node(id) != nil
}

// Members is how many nodes hold ranges, as it is or was before the change
// that is under way.
func (t *Topology) Members() (n int) {
	for i := range t.Nodes {
		if t.Nodes[i].Status != NodeInactive {
			n++
		}
	}
	return n
}

// unfinished calls f for the migrations that have not ended.
func (t *Topology) unfinished(f func(*Migration) bool) *Migration {
	for i := range t.Migrations {
		m := &t.Migrations[i]
		if (m.Status == MigrationPending || m.Status == MigrationInProgress) && f(m) {
			return m
		}
	}
	return nil
}

// next is a copy of t to be changed, as the following version.
func (t *Topology) next() Topology {
	n := *t
	n.Version++
	n.Nodes = slices.Clone(t.Nodes)
	n.Gone = slices.Clone(t.Gone)
	n.Migrations = slices.Clone(t.Migrations)
	return n
}

func compareNodeID(n StorageNode, id string) int {
	switch {
	case n.ID < id:
		return -1
	case n.ID > id:
		return 1
	}
	return 0
}

func (t *Topology) setNode(n StorageNode) {
	at, found := slices.BinarySearchFunc(t.Nodes, n.ID, compareNodeID)
	if found {
		t.Nodes[at] = n
	} else {
		t.Nodes = slices.Insert(t.Nodes, at, n)
	}
}

func (t *Topology) dropNode(id string) {
	t.Nodes = slices.DeleteFunc(t.Nodes, func(n StorageNode) bool { return n.ID == id })
	if at, found := slices.BinarySearch(t.Gone, id); !found {
		t.Gone = slices.Insert(t.Gone, at, id)
	}
}

// WithMember is t with another member at once, in one step without copying. It
// is right only while every tenant has more replicas than there are members, and
// these are so many that no quorum can do without them: then each key's replicas
// only become more, and every quorum, which counts the replication factor, still
// meets every other.
func (t *Topology) WithMember(n StorageNode) Topology {
	next := t.next()
	n.Status = NodeActive
	next.setNode(n)
	next.Epoch++
	return next
}

// WithNode is t in which what is known of a node (its address, its UUID, how
// far it was swept) has changed, and nothing that operations depend on.
func (t *Topology) WithNode(n StorageNode) Topology {
	next := t.next()
	next.setNode(n)
	return next
}

// Queue is t with a migration that waits. A node that it adds is registered
// now. Queue fails with ErrMigrationConflict where another migration does not
// allow it.
func (t *Topology) Queue(m Migration) (Topology, error) {
	waiting := 0
	other := t.unfinished(func(u *Migration) bool {
		waiting++
		return m.Node != "" && u.Node == m.Node || m.Tenant != "" && u.Tenant == m.Tenant
	})
	if other != nil {
		return Topology{}, fmt.Errorf("%w: migration %s of the same %s has not ended", ErrMigrationConflict, other.ID, other.subject())
	}
	if waiting >= maxWaitingMigrations {
		return Topology{}, fmt.Errorf("%w: %d migrations wait already", ErrMigrationConflict, waiting)
	}
	next := t.next()
	if m.Kind == MigrationAdd {
		n := *m.Joining
		n.Status = NodeInactive
		next.setNode(n)
	}
	m.Status = MigrationPending
	next.Migrations = append(next.Migrations, m)
	return next, nil
}

func (m *Migration) subject() string {
	if m.Kind == MigrationResize {
		return "tenant"
	}
	return "node"
}

// Begin is t with the migration that is next under way: its first step. Now is
// the time that it is noted with.
func (t *Topology) Begin(id string, now time.Time) (Topology, error) {
	if c := t.Current(); c != nil {
		return Topology{}, fmt.Errorf("%w: migration %s is under way", ErrMigrationConflict, c.ID)
	}
	next := t.next()
	m := next.Migration(id)
	if m == nil || m.Status != MigrationPending {
		return Topology{}, fmt.Errorf("%w: migration %s does not wait", ErrMigrationConflict, id)
	}
	next.Epoch++
	m.Status, m.Joint, m.StartedAt = MigrationInProgress, next.Epoch, now
	switch n := next.Node(m.Node); m.Kind {
	case MigrationRemove:
		n.Status = NodeDraining
	case MigrationReplace:
		n.UUID, n.Host, n.Port, n.Unswept = m.Joining.UUID, m.Joining.Host, m.Joining.Port, 0
	}
	return next, nil
}

// Finish is t after the second step of the migration under way, with the
// change of a tenant's replication factor that belongs to it.
func (t *Topology) Finish(now time.Time) (Topology, *Resize, error) {
	next, m, err := t.end(MigrationCompleted, now)
	if err != nil {
		return Topology{}, nil, err
	}
	var resize *Resize
	switch m.Kind {
	case MigrationAdd:
		n := next.Node(m.Node)
		n.Status = NodeActive
		next.unsweep(func(n *StorageNode) bool { return n.ID != m.Node })
	case MigrationReplace:
	case MigrationRemove:
		next.dropNode(m.Node)
	case MigrationResize:
		resize = &Resize{m.Tenant, m.Space, m.To}
		next.TenantsEpoch = next.Epoch
		if m.To < m.From {
			next.unsweep(func(*StorageNode) bool { return true })
		}
	}
	next.forgetEnded()
	return next, resize, nil
}

// Cancel is t with a migration given up: one that waits is taken back, one
// under way ends as if it had not begun. One that is done or forced, or that has
// begun to rebuild what a lost node held, cannot be cancelled.
func (t *Topology) Cancel(id string, now time.Time) (Topology, error) {
	m := t.Migration(id)
	if m == nil {
		return Topology{}, fmt.Errorf("%w: %q", ErrMigrationNotFound, id)
	}
	switch {
	case m.EndedAt.IsZero() && m.Force:
		return Topology{}, fmt.Errorf("%w: migration %s was forced and cannot be cancelled", ErrMigrationConflict, id)
	case m.Status == MigrationPending:
		next := t.next()
		m := next.Migration(id)
		m.Status, m.EndedAt = MigrationCancelled, now
		if m.Kind == MigrationAdd {
			next.dropNode(m.Node)
		}
		next.forgetEnded()
		return next, nil
	case m.Status != MigrationInProgress:
		return Topology{}, fmt.Errorf("%w: migration %s has ended (%s)", ErrMigrationConflict, id, m.Status)
	case m.lostNode() != "":
		return Topology{}, fmt.Errorf("%w: migration %s rebuilds what a lost node held and cannot be cancelled", ErrMigrationConflict, id)
	}
	next, ended, err := t.end(MigrationCancelled, now)
	if err != nil {
		return Topology{}, err
	}
	switch ended.Kind {
	case MigrationAdd:
		next.dropNode(ended.Node)
	case MigrationRemove:
		next.Node(ended.Node).Status = NodeActive
		next.unsweep(func(n *StorageNode) bool { return n.ID != ended.Node })
	case MigrationResize:
		next.TenantsEpoch = next.Epoch
		if ended.To > ended.From {
			next.unsweep(func(*StorageNode) bool { return true })
		}
	}
	next.forgetEnded()
	return next, nil
}

// Consent is t in which a forced removal may go on with whichever replicas are
// left. Quorums become smaller by it, so that one under way gets another epoch:
// no phase of an operation counts answers by both rules.
func (t *Topology) Consent(id string) Topology {
	next := t.next()
	m := next.Migration(id)
	m.AcceptLoss = true
	if m.Status == MigrationInProgress {
		next.Epoch++
	}
	return next
}

// Fail is t with a migration that waits given up, because it cannot begin.
func (t *Topology) Fail(id, reason string, now time.Time) (Topology, error) {
	next := t.next()
	m := next.Migration(id)
	if m == nil || m.Status != MigrationPending {
		return Topology{}, fmt.Errorf("%w: migration %s does not wait", ErrMigrationConflict, id)
	}
	m.Status, m.Error, m.EndedAt = MigrationFailed, reason, now
	if m.Kind == MigrationAdd {
		next.dropNode(m.Node)
	}
	next.forgetEnded()
	return next, nil
}

// MustSweep lists the nodes that a migration gives ranges and that may still
// hold keys of such from before. They must be swept before it begins.
func (t *Topology) MustSweep(m *Migration) (nodes []string) {
	if mutant == mutantJoinUnswept {
		return nil
	}
	for i := range t.Nodes {
		n := &t.Nodes[i]
		gains := false
		switch m.Kind {
		case MigrationAdd:
			gains = n.ID == m.Node
		case MigrationRemove:
			gains = n.ID != m.Node && n.Status != NodeInactive
		case MigrationResize:
			gains = m.To > m.From && n.Status != NodeInactive
		}
		if gains && n.Unswept != 0 {
			nodes = append(nodes, n.ID)
		}
	}
	return nodes
}

// Swept is t in which a node holds nothing but what it owns. It is true only
// of the epoch at which the node was looked through.
func (t *Topology) Swept(id string, epoch uint64) (Topology, error) {
	n := t.Node(id)
	if n == nil || t.Epoch != epoch {
		return Topology{}, fmt.Errorf("%w: node %q was swept at epoch %d, and the epoch is %d now", ErrMigrationConflict, id, epoch, t.Epoch)
	}
	swept := *n
	swept.Unswept = 0
	return t.WithNode(swept), nil
}

func (t *Topology) end(status MigrationStatus, now time.Time) (Topology, Migration, error) {
	next := t.next()
	m := next.Current()
	if m == nil {
		return Topology{}, Migration{}, fmt.Errorf("%w: no migration is under way", ErrMigrationConflict)
	}
	next.Epoch++
	m.Status, m.EndedAt = status, now
	return next, *m, nil
}

// unsweep notes that nodes may hold keys that they do not own.
func (t *Topology) unsweep(which func(*StorageNode) bool) {
	for i := range t.Nodes {
		if n := &t.Nodes[i]; which(n) && n.Status != NodeInactive {
			n.Unswept = t.Epoch
		}
	}
}

// forgetEnded drops the oldest ended migrations beyond those that are kept.
func (t *Topology) forgetEnded() {
	ended := 0
	for i := range t.Migrations {
		if !t.Migrations[i].EndedAt.IsZero() {
			ended++
		}
	}
	t.Migrations = slices.DeleteFunc(t.Migrations, func(m Migration) bool {
		if m.EndedAt.IsZero() || ended <= keptMigrations {
			return false
		}
		ended--
		return true
	})
}
