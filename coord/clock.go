package coord

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// MaxClockEntries bounds a vector clock. Above it the entries that were counted
// up longest ago are dropped, which costs only knowledge of why a version
// replaced another, never which one wins: versions are ordered by timestamp.
const MaxClockEntries = 16

// ClockEntry counts the writes of one coordinator to one key.
type ClockEntry struct {
	ID      string // the coordinator's node id
	Counter int64  // from 1
	// Updated is the version timestamp at which Counter was last counted up. It
	// decides which entries are oldest when a clock is pruned, nothing else.
	Updated int64
}

// Clock is a vector clock: entries sorted by ID, each ID once, at most
// MaxClockEntries. The nil Clock precedes every other. Clocks are values: no
// method changes its receiver, and a Clock that was handed on is never changed.
type Clock []ClockEntry

// Relation is how two clocks stand to each other.
type Relation uint8

// A clock Equal to another counts the same writes; one Before another counts a
// part of them; one After counts all of them and more; of Concurrent clocks
// each counts a write that the other does not.
const (
	Equal Relation = iota
	Before
	After
	Concurrent
)

func (r Relation) String() string {
	return [...]string{"equal", "before", "after", "concurrent"}[r]
}

// Counter is the count of id, 0 if it has none.
func (c Clock) Counter(id string) int64 {
	for i := range c {
		if c[i].ID == id {
			return c[i].Counter
		}
	}
	return 0
}

// Compare tells how c stands to d.
func (c Clock) Compare(d Clock) Relation {
	var more, less bool
	i, j := 0, 0
	for i < len(c) && j < len(d) {
		switch order := cmp.Compare(c[i].ID, d[j].ID); {
		case order < 0:
			more = true
			i++
		case order > 0:
			less = true
			j++
		default:
			more = more || c[i].Counter > d[j].Counter
			less = less || c[i].Counter < d[j].Counter
			i++
			j++
		}
	}
	more = more || i < len(c)
	less = less || j < len(d)
	switch {
	case more && less:
		return Concurrent
	case more:
		return After
	case less:
		return Before
	}
	return Equal
}

// Join is the least clock that is not before c nor before d. It returns one of
// the two, uncopied, where that one already is the join. The join of two clocks
// may have more than MaxClockEntries; With prunes it.
func (c Clock) Join(d Clock) Clock {
	switch c.Compare(d) {
	case Equal, After:
		return c
	case Before:
		return d
	}
	joined := make(Clock, 0, len(c)+len(d))
	i, j := 0, 0
	for i < len(c) || j < len(d) {
		switch {
		case j == len(d) || i < len(c) && c[i].ID < d[j].ID:
			joined = append(joined, c[i])
			i++
		case i == len(c) || d[j].ID < c[i].ID:
			joined = append(joined, d[j])
			j++
		default:
			later := c[i]
			if d[j].Counter > later.Counter {
				later = d[j]
			}
			joined = append(joined, later)
			i++
			j++
		}
	}
	return joined
}

// With is a copy of c in which id stands at counter, counted up at updated,
// pruned to MaxClockEntries. The entry of id itself is never pruned.
func (c Clock) With(id string, counter, updated int64) Clock {
	at, found := slices.BinarySearchFunc(c, id, func(e ClockEntry, id string) int { return cmp.Compare(e.ID, id) })
	size := len(c)
	if !found {
		size++
	}
	next := make(Clock, 0, size)
	next = append(next, c[:at]...)
	next = append(next, ClockEntry{ID: id, Counter: counter, Updated: updated})
	if found {
		at++
	}
	next = append(next, c[at:]...)
	for len(next) > MaxClockEntries {
		oldest := -1
		for i := range next {
			if next[i].ID != id && (oldest < 0 || next[i].Updated < next[oldest].Updated) {
				oldest = i
			}
		}
		next = slices.Delete(next, oldest, oldest+1)
	}
	return next
}

// String writes the clock as in {a:1 b:3}.
func (c Clock) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, e := range c {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.ID)
		b.WriteByte(':')
		b.WriteString(strconv.FormatInt(e.Counter, 10))
	}
	b.WriteByte('}')
	return b.String()
}
