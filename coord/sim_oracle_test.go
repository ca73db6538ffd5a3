package coord

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The predicates of TRAPS.md, checked with full knowledge at the moment at
// which each can be broken. None of them uses the engine's own comparison.

// identity is what tells versions apart.
type identity struct {
	timestamp   int64
	writer      string
	incarnation uint64
}

func identityOf(h *Head) identity {
	return identity{h.Timestamp, h.Writer.ID, h.Writer.Incarnation}
}

func compareIdentity(g, h *Head) int {
	return cmp.Or(cmp.Compare(g.Timestamp, h.Timestamp), cmp.Compare(g.Writer.ID, h.Writer.ID),
		cmp.Compare(g.Writer.Incarnation, h.Writer.Incarnation))
}

// record is a version that was issued.
type record struct {
	version   Version
	request   *simRequest
	group     *effect
	attempt   int
	applied   bool // by some replica
	forbidden bool // a client was told that it is not applied
}

// effect is what one keyed request, or one attempt without a key, has done.
type effect struct {
	since    instant // when the request was first made
	applied  *record // the version that replicas were given
	answered *record // the version that clients were told of
	mixed    bool    // the key was used for different requests
}

// violation is a predicate that did not hold.
type violation struct {
	predicate string
	key       *simEntry
	what      string
	at        instant
}

func (v *violation) Error() string {
	where := ""
	if v.key != nil {
		where = ", key " + v.key.name
	}
	return fmt.Sprintf("%s is violated at %v%s: %s", v.predicate, time.Duration(v.at), where, v.what)
}

func (s *sim) violate(k *simEntry, predicate, format string, args ...any) {
	if s.violation != nil || s.predicate != "" && predicate != s.predicate {
		return
	}
	s.violation = &violation{predicate, k, fmt.Sprintf(format, args...), s.now}
	if s.trace != nil {
		s.note(k, "VIOLATION of %s: %s", predicate, s.violation.what)
	}
}

// noteVersion looks at the version of a write after each of its events.
func (s *sim) noteVersion(a *simAttempt) {
	w := &a.write
	h := &w.version.Head
	if !h.Exists() || compareIdentity(h, &a.known) == 0 {
		return
	}
	a.known = *h
	a.record = a.key.records[identityOf(h)]
	if w.duplicate {
		switch {
		case a.record == nil:
			s.violate(a.key, "P2", "attempt %d follows a claim to %s, which nobody issued", a.serial, s.name(h))
		case a.record.group != a.group:
			s.violate(a.key, "P8", "attempt %d follows a claim to %s of another request", a.serial, s.name(h))
		}
		return
	}
	s.checkIssued(a)
}

func (s *sim) checkIssued(a *simAttempt) {
	k, c, h := a.key, a.c, &a.write.version.Head
	if s.traced(k) {
		s.note(k, "attempt %d issued %s %s", a.serial, s.name(h), h.Clock)
	}
	if r := a.record; r != nil {
		s.violate(k, "P2", "attempt %d issued %s, as attempt %d had", a.serial, s.name(h), r.attempt)
		return
	}
	r := &record{version: a.write.version, request: a.op, group: a.group, attempt: a.serial}
	a.record = r
	a.records = append(a.records, r)
	k.records[identityOf(h)] = r

	if h.Timestamp <= a.seen {
		s.violate(k, "P1", "attempt %d issued %s though it had seen %s", a.serial, s.name(h), s.when(a.seen))
	}
	if last := c.issued[k.index]; h.Timestamp <= last {
		s.violate(k, "P1", "%s issued %s after %s for the same key", c.id, s.name(h), s.when(last))
	}
	c.issued[k.index] = h.Timestamp
	// Trap 11: a timestamp from a broken clock raises its own key's next one only.
	if h.Timestamp > c.greatest+int64(DefaultMaxClockOffset+time.Second) && h.Timestamp > k.newest+1 {
		s.violate(k, "trap 11", "attempt %d issued %s, far above both the clock of %s (at most %s) and the key's versions (at most %s)",
			a.serial, s.name(h), c.id, s.when(c.greatest), s.when(k.newest))
	}
	k.newest = max(k.newest, h.Timestamp)
	if compareIdentity(h, &a.floor) > 0 {
		return
	}
	if a.level == One {
		a.op.late = true
	} else {
		s.violate(k, "P3", "attempt %d at %s issued %s, but before it began a quorum held %s", a.serial, a.level, s.name(h), s.name(&a.floor))
	}
}

