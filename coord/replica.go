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
	// CallDrop makes the replica forget the key if Version is what it holds. A
	// tombstone, or a version that has expired, raises what the replica answers
	// as Floor from then on.
	CallDrop
)

func (k CallKind) String() string {
	return [...]string{"none", "head", "read", "apply", "drop"}[k]
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
	Tenant   string // the tenant's space
	Key      string
	Token    ring.Token // of the tenant's id and Key
	Epoch    uint64     // of the ring that chose the replica; one that knows a higher one refuses with a *StaleRingError
	Deadline time.Time  // after it the replica may drop the call; its answer is worth nothing
	Version  Version    // of a CallApply, and its head of a CallDrop; the replica must not change its slices
	Owned    bool       // the replica may keep the slices of Version; else it copies what it needs after the call
	// Heard is what the replica said of its own time before the version was
	// decided on, and Boot in which of its lives. It refuses an apply or drop
	// from another life, or that is older than MessageLifetime. Boot 0: unknown,
	// nothing is checked.
	Boot  uint64
	Heard time.Duration
	// Trace is the span that the call is; none where it is not traced.
	Trace TraceContext

	// Held is what the replica holds when it answers, after an apply no less
	// than Version: with its value for CallRead, without for the others. The
	// receiver owns the slices. It is meaningless where Err is set.
	Held Version
	// Floor, in the answer to a CallHead or CallRead, is the greatest timestamp
	// that was dropped from around the key after its deletion: a new version
	// must be above it.
	Floor int64
	// Err tells why there is no answer. It wraps ErrReplicaRefused where the
	// call has had no effect and will have none, else ErrReplicaUnavailable.
	Err error

	// Caller is told when the call is finished.
	Caller Caller
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
	// Heard is the reading of the node's own clock that was heard last, and the
	// number of its life; zeros where none was heard. The clock counts from the
	// node's start and never falls. Nodes that are not asked anything are
	// heard at least each MessageLifetime / 4.
	Heard() (boot uint64, clock time.Duration)
	// Describe asks the node who it is and how full.
	Describe(context.Context) (NodeDescription, error)
	// Adopt tells the node of a topology, encoded, and its epoch. The node keeps
	// it, durably, unless it knows a higher epoch; it refuses calls of lower ones
	// from then on. A call of a higher epoch than it knows makes it adopt that
	// epoch too, without the topology.
	Adopt(ctx context.Context, epoch uint64, topology []byte) error
	// Scan lists keys in the order of Position.
	Scan(context.Context, ScanRequest) (ScanPage, error)
	// Sums adds up what the node holds in spans, so that nodes can be compared
	// without listing keys.
	Sums(context.Context, SumRequest) ([]SpanSums, error)
	// Floors makes what the node answers as Call.Floor for the keys of ranges at
	// least what is given, durably before it answers, and returns the floors of
	// all ranges that have one, in order. Epoch is as in ScanRequest. It does not
	// keep the slice, and the caller owns the one that is returned.
	Floors(ctx context.Context, epoch uint64, raise []RangeFloor) ([]RangeFloor, error)
	// Close finishes what is under way with ErrReplicaUnavailable and frees
	// what the replica holds. No method may be called after it.
	Close() error
}

// MessageLifetime is how long after it was sent a mutation may reach a node. A
// later one is refused: it might bring back what was deleted and forgotten since.
const MessageLifetime = time.Minute

// NodeDescription is what a storage node says of itself.
type NodeDescription struct {
	ID               string
	UUID             string // made when the data directory was; a replaced disk has another
	Keys             int64  // estimate; tombstones count
	Bytes            int64  // estimate of what they take, values included
	DiskUsedFraction float64
	Epoch            uint64 // the highest that the node knows
	Topology         []byte // encoded, the newest that the node was told of; nil for none
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

// ScanRequest asks for the keys in a span of tokens, after a position.
type ScanRequest struct {
	// Epoch is that of the ring that the scan is made for; 0 is not checked.
	// A page at an epoch holds all that calls of lower ones have done, and none
	// of them does anything after it.
	Epoch  uint64
	Span   ring.Span
	Tenant string    // a space; empty: of all
	Prefix string    // of the keys
	After  *Position // nil: from the start of the span
	// DeadFor, where it is not 0, leaves out all but tombstones and expired
	// versions that the node has held for so long, counted on its own clock and
	// in its present life, and whose timestamp its wall clock has passed.
	DeadFor time.Duration
	Limit   int // at most so many keys, 1 to MaxScanPage
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

// SumRequest asks for the sums of spans.
type SumRequest struct {
	Epoch uint64      // as in ScanRequest
	Spans []ring.Span // at most MaxSumSpans
	Space string      // of one tenant; empty: of all
}

// MaxSumSpans bounds the spans of a SumRequest.
const MaxSumSpans = 4096

// SpanSums is what a node holds in a span, by space; spaces without a key are
// left out.
type SpanSums []SpaceSum

// SpaceSum is what a node holds of a space. Two nodes that hold the same
// versions of the same keys have the same sum, and others, but by chance, have not.
type SpaceSum struct {
	Space string
	Keys  int64
	Sum   uint64 // exclusive or of VersionSum over the keys
}
