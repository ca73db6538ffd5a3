package coord

import (
	"cmp"
	"context"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// CallKind is what a Call asks of a replica.
type CallKind uint8

const (
	// CallHead asks what the replica holds for the key, without the value.
	CallHead CallKind = iota + 1
	// CallRead asks for the whole version.
	CallRead
	// CallApply hands the replica a version to keep if it is greater than the one it holds.
	CallApply
)

func (k CallKind) String() string {
	return [...]string{"none", "head", "read", "apply"}[k]
}

// Intent is why a version is applied.
type Intent uint8

const (
	// IntentWrite marks the first sending of a new version. A replica refuses
	// one whose timestamp is too far ahead of its own clock (Admit).
	IntentWrite Intent = iota + 1
	// IntentRepair marks the sending of a version that already exists
	// somewhere: write-back, repair, a hint's replay, a repeated minted write.
	// It is never refused for its timestamp.
	IntentRepair
)

// Call is one operation on one replica: the request and, once finished, the
// answer. Its owner fills the request, hands it to exactly one Replica.Do, and
// must not touch it again before Done is called.
type Call struct {
	Kind     CallKind
	Intent   Intent // of a CallApply
	Tenant   string
	Key      string
	Token    ring.Token // of Tenant and Key
	Epoch    uint64     // of the ring that chose the replica
	Deadline time.Time  // after it the replica may drop the call; its answer is worth nothing
	Version  Version    // of a CallApply; the replica must not change its slices

	// Held is what the replica holds when it answers, after an apply no less
	// than Version: with its value for CallRead, without for the others. The
	// receiver owns the slices. It is meaningless where Err is set.
	Held Version
	// Err tells why there is no answer. It wraps ErrReplicaRefused where the
	// call has had no effect and will have none, else ErrReplicaUnavailable.
	Err error

	// Caller is told when the call is finished.
	Caller Caller
	// Slot is the caller's own mark on the call.
	Slot int
}

// Caller receives finished calls.
type Caller interface {
	// Done is called exactly once for each call, from any goroutine, perhaps
	// before Replica.Do has returned. It must not block.
	Done(*Call)
}

// Finish sets the call's error and reports the call to its caller.
func (c *Call) Finish(err error) {
	c.Err = err
	c.Caller.Done(c)
}

// Replica is a storage node as the engine uses it. For each key it keeps the
// greatest version it was ever given (Admit), atomically and, before it
// answers, durably. All methods are safe for concurrent use.
type Replica interface {
	// Do starts a call and returns at once; it never blocks. The call is
	// finished exactly once: with an answer, or with an error at the latest
	// shortly after its deadline. Where too many calls wait already it is
	// finished at once with ErrReplicaRefused. Calls may finish in any order.
	Do(*Call)
	// Unavailable tells, without asking the node, why a call would fail now:
	// nil where it might succeed.
	Unavailable() error
	// Describe asks the node who it is and how full.
	Describe(context.Context) (NodeDescription, error)
	// Scan lists keys in the order of Position.
	Scan(context.Context, ScanRequest) (ScanPage, error)
	// Close finishes what is under way with ErrReplicaUnavailable and frees
	// what the replica holds. No method may be called after it.
	Close() error
}

// NodeDescription is what a storage node says of itself.
type NodeDescription struct {
	ID               string
	UUID             string // made when the data directory was; a replaced disk has another
	Keys             int64  // estimate; tombstones count
	DiskUsedFraction float64
}

// Position is a place in a replica's key order: by token, then tenant, then key.
type Position struct {
	Token  ring.Token
	Tenant string
	Key    string
}

// Compare orders positions as replicas store them.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Token, q.Token), cmp.Compare(p.Tenant, q.Tenant), cmp.Compare(p.Key, q.Key))
}

// ScanRequest asks for the keys of a tenant that begin with Prefix and come
// after a position.
type ScanRequest struct {
	Tenant string
	Prefix string
	After  *Position // nil: from the start
	Limit  int       // at most so many keys, 1 to MaxScanPage
}

// MaxScanPage bounds the keys in one page of a scan.
const MaxScanPage = 10_000

// ScanPage is a part of a scan, in order.
type ScanPage struct {
	Items []ScanItem
	// Next is the position after which the scan goes on, nil at its end. It
	// may lie beyond the last item: a page may even be empty before the end,
	// since a replica bounds the work of one page, not only its answer.
	Next *Position
}

// ScanItem is one key that a replica holds, tombstones included.
type ScanItem struct {
	Position Position
	Head     Head
}
