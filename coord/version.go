package coord

import (
	"cmp"
	"fmt"
	"time"
)

// Writer names who issued a version: a coordinator in one of its lives.
// Metadata counts the incarnation up at every start, so that no (timestamp,
// writer) is ever issued twice, whatever the process forgot when it died.
type Writer struct {
	ID          string
	Incarnation uint64
}

func (w Writer) compare(x Writer) int {
	if order := cmp.Compare(w.ID, x.ID); order != 0 {
		return order
	}
	return cmp.Compare(w.Incarnation, x.Incarnation)
}

// Head is a version without its value: its identity (Timestamp, Writer), why it
// replaced what was there before (Clock), and whether it is a deletion. The
// zero Head stands for a key that was never written, and is below every other.
type Head struct {
	// Timestamp is a hybrid logical clock reading in nanoseconds since 1970:
	// the writer's wall clock, or just above everything the writer had seen.
	Timestamp int64
	Writer    Writer
	Clock     Clock
	Tombstone bool
	// Expires is when the value ends, in nanoseconds since 1970; 0: never. It is
	// part of the version, so that replicas agree on it.
	Expires int64
}

// Version is a value, or a deletion, as it was once written. Value must not be
// changed by anyone; it is empty for a tombstone, and may be for a value.
type Version struct {
	Head
	Value []byte
}

// Exists tells a version (a tombstone included) from a key that has none.
func (h *Head) Exists() bool { return h.Timestamp != 0 }

// Live tells a value from a tombstone, from one that has expired by now, and
// from an absent key.
func (h *Head) Live(now time.Time) bool { return h.Exists() && !h.Tombstone && !h.Expired(now) }

// Expired tells whether the value has ended by now.
func (h *Head) Expired(now time.Time) bool { return h.Expires != 0 && now.UnixNano() >= h.Expires }

// Compare orders versions totally, by (timestamp, writer). The greater one
// replaces the other, on every replica and in any order of arrival. A writer's
// timestamp exceeds all it saw, so this order never contradicts causality.
func (h *Head) Compare(x *Head) int {
	if mutant == mutantCounterIdentity && h.Writer.ID == x.Writer.ID &&
		h.Clock.Counter(h.Writer.ID) == x.Clock.Counter(h.Writer.ID) {
		return 0
	}
	if order := cmp.Compare(h.Timestamp, x.Timestamp); order != 0 {
		return order
	}
	return h.Writer.compare(x.Writer)
}

// UpdatedAt is the version's timestamp as a wall clock time.
func (h *Head) UpdatedAt() time.Time { return time.Unix(0, h.Timestamp) }

// String writes the head as in 17@c1/2{c1:4}, with a dagger behind a tombstone.
func (h *Head) String() string {
	if !h.Exists() {
		return "absent"
	}
	mark := ""
	if h.Tombstone {
		mark = "†"
	}
	return fmt.Sprintf("%d@%s/%d%s%s", h.Timestamp, h.Writer.ID, h.Writer.Incarnation, h.Clock, mark)
}
