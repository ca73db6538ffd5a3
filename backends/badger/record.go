package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// A record is what lies under a key's record key:
//
//	format (1 byte, 1) | flags (1 byte) | head (coord.AppendHead) | stored, with flagStored | rest
//
// where the rest is the value. With flagSeparate the value lies under the value
// key, and the rest is its length; with flagFile it lies in a file, and the rest
// is its length, the file's id and the value's checksum (4 bytes, big-endian).
// Stored is when the node took it in, its life and its clock in nanoseconds; it
// is there for what ends one day, tombstones and versions that expire.
// So whoever asks for a head reads no large value. Integers are varints.
const (
	recordFormat = 1
	flagSeparate = 1 << 0
	flagFile     = 1 << 1
	flagStored   = 1 << 2

	// inlineBytes is the size up to which a value lies in its record.
	inlineBytes = 4 << 10
	// maxValueBytes bounds a value. It is above the contract's limit.
	maxValueBytes = 32 << 20
	maxIDBytes    = 256
)

// record is a decoded record. Inline refers to the bytes it was decoded from.
type record struct {
	head     coord.Head
	separate bool // the value lies under the value key
	inline   []byte
	ref      valueRef // of a value that is not inline
	size     int      // of the value, in bytes
	stored   moment   // zero where it is not recorded
}

// appendRecord encodes a record. Ref is used for a value above fileBytes.
func appendRecord(dst []byte, head *coord.Head, value []byte, ref valueRef, now moment) []byte {
	size := len(value)
	flags := byte(0)
	switch {
	case size > fileBytes:
		flags = flagFile
	case size > inlineBytes:
		flags = flagSeparate
	}
	ends := head.Tombstone || head.Expires != 0
	if ends {
		flags |= flagStored
	}
	dst = coord.AppendHead(append(dst, recordFormat, flags), head)
	if ends {
		dst = binary.AppendUvarint(dst, now.boot)
		dst = binary.AppendUvarint(dst, uint64(now.clock))
	}
	switch {
	case size <= inlineBytes:
		return append(dst, value...)
	case size <= fileBytes:
		return binary.AppendUvarint(dst, uint64(size))
	}
	dst = binary.AppendUvarint(dst, ref.size)
	dst = binary.AppendUvarint(dst, ref.file)
	return binary.BigEndian.AppendUint32(dst, ref.sum)
}

func decodeRecord(b []byte, intern func([]byte) string) (record, error) {
	if len(b) < 2 {
		return record{}, fmt.Errorf("decode record: %w: %d bytes", coord.ErrCorrupt, len(b))
	}
	flags := b[1] &^ flagStored
	if b[0] != recordFormat || flags > flagFile {
		return record{}, fmt.Errorf("decode record: %w: format %d, flags %#x; this release knows format %d",
			coord.ErrCorrupt, b[0], b[1], recordFormat)
	}
	head, rest, err := coord.DecodeHead(b[2:], intern)
	if err != nil {
		return record{}, err
	}
	r := record{head: head, separate: flags == flagSeparate}
	if b[1]&flagStored != 0 {
		if !head.Tombstone && head.Expires == 0 {
			return record{}, fmt.Errorf("decode record: %w: when it was stored, of what does not end", coord.ErrCorrupt)
		}
		if r.stored, rest, err = decodeMoment(rest); err != nil {
			return record{}, err
		}
	}
	if flags == 0 {
		r.inline, r.size = rest, len(rest)
	} else if r.ref, err = decodeRef(rest, flags); err != nil {
		return record{}, err
	} else {
		r.size = int(r.ref.size)
	}
	if head.Tombstone && (r.ref.size > 0 || len(r.inline) > 0) {
		return record{}, fmt.Errorf("decode record: %w: a tombstone with a value", coord.ErrCorrupt)
	}
	return r, nil
}

func decodeMoment(b []byte) (m moment, rest []byte, err error) {
	corrupt := fmt.Errorf("decode record: %w: when it was stored", coord.ErrCorrupt)
	boot, n := binary.Uvarint(b)
	if n <= 0 {
		return moment{}, nil, corrupt
	}
	rest = b[n:]
	clock, n := binary.Uvarint(rest)
	if n <= 0 || clock > math.MaxInt64 {
		return moment{}, nil, corrupt
	}
	return moment{boot, time.Duration(clock)}, rest[n:], nil
}

func decodeRef(b []byte, flags byte) (valueRef, error) {
	corrupt := fmt.Errorf("decode record: %w: place of the value", coord.ErrCorrupt)
	size, n := binary.Uvarint(b)
	if n <= 0 || size <= inlineBytes || size > maxValueBytes {
		return valueRef{}, corrupt
	}
	ref, rest := valueRef{size: size}, b[n:]
	if flags == flagFile {
		if ref.file, n = binary.Uvarint(rest); n <= 0 || ref.file == 0 || len(rest) < n+4 {
			return valueRef{}, corrupt
		}
		ref.sum = binary.BigEndian.Uint32(rest[n:])
		rest = rest[n+4:]
	}
	if len(rest) > 0 {
		return valueRef{}, corrupt
	}
	return ref, nil
}

// checkVersion tells whether a version can be stored and decoded again.
func checkVersion(v *coord.Version) error {
	switch {
	case v.Timestamp <= 0:
		return errors.New("the version has no timestamp")
	case !validID(v.Writer.ID):
		return fmt.Errorf("the version's writer id has %d bytes, want 1 to %d", len(v.Writer.ID), maxIDBytes)
	case len(v.Clock) > coord.MaxClockEntries:
		return fmt.Errorf("the version's clock has %d entries, at most %d are accepted", len(v.Clock), coord.MaxClockEntries)
	case len(v.Value) > maxValueBytes:
		return fmt.Errorf("the value has %d bytes, at most %d are accepted", len(v.Value), maxValueBytes)
	case v.Tombstone && len(v.Value) > 0:
		return errors.New("the version is a tombstone with a value")
	case v.Expires != 0 && (v.Tombstone || v.Expires <= v.Timestamp):
		return errors.New("the version expires before it was written, or is a tombstone that expires")
	}
	for i, e := range v.Clock {
		if !validID(e.ID) || e.Counter < 0 || v.Timestamp-e.Updated < 0 || i > 0 && v.Clock[i-1].ID >= e.ID {
			return fmt.Errorf("entry %d of the version's clock is malformed", i)
		}
	}
	return nil
}

func validID(id string) bool { return id != "" && len(id) <= maxIDBytes }