// sending checks a version that is about to be sent, and returns its record.
func (s *sim) sending(a *simAttempt, v *Version, n *simReplica) *record {
	k, r := a.key, a.record
	if a.reading || r == nil || compareIdentity(&r.version.Head, &v.Head) != 0 {
		r = k.records[identityOf(&v.Head)]
	}
	switch {
	case r == nil:
		s.violate(k, "P9", "attempt %d sends %s to %s, which nobody issued for this key", a.serial, s.name(&v.Head), n.id)
		return &record{version: *v}
	case !sameContent(&r.version, v):
		s.violate(k, "P2", "attempt %d sends %s to %s with %s, but it was issued with %s",
			a.serial, s.name(&v.Head), n.id, describeContent(v), describeContent(&r.version))
	case !s.replicasAt(k, a.subject().epoch).has(n) && mutant == noMutant:
		s.violate(k, "P11", "attempt %d sends %s to %s, which is no replica of the key", a.serial, s.name(&v.Head), n.uuid)
	}
	if !a.reading {
		if !a.sent.Exists() {
			a.sent = v.Head
		} else if compareIdentity(&a.sent, &v.Head) != 0 {
			s.violate(k, "trap 26", "attempt %d sends %s after it has sent %s", a.serial, s.name(&v.Head), s.name(&a.sent))
		}
	}
	return r
}

func sameContent(v, w *Version) bool {
	return v.Tombstone == w.Tombstone && v.Expires == w.Expires && bytes.Equal(v.Value, w.Value) && slices.Equal(v.Clock, w.Clock)
}

func describeContent(v *Version) string {
	if v.Tombstone {
		return fmt.Sprintf("a tombstone %s", v.Clock)
	}
	return fmt.Sprintf("%q %s", v.Value, v.Clock)
}

// storing is told when a replica is about to replace what it holds.
func (s *sim) storing(n *simReplica, k *simEntry, held *simHeld, v Version, r *record) {
	switch {
	case compareIdentity(&v.Head, &held.version.Head) <= 0:
		s.violate(k, "P6", "%s replaces %s by %s", n.id, s.name(&held.version.Head), s.name(&v.Head))
	case k.collected != nil && compareIdentity(&v.Head, &k.collected.version.Head) < 0 && s.natural(k).has(n):
		s.violate(k, "P6/P10", "%s stores %s, which %s had replaced before it was collected", n.uuid, s.name(&v.Head), s.name(&k.collected.version.Head))
	case r.forbidden:
		s.violate(k, "outcome", "%s stores %s, of which the client was told that it is not applied", n.id, s.name(&v.Head))
	case r.group != nil && r.group.applied != nil && r.group.applied != r:
		s.violate(k, "P8", "%s stores %s of a request that took effect as %s already", n.id, s.name(&v.Head), s.name(&r.group.applied.version.Head))
	}
	r.applied = true
	if r.group != nil {
		r.group.applied = r
	}
}

// checkAnswer checks the result of an attempt.
func (s *sim) checkAnswer(a *simAttempt) {
	k := a.key
	if a.reading {
		s.checkRead(a)
		return
	}
	w := &a.write
	if s.traced(k) {
		s.note(k, "attempt %d answers: %v", a.serial, cmp.Or(w.err, errors.New("ok")))
	}
	if w.err != nil {
		failure := (*WriteError)(nil)
		if errors.As(w.err, &failure) {
			s.checkOutcome(a, failure.Outcome)
			if errors.Is(failure, ErrIdempotencyConflict) && !a.group.mixed {
				s.violate(k, "P8", "attempt %d found a conflict, but the key was used for one request only", a.serial)
			}
		}
		return
	}
	s.figures.succeeded++
	r := a.record
	if r == nil {
		s.violate(k, "P2", "attempt %d answers with no version", a.serial)
		return
	}
	v := &r.version
	if v.Tombstone != w.delete || !bytes.Equal(v.Value, w.value) {
		s.violate(k, "P8", "attempt %d succeeds as %s, which has %s instead of %q", a.serial, s.name(&v.Head), describeContent(v), w.value)
	}
	s.checkHeld(a, &v.Head)
	if first := a.group.answered; first != nil && first != r || !slices.Equal(w.result.Clock, v.Clock) {
		s.violate(k, "P8", "attempt %d answers %s with %s, but the first answer was another", a.serial, s.name(&v.Head), w.result.Clock)
	}
	a.group.answered = r
	if a.level != One {
		s.raiseFloor(k, &v.Head)
	}
}

