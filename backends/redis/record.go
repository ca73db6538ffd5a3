package redis

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pairdb/coordinator/coord"
)

// The record of a claim, as the value of its key:
//
//	format (1 byte, 1) | stage | fingerprint (16) | attempt (16) |
//	from stageMinted on: head
//
// The scripts read and write it too, by these positions. When it ends is the
// key's own expiry.
const (
	recordFormat = 1
	recordFixed  = 2 + 16 + 16
)

// The stage of a claim only ever rises: reserved, minted, then done at the
// highest level that was noted, stageMinted + level.
const (
	stageReserved = 1
	stageMinted   = 2
	stageLast     = stageMinted + byte(coord.All)
)

// appendReservation appends the record of a claim that attempt has reserved.
func appendReservation(dst []byte, fp *coord.Fingerprint, attempt *coord.AttemptID) []byte {
	dst = append(dst, recordFormat, stageReserved)
	dst = append(dst, fp[:]...)
	return append(dst, attempt[:]...)
}

func decodeRecord(b []byte) (coord.Claim, error) {
	corrupt := func(what string, value int) (coord.Claim, error) {
		return coord.Claim{}, fmt.Errorf("decode claim: %w: %s %d", coord.ErrCorrupt, what, value)
	}
	switch {
	case len(b) < recordFixed:
		return corrupt("its length is", len(b))
	case b[0] != recordFormat:
		return corrupt("this release knows format 1, not", int(b[0]))
	case b[1] < stageReserved || b[1] > stageLast:
		return corrupt("stage", int(b[1]))
	}
	c := coord.Claim{State: coord.ClaimReserved}
	copy(c.Fingerprint[:], b[2:])
	copy(c.Attempt[:], b[18:])
	rest := b[recordFixed:]
	if stage := b[1]; stage >= stageMinted {
		c.State, c.Level = coord.ClaimMinted, coord.Level(stage-stageMinted)
		if c.Level != coord.LevelDefault {
			c.State = coord.ClaimDone
		}
		var err error
		if c.Minted, rest, err = coord.DecodeHead(rest, nil); err != nil {
			return coord.Claim{}, fmt.Errorf("decode claim: %w", err)
		}
	}
	if len(rest) > 0 {
		return corrupt("bytes behind its end:", len(rest))
	}
	return c, nil
}

// appendIdentity appends what the binary form of every head with h's timestamp
// and writer begins with, but for the flags in its second byte: all up to the
// number of clock entries, which for no entries is one byte.
func appendIdentity(dst []byte, h *coord.Head) []byte {
	dst = coord.AppendHead(dst, &coord.Head{Timestamp: h.Timestamp, Writer: h.Writer})
	return dst[:len(dst)-1]
}

// maxIDBytes bounds a coordinator's id.
const maxIDBytes = 256

// checkVersion tells whether h is one that DecodeHead will accept.
func checkVersion(h *coord.Head) error {
	validID := func(id string) bool { return id != "" && len(id) <= maxIDBytes }
	switch {
	case h.Timestamp <= 0:
		return errors.New("the version has no timestamp")
	case !validID(h.Writer.ID):
		return fmt.Errorf("the version's writer id has %d bytes, want 1 to %d", len(h.Writer.ID), maxIDBytes)
	case len(h.Clock) > coord.MaxClockEntries:
		return fmt.Errorf("the version's clock has %d entries, at most %d are accepted", len(h.Clock), coord.MaxClockEntries)
	}
	for i, e := range h.Clock {
		if !validID(e.ID) || e.Counter < 0 || h.Timestamp-e.Updated < 0 || i > 0 && h.Clock[i-1].ID >= e.ID {
			return fmt.Errorf("entry %d of the version's clock is malformed", i)
		}
	}
	return nil
}

// keyHashBytes is how much of the hash a key keeps: enough that nobody finds
// two claims with the same, and short, because Redis holds it for every claim.
const keyHashBytes = 20

// appendKey appends the Redis key of a claim: the prefix, then a hash over the
// parts, each with its length before it. Tenants and keys are not readable from it.
func appendKey(dst []byte, prefix string, k *coord.ClaimKey) []byte {
	dst = append(dst, prefix...)
	at := len(dst)
	for _, part := range [...]string{k.Tenant, k.Key, k.IdempotencyKey} {
		dst = binary.AppendUvarint(dst, uint64(len(part)))
		dst = append(dst, part...)
	}
	sum := sha256.Sum256(dst[at:])
	return append(dst[:at], sum[:keyHashBytes]...)
}

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// slot is the hash slot of a key without hash tags (CRC-16/XMODEM), by which
// Redis Cluster assigns keys to nodes.
func slot(key []byte) int {
	var crc uint16
	for _, b := range key {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % slots)
}
