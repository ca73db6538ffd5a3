package coord

import (
	"encoding/binary"
	"math/bits"
)

// Constants of VersionSum: odd, with about half of their bits set, and without
// a simple relation to each other.
const (
	sumSeed  = 0x9e3779b97f4a7c15 // 2^64 over the golden ratio
	sumWord  = 0xd6e8feb86659fd93
	sumFirst = 0xff51afd7ed558ccd
	sumLast  = 0xc4ceb9fe1a85ec53
)

// VersionSum is a 64-bit hash of a key and its version's identity: the key, the
// timestamp, the writer's id and its incarnation. The exclusive or of the sums
// of many keys tells, but by chance, whether two nodes hold the same versions.
// It is the same in every process and release, and is not meant against someone
// who chooses keys to make it collide.
//
// The key and the writer's id go in as their length and their bytes in words of
// 8, little-endian, the last one filled up with zeros; each word is multiplied
// with the state to 128 bits, whose halves are folded. At the end the bits are
// spread as in MurmurHash3.
func VersionSum(key string, h *Head) uint64 {
	sum := sumString(sumSeed, key)
	sum = sumMix(sum, uint64(h.Timestamp))
	sum = sumString(sum, h.Writer.ID)
	sum = sumMix(sum, h.Writer.Incarnation)
	sum = (sum ^ sum>>33) * sumFirst
	sum = (sum ^ sum>>33) * sumLast
	return sum ^ sum>>33
}

func sumString(sum uint64, s string) uint64 {
	sum = sumMix(sum, uint64(len(s)))
	for ; len(s) >= 8; s = s[8:] {
		sum = sumMix(sum, uint64(s[0])|uint64(s[1])<<8|uint64(s[2])<<16|uint64(s[3])<<24|
			uint64(s[4])<<32|uint64(s[5])<<40|uint64(s[6])<<48|uint64(s[7])<<56)
	}
	if len(s) > 0 {
		var last [8]byte
		copy(last[:], s)
		sum = sumMix(sum, binary.LittleEndian.Uint64(last[:]))
	}
	return sum
}

// sumMix takes in a word. The state is added again, so that a product of 0 does
// not forget it.
func sumMix(sum, word uint64) uint64 {
	high, low := bits.Mul64(sum^word, sumWord)
	return (high ^ low) + bits.RotateLeft64(sum, 23)
}
