package coord

import "time"

// WriteRequest asks for a value to be written or, with Delete set, for the key
// to be deleted. The engine checks none of the contract's limits on sizes and
// characters; its callers have.
type WriteRequest struct {
	Tenant string
	Key    string
	Value  []byte // the engine keeps it until every replica has answered; nobody may change it
	Delete bool
	// TTL is how long the value lives from its timestamp on; 0: for ever.
	TTL   time.Duration
	Level Level
	// IdempotencyKey makes the request take effect at most once, through
	// whichever coordinator it is sent. Empty: it is not remembered.
	IdempotencyKey string
	// Deadline is when the answer is due at the latest, with ErrDeadlineExceeded
	// if need be. Zero: there is none but the engine's own, and the context's.
	Deadline time.Time
	// Trace records what the write does. Nil: nothing is recorded.
	Trace *Trace
}

// WriteResult is the answer to a successful write or delete.
type WriteResult struct {
	Clock     Clock
	Replicas  int   // the acknowledgements that the level asked for, and got
	Level     Level // as asked, or the default
	Duplicate bool  // an earlier attempt had already decided the version
}

// ReadRequest asks for the value of a key.
type ReadRequest struct {
	Tenant string
	Key    string
	Level  Level
	// Deadline and Trace are as in WriteRequest.
	Deadline time.Time
	Trace    *Trace
}

// ReadResult is a value that was found. The receiver owns Value.
type ReadResult struct {
	Value     []byte
	Clock     Clock
	UpdatedAt time.Time
}

// KeysRequest asks for a page of a tenant's keys.
type KeysRequest struct {
	Tenant string
	Prefix string
	After  *Position // where the page before ended; nil: from the start
	Limit  int       // at most so many keys, 1 to MaxScanPage
}

// KeysPage is a page of keys, in the order of their tokens. Next is nil at the end.
type KeysPage struct {
	Keys []string
	Next *Position
}

// NodeState is what this coordinator knows of a registered storage node.
type NodeState struct {
	StorageNode
	Keys             int64         // as the node last said, tombstones included; 0 before it has
	DiskUsedFraction float64       // likewise
	Unavailable      error         // why it cannot be used now; nil where it can
	Latency          time.Duration // recent mean of its answers, 0 where there was none
	Debt             Debt          // what it is owed
}

// Status is what this coordinator knows of itself.
type Status struct {
	NodeID      string
	Incarnation uint64
	Epoch       uint64
	StartedAt   time.Time
	InFlight    int // operations under way
	Nodes       []NodeState
	Chores      ChoreStats
}
