package coord

import (
	"context"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// Hint is a version that a natural replica of its key has missed. It is not an
// acknowledgement: it only helps that replica to catch up.
type Hint struct {
	Node    string // who missed it
	Tenant  string
	Key     string
	Token   ring.Token // of Tenant and Key
	Version Version
	Since   time.Time // when the write began: its lifetime counts from then
}

// Size is what a hint counts for in bytes.
func (h *Hint) Size() int64 {
	return int64(len(h.Node) + len(h.Tenant) + len(h.Key) + len(h.Version.Value) + hintOverhead)
}

// hintOverhead is about what a hint takes besides its strings and value.
const hintOverhead = 128

// OwedRangeBits is how finely owed ranges are told apart: each is the tokens
// that share their first OwedRangeBits bits.
const OwedRangeBits = 12

// OwedRange is the number of a token's range.
func OwedRange(t ring.Token) uint16 { return uint16(t >> (64 - OwedRangeBits)) }

// Debt is what a node is owed: hints to be replayed, and ranges of which hints
// were lost, so that replicas must be compared.
type Debt struct {
	Node       string
	Hints      int64
	Bytes      int64     // of the hints, by Hint.Size
	Oldest     time.Time // the least Since of the hints; zero without any
	OwedRanges int
}

// Hints stores hints for all coordinators together. Methods are safe for
// concurrent use, keep to their context and wrap ErrMetadataUnavailable where
// the store did not answer.
type Hints interface {
	// PutHints stores a group of hints, all or none. Of two for the same node,
	// tenant and key the one with the greater version stays. What goes beyond
	// the store's bounds of count and bytes is left out, and its range owed to
	// the node instead, in the same transaction. Coordinator says who wrote them.
	PutHints(ctx context.Context, coordinator string, hints []Hint) error
	// Hints lists hints for node that coordinator wrote, or that were stored
	// before orphanedBefore, whoever wrote them (their coordinator may be
	// gone): those after a position, in order of position, at most limit of
	// them, and no more once their size exceeds maxBytes.
	Hints(ctx context.Context, node, coordinator string, orphanedBefore time.Time, after *Position, limit int, maxBytes int64) ([]Hint, error)
	// DropHints removes hints, except those that a greater version has replaced.
	DropHints(ctx context.Context, hints []Hint) error
	// ExpireHints removes hints whose Since is before a time, at most limit of
	// them, and owes their ranges instead. It returns how many it removed.
	ExpireHints(ctx context.Context, before time.Time, limit int) (int, error)
	// Owe marks ranges as owed to node.
	Owe(ctx context.Context, node string, ranges []uint16) error
	// Owed lists the ranges that are owed to node, in order.
	Owed(ctx context.Context, node string) ([]uint16, error)
	// Settle takes ranges off those that are owed to node.
	Settle(ctx context.Context, node string, ranges []uint16) error
	// Debts lists what nodes are owed, by node; those owed nothing are left out.
	Debts(ctx context.Context) ([]Debt, error)
}
