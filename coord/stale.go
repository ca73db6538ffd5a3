package coord

import "fmt"

// StaleRingError is why a replica refused a call: the ring that chose the
// replica is older than the one that the replica knows. The call has had no
// effect and will have none.
type StaleRingError struct {
	Epoch uint64 // of the ring that the replica knows
}

func (e *StaleRingError) Error() string {
	return fmt.Sprintf("the ring has changed: the replica is at epoch %d", e.Epoch)
}

// Unwrap tells that the replica refused.
func (e *StaleRingError) Unwrap() error { return ErrReplicaRefused }
