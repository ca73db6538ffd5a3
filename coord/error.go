package coord

import (
	"errors"
	"fmt"
	"strings"
)

// Kinds of failure. Every error of this package wraps one of them; tell them
// apart with errors.Is.
var (
	ErrInvalidRequest           = errors.New("invalid request")
	ErrInvalidReplicationFactor = errors.New("invalid replication factor")
	ErrTenantNotFound           = errors.New("tenant not found")
	ErrTenantExists             = errors.New("tenant already exists")
	ErrNodeNotFound             = errors.New("node not found")
	ErrNodeInUse                = errors.New("node in use")
	ErrMigrationNotFound        = errors.New("migration not found")
	ErrMigrationConflict        = errors.New("topology change refused")
	// ErrKeyNotFound says exactly this and nothing of the key: clients
	// classify by the words in it.
	ErrKeyNotFound            = errors.New("key not found")
	ErrIdempotencyConflict    = errors.New("idempotency key was used for another operation or value")
	ErrNoQuorum               = errors.New("quorum not reached")
	ErrDeadlineExceeded       = errors.New("deadline exceeded")
	ErrOverloaded             = errors.New("overloaded")
	ErrShuttingDown           = errors.New("shutting down")
	ErrIdempotencyUnavailable = errors.New("idempotency store unavailable")
	ErrMetadataUnavailable    = errors.New("metadata store unavailable")
	// ErrNodeIDTaken: another live process holds the node id.
	ErrNodeIDTaken = errors.New("node id is in use")

	// ErrReplicaUnavailable: the replica did not answer; the call may or may
	// not have had its effect.
	ErrReplicaUnavailable = errors.New("replica unavailable")
	// ErrReplicaRefused: the replica, or the way to it, turned the call down;
	// it has had no effect and will have none.
	ErrReplicaRefused = errors.New("replica refused")
	// ErrDiskFull is a refusal for want of space; it wraps ErrReplicaRefused.
	ErrDiskFull = fmt.Errorf("%w: disk full", ErrReplicaRefused)
)

// Outcome says what a failed write did.
type Outcome uint8

const (
	// InDoubt: it may have taken effect, may take effect yet (once), or never.
	InDoubt Outcome = iota
	// NotApplied: it has had no effect and will have none; retry freely.
	NotApplied
)

func (o Outcome) String() string {
	switch o {
	case InDoubt:
		return "in_doubt"
	case NotApplied:
		return "not_applied"
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// WriteError is the failure of a write or delete, with its outcome. Every
// error that Coordinator.Write and Coordinator.Delete return is one.
type WriteError struct {
	Outcome Outcome
	Err     error
}

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// ReplicaError is why one replica did not count towards a quorum.
type ReplicaError struct {
	Node string
	Err  error
}

// QuorumError says which phase of an operation fell short, how many answers it
// needed and had, and what failed where. It is ErrNoQuorum.
type QuorumError struct {
	Phase string // what was attempted: "read", "read clocks for write", "write", ...
	Level Level
	Need  int
	Have  int
	// Side tells, while the key's replicas are changing, which set fell short:
	// those "before" the change, or those "after" it. Else it is empty.
	Side     string
	Replicas []ReplicaError
}

func (e *QuorumError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s: %d of %d required replicas answered", e.Phase, e.Level, e.Have, e.Need)
	if e.Side != "" {
		fmt.Fprintf(&b, " of those %s the change of topology that is under way", e.Side)
	}
	sep := ": "
	for _, r := range e.Replicas {
		fmt.Fprintf(&b, "%s%s: %v", sep, r.Node, r.Err)
		sep = "; "
	}
	return b.String()
}

func (e *QuorumError) Unwrap() error { return ErrNoQuorum }
