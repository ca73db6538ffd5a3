package coord

import (
	"errors"
	"fmt"
)

// StaleRingError is how a replica refuses a call whose epoch is lower than the
// one it knows. It wraps ErrReplicaRefused: the call has had no effect.
type StaleRingError struct {
	Epoch uint64 // that the replica knows
}

func (e *StaleRingError) Error() string {
	return fmt.Sprintf("%v: the ring is outdated, the replica knows epoch %d", ErrReplicaRefused, e.Epoch)
}

// Unwrap makes the error an ErrReplicaRefused.
func (e *StaleRingError) Unwrap() error { return ErrReplicaRefused }

// newerEpoch is the epoch that a replica knows which refused a call for its
// lower one; 0 for every other error, and none.
func newerEpoch(err error) uint64 {
	if err == nil {
		return 0 // without an allocation
	}
	stale := (*StaleRingError)(nil)
	if !errors.As(err, &stale) {
		return 0
	}
	return stale.Epoch
}