// checkHeld is P7: so many distinct replicas of the key, before and after a
// change that is under way, hold at least what the level was told of, or have
// held it until they were allowed to drop it.
func (s *sim) checkHeld(a *simAttempt, h *Head) {
	k := a.key
	epoch := a.subject().epoch
	if epoch == 0 { // the claim alone told that it was done
		return
	}
	places := s.replicasAt(k, epoch)
	count := func(nodes []*simReplica) (n int) {
		for _, r := range nodes {
			if compareIdentity(&r.data[k.index].version.Head, h) >= 0 || r.dropped[k.index] >= h.Timestamp {
				n++
			}
		}
		return n
	}
	old, next := count(places.old), count(places.new)
	needOld, needNext := places.needs(a.level)
	if a.write.noted == ClaimDone && a.write.sends.asked == 0 {
		return // an earlier attempt was told at another epoch, perhaps
	}
	if old < needOld || next < needNext {
		s.violate(k, "P7", "attempt %d succeeds at %s, epoch %d, with %s, which %d of %d replicas hold, of which it takes %d, and %d of %d after the change, of which it takes %d",
			a.serial, a.level, epoch, s.name(h), old, len(places.old), needOld, next, len(places.new), needNext)
	}
}

// dropping is told when a replica is about to forget what it holds: a node may
// forget what it does not own, and what all replicas have kept for long enough.
func (s *sim) dropping(n *simReplica, k *simEntry, held *simHeld) {
	places := s.natural(k)
	if !places.has(n) {
		return
	}
	h := &held.version.Head
	if !h.Tombstone && h.Expires == 0 {
		s.violate(k, "P6", "%s drops %s, which it owns", n.uuid, s.name(h))
		return
	}
	for _, r := range places.old {
		if compareIdentity(&r.data[k.index].version.Head, h) < 0 && r.floor(k) < h.Timestamp {
			s.violate(k, "P6", "%s drops %s, of which %s has never heard", n.uuid, s.name(h), r.uuid)
		}
	}
	if k.collected == nil || compareIdentity(h, &k.collected.version.Head) > 0 {
		k.collected = held.record
	}
	s.figures.collected++
}

// wasCollected tells whether a version, or one that has replaced it, may have
// been forgotten by all replicas.
func (k *simEntry) wasCollected(h *Head) bool {
	return k.collected != nil && compareIdentity(h, &k.collected.version.Head) <= 0
}

// simNeed counts what a level takes, apart from the engine.
func simNeed(level Level, rf int) int {
	switch level {
	case One:
		return 1
	case All:
		return rf
	}
	return rf/2 + 1
}

// checkOutcome holds the engine to what it says of a failed write.
func (s *sim) checkOutcome(a *simAttempt, outcome Outcome) {
	if outcome != NotApplied {
		return
	}
	for _, r := range a.records {
		if r.applied {
			s.violate(a.key, "outcome", "attempt %d says it is not applied, but a replica has stored %s", a.serial, s.name(&r.version.Head))
		}
		r.forbidden = true
	}
}

func (s *sim) checkRead(a *simAttempt) {
	k, r := a.key, &a.read
	best := &r.best.Head
	if s.traced(k) {
		s.note(k, "attempt %d answers: %s, %v", a.serial, s.name(best), r.err)
	}
	if r.err != nil && !errors.Is(r.err, ErrKeyNotFound) {
		return
	}
	s.figures.succeeded++
	if best.Exists() {
		a.record = k.records[identityOf(best)]
		switch {
		case a.record == nil:
			s.violate(k, "P9", "attempt %d answers with %s, which nobody wrote to this key", a.serial, s.name(best))
		case best.Tombstone != a.record.version.Tombstone, (r.err == nil) == (best.Tombstone || best.Expires != 0 && r.wall.UnixNano() >= best.Expires),
			r.err == nil && !bytes.Equal(r.result.Value, a.record.version.Value):
			s.violate(k, "P9", "attempt %d answers %q, %v for %s, which was written with %s",
				a.serial, r.result.Value, r.err, s.name(best), describeContent(&a.record.version))
		}
	} else if r.err == nil {
		s.violate(k, "P9", "attempt %d answers %q for a key that does not exist", a.serial, r.result.Value)
	}
	if a.level == One {
		return
	}
	if !best.Exists() && k.collected != nil {
		a.record = k.collected // it saw that nothing is left of it
		if k.wasCollected(&a.floor) {
			return
		}
	}
	if compareIdentity(best, &a.floor) < 0 {
		s.violate(k, "P3/P4/P10", "attempt %d at %s read %s, but before it began a client knew of %s", a.serial, a.level, s.name(best), s.name(&a.floor))
	}
	s.raiseFloor(k, best)
}

func (s *sim) raiseFloor(k *simEntry, h *Head) {
	if compareIdentity(h, &k.floor) > 0 {
		k.floor = *h
	}
}
