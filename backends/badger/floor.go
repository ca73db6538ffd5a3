package badger

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// floors are the greatest timestamps of the tombstones and expired versions
// that were dropped, one for each of coord's owed ranges. They only rise. A drop
// raises its floor before it shows, so whoever misses the tombstone sees the floor.
type floors [1 << coord.OwedRangeBits]atomic.Int64

const floorKeyBytes = 3 // namespace, then the range in 2 bytes, big-endian

func (f *floors) of(t ring.Token) int64 { return f[coord.OwedRange(t)].Load() }

// raise makes a floor at least timestamp, and returns what it is then. Only the
// committer calls it.
func (f *floors) raise(t ring.Token, timestamp int64) int64 {
	floor := &f[coord.OwedRange(t)]
	highest := max(floor.Load(), timestamp)
	floor.Store(highest)
	return highest
}

// change is what stores the floor of a token's range.
func (f *floors) change(t ring.Token) change { return floorChange(coord.OwedRange(t), f.of(t)) }

func floorChange(at uint16, timestamp int64) change {
	key := binary.BigEndian.AppendUint16([]byte{nsFloor}, at)
	return change{key: key, value: binary.BigEndian.AppendUint64(nil, uint64(timestamp))}
}

// list is all floors that there are, by range.
func (f *floors) list() []coord.RangeFloor {
	var all []coord.RangeFloor
	for at := range f {
		if timestamp := f[at].Load(); timestamp != 0 {
			all = append(all, coord.RangeFloor{Range: uint16(at), Timestamp: timestamp})
		}
	}
	return all
}

// Floors implements coord.Replica.
func (n *Node) Floors(ctx context.Context, epoch uint64, raise []coord.RangeFloor) ([]coord.RangeFloor, error) {
	for _, f := range raise {
		if int(f.Range) >= len(n.floors) || f.Timestamp <= 0 {
			return nil, fmt.Errorf("%w: raise floor of range %d to %d, want one above 0 of a range below %d",
				coord.ErrReplicaRefused, f.Range, f.Timestamp, len(n.floors))
		}
	}
	if len(raise) > len(n.floors) {
		return nil, fmt.Errorf("%w: raise floors of %d ranges, there are %d", coord.ErrReplicaRefused, len(raise), len(n.floors))
	}
	if err := n.reach(ctx, epoch); err != nil {
		return nil, fmt.Errorf("floors: %w", err)
	}
	if len(raise) > 0 {
		raise = slices.Clone(raise)
		if err := n.task(ctx, epoch, func() error { return n.raiseFloors(raise) }); err != nil {
			return nil, fmt.Errorf("raise floors: %w", err)
		}
	}
	if err := n.Unavailable(); err != nil {
		return nil, err // what is in memory may not be on the disk
	}
	floors := n.floors.list()
	if err := n.ring.check(epoch); err != nil {
		return nil, fmt.Errorf("floors: %w", err)
	}
	return floors, nil
}

// floorsTogether is how many floors are raised in one transaction.
const floorsTogether = 512

// raiseFloors makes floors at least so high, durably, and then answers with
// them. Only the committer calls it, with nothing decided that is not committed.
func (n *Node) raiseFloors(raise []coord.RangeFloor) error {
	if fault := n.store.fault.Load(); fault != nil {
		return fmt.Errorf("%w: %w", coord.ErrReplicaUnavailable, *fault)
	}
	raise = slices.DeleteFunc(raise, func(f coord.RangeFloor) bool { return n.floors[f.Range].Load() >= f.Timestamp })
	for part := range slices.Chunk(raise, floorsTogether) {
		changes := make([]change, len(part))
		for i, f := range part {
			changes[i] = floorChange(f.Range, f.Timestamp)
		}
		if err := n.store.commit(changes, nil); err != nil {
			return fmt.Errorf("%w: %w", coord.ErrReplicaUnavailable, err)
		}
		for _, f := range part {
			n.floors[f.Range].Store(max(n.floors[f.Range].Load(), f.Timestamp))
		}
	}
	return nil
}

// load makes the floors what is on the disk: one that was raised for a drop
// that then failed has its tombstone back.
func (f *floors) load(v view) error {
	stored := make(map[uint16]int64)
	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues = false
	opts.Prefix = []byte{nsFloor}
	it := v.txn.NewIterator(opts)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if err := it.Item().Value(func(value []byte) error {
			if len(key) != floorKeyBytes || len(value) != 8 {
				return coord.ErrCorrupt
			}
			at := binary.BigEndian.Uint16(key[1:])
			if int(at) >= len(f) {
				return coord.ErrCorrupt
			}
			stored[at] = int64(binary.BigEndian.Uint64(value))
			return nil
		}); err != nil {
			return fmt.Errorf("read floor %x: %w", key, err)
		}
	}
	for at := range f {
		f[at].Store(stored[uint16(at)])
	}
	return nil
}
