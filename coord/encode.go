package coord

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The binary form of a Head, as storage nodes and idempotency stores keep it:
//
//	format (1 byte, 1) | flags (1 byte) | timestamp | writer id | incarnation |
//	number of clock entries | per entry: id, counter, updated | expires - timestamp, with flagExpires
//
// Integers are unsigned varints, strings a varint length and their bytes.
// Updated is kept as timestamp - updated, which is small and never negative
// for a clock that was made by With.
const (
	headFormat    = 1
	flagTombstone = 1 << 0
	flagExpires   = 1 << 1
	knownFlags    = flagTombstone | flagExpires
)

// maxNodeIDBytes bounds a coordinator's or storage node's id.
const maxNodeIDBytes = 256

// ErrCorrupt is wrapped by every decoding error.
var ErrCorrupt = errors.New("corrupt record")

// AppendHead appends the binary form of h, which must exist, to dst.
func AppendHead(dst []byte, h *Head) []byte {
	var flags byte
	if h.Tombstone {
		flags |= flagTombstone
	}
	if h.Expires != 0 {
		flags |= flagExpires
	}
	dst = append(dst, headFormat, flags)
	dst = binary.AppendUvarint(dst, uint64(h.Timestamp))
	dst = appendString(dst, h.Writer.ID)
	dst = binary.AppendUvarint(dst, h.Writer.Incarnation)
	dst = binary.AppendUvarint(dst, uint64(len(h.Clock)))
	for _, e := range h.Clock {
		dst = appendString(dst, e.ID)
		dst = binary.AppendUvarint(dst, uint64(e.Counter))
		dst = binary.AppendUvarint(dst, uint64(h.Timestamp-e.Updated))
	}
	if h.Expires != 0 {
		dst = binary.AppendUvarint(dst, uint64(h.Expires-h.Timestamp))
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// DecodeHead reads a head from the front of b and returns the bytes behind it.
// The head holds no reference to b. Intern, where it is not nil, turns the
// bytes of a coordinator's id into a string, so that a reader of many heads
// can share the few ids there are.
func DecodeHead(b []byte, intern func([]byte) string) (h Head, rest []byte, err error) {
	if intern == nil {
		intern = func(b []byte) string { return string(b) }
	}
	if len(b) < 2 {
		return Head{}, nil, fmt.Errorf("decode version: %w: %d bytes", ErrCorrupt, len(b))
	}
	if b[0] != headFormat || b[1]&^knownFlags != 0 {
		return Head{}, nil, fmt.Errorf("decode version: %w: format %d, flags %#x; this release knows format %d",
			ErrCorrupt, b[0], b[1], headFormat)
	}
	d := decoder{rest: b[2:], intern: intern}
	h.Tombstone = b[1]&flagTombstone != 0
	h.Timestamp = d.int63("timestamp")
	h.Writer.ID = d.id("writer")
	h.Writer.Incarnation = d.uvarint("incarnation")
	entries := d.uvarint("clock size")
	if entries > MaxClockEntries {
		d.fail("clock size")
	}
	if d.err == nil && entries > 0 {
		h.Clock = make(Clock, entries)
		for i := range h.Clock {
			e := &h.Clock[i]
			e.ID = d.id("clock entry")
			e.Counter = d.int63("clock counter")
			e.Updated = h.Timestamp - d.int63("clock age")
			if i > 0 && h.Clock[i-1].ID >= e.ID {
				d.fail("clock order")
			}
		}
	}
	if b[1]&flagExpires != 0 {
		life := d.int63("expiry")
		if life == 0 || life > math.MaxInt64-h.Timestamp || h.Tombstone {
			d.fail("expiry")
		}
		h.Expires = h.Timestamp + life
	}
	if d.err == nil && !h.Exists() {
		d.fail("timestamp")
	}
	if d.err != nil {
		return Head{}, nil, d.err
	}
	return h, d.rest, nil
}

// decoder reads fields until the first fault, which it keeps.
type decoder struct {
	rest   []byte
	intern func([]byte) string
	err    error
}

func (d *decoder) fail(field string) {
	if d.err == nil {
		d.err = fmt.Errorf("decode version: %w: %s", ErrCorrupt, field)
	}
}

func (d *decoder) uvarint(field string) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail(field)
		d.rest = nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int63(field string) int64 {
	v := d.uvarint(field)
	if v > math.MaxInt64 {
		d.fail(field)
		return 0
	}
	return int64(v)
}

func (d *decoder) id(field string) string {
	size := d.uvarint(field)
	if size == 0 || size > maxNodeIDBytes || size > uint64(len(d.rest)) {
		d.fail(field)
		return ""
	}
	s := d.intern(d.rest[:size])
	d.rest = d.rest[size:]
	return s
}
