package coord

import (
	"slices"
	"time"
)

// simHint is a version that a node has missed. As in handoff, a coordinator
// keeps hints in memory until the metadata store has them; then whichever
// coordinator is up may replay them.
type simHint struct {
	n       *simReplica
	key     *simEntry
	version Version
	record  *record
}

// newer puts a hint among others, of which only the newest for each node and
// key stays.
func newer(hints []*simHint, h *simHint) []*simHint {
	for i, old := range hints {
		if old.n == h.n && old.key == h.key {
			if compareIdentity(&old.version.Head, &h.version.Head) < 0 {
				hints[i] = h
			}
			return hints
		}
	}
	return append(hints, h)
}

// noteMissed makes hints of the replicas that have missed a write's version.
func (a *simAttempt) noteMissed(missed set) {
	s, c := a.s, a.c
	for ; missed != 0; missed = missed.without(missed.first()) {
		n := a.peers[missed.first()].replica.(*simLink).n
		if s.traced(a.key) {
			s.note(a.key, "attempt %d hints %s for %s", a.serial, s.name(&a.write.version.Head), n.id)
		}
		if a.record == nil || a.record.forbidden {
			s.violate(a.key, "outcome", "attempt %d hints %s, which is not applied", a.serial, s.name(&a.write.version.Head))
			return
		}
		c.pending = newer(c.pending, &simHint{n, a.key, a.write.version, a.record})
	}
	if !c.flushing {
		c.flushing = true
		s.plan(s.now.add(s.upTo(20*time.Millisecond)), &simFlush{c, c.life})
	}
}

// simFlush stores a coordinator's hints.
type simFlush struct {
	c    *simCoordinator
	life uint32
}

func (f *simFlush) happen() {
	c := f.c
	s := c.s
	switch {
	case c.life != f.life || !c.up:
	case c.pausedUntil > s.now:
		s.plan(c.pausedUntil, f)
	case s.metadataDownUntil > s.now:
		s.plan(s.now.add(100*time.Millisecond), f)
	default:
		for _, h := range c.pending {
			s.hints = newer(s.hints, h)
		}
		c.pending, c.flushing = c.pending[:0], false
	}
}

// replayHints has a coordinator send stored hints, again and again.
func (s *sim) replayHints() {
	s.after(s.upTo(400*time.Millisecond), func() {
		if s.healed {
			return
		}
		if c := s.coordinators[s.IntN(len(s.coordinators))]; c.up && c.pausedUntil <= s.now && s.metadataDownUntil <= s.now {
			c.replay()
		}
		s.replayHints()
	})
}

func (c *simCoordinator) replay() {
	s := c.s
	for _, h := range s.hints {
		if c.links[h.n.index].Unavailable() != nil {
			continue
		}
		call := s.newCall(&simCall{
			s: s, hint: h, c: c, life: c.life, n: h.n, key: h.key, kind: CallApply, intent: IntentRepair,
			version: h.version, record: h.record, sentAt: s.now, deadline: s.now.add(replayTimeout),
		})
		if s.traced(h.key) {
			s.note(h.key, "replayed: %s", call)
		}
		call.depart()
	}
}

// replayed takes the answer to a replayed hint.
func (c *simCoordinator) replayed(call *simCall) {
	s := c.s
	if call.err == nil {
		if at := slices.Index(s.hints, call.hint); at >= 0 {
			s.hints = slices.Delete(s.hints, at, at+1)
		}
	}
	s.freeCall(call)
}
