package coord

import (
	"fmt"
	"time"
)

// DefaultMaxClockOffset is how far ahead of a clock a timestamp may be before
// it is taken for the mark of a broken clock.
const DefaultMaxClockOffset = time.Minute

// justAbove is how far above what a replica holds, or has dropped, a new version
// may always be, however far ahead both are of the replica's clock. A key that
// once got a timestamp from a broken clock is written just above it from then
// on, and that must go on working. One second holds a billion such writes.
const justAbove = time.Second

// Admit is the rule by which a replica decides, within the transaction that
// reads what it holds and writes what it keeps, whether to store a version:
// only a greater one replaces what is held. A new write too far ahead of the
// replica's wall clock is refused with ErrReplicaRefused, unless it is just
// above what the replica holds, or above floor, which it tells as Call.Floor and
// which new versions have to exceed. Repairs are never refused, since they
// spread what was already accepted elsewhere.
func Admit(held *Head, floor int64, incoming *Head, intent Intent, wall time.Time, maxOffset time.Duration) (store bool, err error) {
	if mutant == mutantBlindApply || mutant == mutantTombstoneAbsent && held.Tombstone {
		return true, nil
	}
	if incoming.Compare(held) <= 0 {
		return false, nil
	}
	if intent == IntentWrite {
		limit := max(wall.Add(maxOffset).UnixNano(), max(held.Timestamp, floor)+int64(justAbove))
		if incoming.Timestamp > limit {
			return false, fmt.Errorf("%w: timestamp is %v ahead of the replica's clock, at most %v is accepted",
				ErrReplicaRefused, incoming.UpdatedAt().Sub(wall).Round(time.Millisecond), maxOffset)
		}
	}
	return true, nil
}
