package coord

import "fmt"

// Level is how many replicas must answer before an operation may.
type Level uint8

// One needs a single replica, Quorum a majority of the replication factor, All
// every replica. The zero Level stands for the coordinator's default.
const (
	LevelDefault Level = iota
	One
	Quorum
	All
)

// ParseLevel reads one, quorum or all; the empty name is LevelDefault.
func ParseLevel(name string) (Level, error) {
	switch name {
	case "":
		return LevelDefault, nil
	case "one":
		return One, nil
	case "quorum":
		return Quorum, nil
	case "all":
		return All, nil
	}
	return LevelDefault, fmt.Errorf("%w: consistency %q is unknown, want one, quorum or all", ErrInvalidRequest, name)
}

func (l Level) String() string {
	return [...]string{"default", "one", "quorum", "all"}[l]
}

// Majority is the fewest of n replicas that meet every other majority.
func Majority(n int) int { return n/2 + 1 }

// need is how many of rf replicas the level asks for. It counts the
// replication factor, not the nodes at hand: with too few nodes a majority is
// out of reach rather than smaller.
func (l Level) need(rf int) int {
	switch l {
	case One:
		return 1
	case All:
		return rf
	}
	return Majority(rf)
}

// fence is the fewest of a key's replicas that every quorum has one of, where
// there are members of the rf that there should be. It is 0 where they are too
// few for a quorum.
func fence(members, rf int) int { return max(members-rf/2, 0) }
