package coord

import (
	"errors"
	"slices"
	"time"
)

// simHint is a version that a node has missed. As in handoff, a coordinator
// keeps hints in memory until the metadata store has them; then whichever
// coordinator is up may replay them.
type simHint struct {
	node    string // id
	key     *simEntry
	version Version
	record  *record
	ends    instant // of its lifetime, which counts from the start of the write
}

// newer puts a hint among others, of which only the newest for each node and
// key stays.
func newer(hints []*simHint, h *simHint) []*simHint {
	for i, old := range hints {
		if old.node == h.node && old.key == h.key {
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
		ends := a.deadline.add(s.swarm.hintLifetime - s.swarm.timeout)
		c.pending = newer(c.pending, &simHint{n.id, a.key, a.write.version, a.record, ends})
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
	case s.metadata.downUntil > s.now:
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
		if c := s.coordinators[s.IntN(len(s.coordinators))]; c.up && c.pausedUntil <= s.now && s.metadata.downUntil <= s.now {
			c.replay()
		}
		s.replayHints()
	})
}

// replay sends stored hints to those who own their keys now, as handoff does.
func (c *simCoordinator) replay() {
	s := c.s
	v := c.view
	s.hints = slices.DeleteFunc(s.hints, func(h *simHint) bool {
		if h.ends <= s.now {
			s.figures.expiredHints++
		}
		return h.ends <= s.now
	})
	for _, h := range s.hints {
		if !c.ready(h.key) {
			c.load(h.key.tenantIndex, func(error) {})
			continue
		}
		var where placement
		t := &c.tenants[h.key.tenantIndex]
		v.place(&where, t.Space, h.key.token, t.ReplicationFactor)
		// While the key's replicas change, both sets get what one of them missed.
		targets := where.peers()
		at := slices.IndexFunc(targets, func(p *peer) bool { return p.replica.(*simLink).n.id == h.node })
		if at >= 0 && where.news == 0 {
			targets = targets[at : at+1]
		}
		if slices.ContainsFunc(targets, func(p *peer) bool { return p.replica.Unavailable() != nil }) {
			continue
		}
		left, failed := len(targets), false
		for _, p := range targets {
			l := p.replica.(*simLink)
			call := c.newCall(l, CallApply, h.key, v.topology.Epoch, h.version, h.record)
			call.then = func(call *simCall) {
				left--
				failed = failed || call.err != nil
				if stale := (*StaleRingError)(nil); errors.As(call.err, &stale) {
					c.refresh(nil)
				}
				if left == 0 && !failed {
					if at := slices.Index(s.hints, h); at >= 0 {
						s.hints = slices.Delete(s.hints, at, at+1)
					}
				}
			}
			if s.traced(h.key) {
				s.note(h.key, "a hint for %s is replayed: %s", h.node, call)
			}
			call.depart()
		}
	}
}
