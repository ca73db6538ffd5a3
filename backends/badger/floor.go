package badger

import (
	"encoding/binary"
	"fmt"
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
func (f *floors) change(t ring.Token) change {
	key := binary.BigEndian.AppendUint16([]byte{nsFloor}, coord.OwedRange(t))
	return change{key: key, value: binary.BigEndian.AppendUint64(nil, uint64(f.of(t)))}
}

func (f *floors) load(v view) error {
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
			f[at].Store(max(f[at].Load(), int64(binary.BigEndian.Uint64(value))))
			return nil
		}); err != nil {
			return fmt.Errorf("read floor %x: %w", key, err)
		}
	}
	return nil
}
