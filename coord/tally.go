package coord

import "math/bits"

// verdict is how far a vote has come.
type verdict uint8

const (
	pending verdict = iota // more answers may decide it
	won
	lost // enough can no longer answer
)

// MaxReplicationFactor bounds a tenant's replicas.
const MaxReplicationFactor = 10

// maxTargets bounds the replicas of one operation; a set of them is a bit mask.
const maxTargets = 2 * MaxReplicationFactor

// set is a set of an operation's replicas, by index.
type set uint32

func firstN(n int) set          { return set(1)<<n - 1 }
func (s set) has(i int) bool    { return s&(1<<i) != 0 }
func (s set) with(i int) set    { return s | 1<<i }
func (s set) without(i int) set { return s &^ (1 << i) }
func (s set) size() int         { return bits.OnesCount32(uint32(s)) }

// first is the lowest index in a set that is not empty: targets are in order
// of preference, so it is the one to ask first.
func (s set) first() int { return bits.TrailingZeros32(uint32(s)) }

// tally counts the answers of one phase. Each replica counts once: its first
// yes stands, and a no after a yes changes nothing.
type tally struct {
	voters set
	need   int
	yes    set
	no     set
}

func (t *tally) ack(i int) {
	t.yes = t.yes.with(i)
	t.no = t.no.without(i)
}

func (t *tally) fail(i int) {
	if !t.yes.has(i) {
		t.no = t.no.with(i)
	}
}

func (t *tally) verdict() verdict {
	switch {
	case (t.yes & t.voters).size() >= t.need:
		return won
	case (t.voters &^ t.no).size() < t.need:
		return lost
	}
	return pending
}
