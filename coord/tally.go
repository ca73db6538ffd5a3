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

// group is voters of whom need must agree. The zero group always has.
type group struct {
	voters set
	need   int
}

// groups are what a phase needs: the replicas of a key and, while their set
// changes, those that it changes to, of which each must agree by itself.
type groups [2]group

// voters is everybody who is asked.
func (g *groups) voters() set { return g[0].voters | g[1].voters }

// tally counts the answers of one phase. Each replica counts once in each
// group: its first yes stands, and a no after a yes changes nothing.
type tally struct {
	groups
	yes set
	no  set
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
	v := won
	for i := range t.groups {
		g := &t.groups[i]
		switch {
		case (t.yes & g.voters).size() >= g.need:
		case (g.voters &^ t.no).size() < g.need:
			return lost
		default:
			v = pending
		}
	}
	return v
}
