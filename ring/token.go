package ring

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
)

// Token is a position on the ring: the whole range of uint64, wrapping at its end.
type Token uint64

// tokenBuffer holds the hash input of every ordinary key on the stack. Longer
// inputs (up to 256 bytes of tenant and 1 KiB of key) take the larger buffer.
const (
	tokenBuffer      = 192
	tokenBufferLarge = 1536
)

// KeyToken is the token of a tenant's key: the first 8 bytes, big-endian, of
// SHA-256 over tenant + ":" + key. It does not allocate for any valid key.
func KeyToken(tenant, key string) Token {
	size := len(tenant) + 1 + len(key)
	if size <= tokenBuffer {
		var buf [tokenBuffer]byte
		return hash(appendParts(buf[:0], tenant, ":", key))
	}
	if size <= tokenBufferLarge {
		var buf [tokenBufferLarge]byte
		return hash(appendParts(buf[:0], tenant, ":", key))
	}
	return hash(appendParts(make([]byte, 0, size), tenant, ":", key))
}

// VnodeToken is the token of virtual node i (from 0) of a storage node: the
// same hash over id + "-vnode-" + i in decimal.
func VnodeToken(id string, i int) Token {
	var buf [tokenBufferLarge]byte
	return hash(strconv.AppendInt(appendParts(buf[:0], id, "-vnode-", ""), int64(i), 10))
}

func appendParts(b []byte, x, y, z string) []byte {
	b = append(b, x...)
	b = append(b, y...)
	return append(b, z...)
}

func hash(input []byte) Token {
	sum := sha256.Sum256(input)
	return Token(binary.BigEndian.Uint64(sum[:8]))
}
