package badger

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// The record of a claim:
//
//	format (1 byte, 1) | state | level | fingerprint (16) | attempt (16) |
//	end (8 bytes, big-endian, Unix nanoseconds) | from ClaimMinted on: head
const (
	claimFormat = 1
	claimFixed  = 3 + 16 + 16 + 8
)

// claimRecord is a claim and when it ends by itself.
type claimRecord struct {
	claim coord.Claim
	ends  time.Time
}

func appendClaim(dst []byte, r *claimRecord) []byte {
	c := &r.claim
	dst = append(dst, claimFormat, byte(c.State), byte(c.Level))
	dst = append(dst, c.Fingerprint[:]...)
	dst = append(dst, c.Attempt[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.ends.UnixNano()))
	if c.State != coord.ClaimReserved {
		dst = coord.AppendHead(dst, &c.Minted)
	}
	return dst
}

func decodeClaim(b []byte) (claimRecord, error) {
	corrupt := func(what string) (claimRecord, error) {
		return claimRecord{}, fmt.Errorf("decode claim: %w: %s", coord.ErrCorrupt, what)
	}
	if len(b) < claimFixed {
		return corrupt(fmt.Sprintf("%d bytes", len(b)))
	}
	if b[0] != claimFormat {
		return corrupt(fmt.Sprintf("format %d; this release knows format %d", b[0], claimFormat))
	}
	var r claimRecord
	c := &r.claim
	c.State, c.Level = coord.ClaimState(b[1]), coord.Level(b[2])
	copy(c.Fingerprint[:], b[3:])
	copy(c.Attempt[:], b[19:])
	r.ends = time.Unix(0, int64(binary.BigEndian.Uint64(b[35:])))
	rest := b[claimFixed:]
	switch c.State {
	case coord.ClaimReserved:
	case coord.ClaimMinted, coord.ClaimDone:
		var err error
		if c.Minted, rest, err = coord.DecodeHead(rest, nil); err != nil {
			return claimRecord{}, fmt.Errorf("decode claim: %w", err)
		}
	default:
		return corrupt(fmt.Sprintf("state %d", c.State))
	}
	switch {
	case c.Level > coord.All, c.State != coord.ClaimDone && c.Level != coord.LevelDefault:
		return corrupt(fmt.Sprintf("level %d", c.Level))
	case len(rest) > 0:
		return corrupt("bytes behind its end")
	}
	return r, nil
}

// claimKey writes the parts with their lengths, so that no two keys collide.
func claimKey(k coord.ClaimKey) []byte {
	b := make([]byte, 0, 1+2*binary.MaxVarintLen32+len(k.Tenant)+len(k.Key)+len(k.IdempotencyKey))
	b = append(b, nsClaim)
	b = binary.AppendUvarint(b, uint64(len(k.Tenant)))
	b = append(b, k.Tenant...)
	b = binary.AppendUvarint(b, uint64(len(k.Key)))
	b = append(b, k.Key...)
	return append(b, k.IdempotencyKey...)
}
