package coord

import "slices"

// converge is the second half of a run: faults end, what is under way arrives,
// and then every natural replica of a key must hold the same version, and every
// coordinator must be able to write every key.
func (s *sim) converge() {
	s.heal()
	s.settleAll()
	for _, c := range s.coordinators {
		if len(c.running) > 0 {
			a := c.running[0]
			s.violate(a.key, "engine", "attempt %d (%s) has not ended though nothing is left to happen", a.serial, a.op)
			return
		}
	}
	s.finishMigrations()
	for _, c := range s.coordinators {
		if c.issuer.last.Load()-c.clock.read(s.now) > int64(DefaultMaxClockOffset)/2 {
			// Its first write would be refused and make it take a new
			// incarnation; here every first write must succeed.
			c.renew()
		}
	}
	for round := 0; len(s.hints) > 0 && s.violation == nil; round++ {
		if round == 3 {
			h := s.hints[0]
			s.violate(h.key, "P11", "a hint of %s for %s is pending after %d replays without faults", s.name(&h.version.Head), h.node, round)
		}
		s.coordinators[round%len(s.coordinators)].replay()
		s.settleAll()
	}
	if s.figures.faults[faultCoordinatorCrash] == 0 && s.figures.expiredHints == 0 && s.swarm.churn == 0 {
		// No coordinator took hints with it: they suffice.
		s.checkConverged("after healing and the replay of hints")
	}
	// Until anti-entropy exists, reads make the rest equal.
	s.sweep()
	s.checkConverged("after healing and a read of every key")
	s.checkLive()
	s.checkConverged("after a write to every key without faults")
}

func (s *sim) settleAll() {
	for s.violation == nil && s.step() {
	}
}

// sweep reads every key so that all replicas are compared: at level all, or
// where there are too few nodes for that at level one, which repairs behind
// its answer.
func (s *sim) sweep() {
	for i, k := range s.keys {
		r := s.newRequest(k, nil)
		r.kind, r.level = requestGet, All
		if p := s.natural(k); len(p.old) < p.rf[0] {
			r.level = One
		}
		s.mustSucceed(r, s.coordinators[i%len(s.coordinators)], "a read after healing")
	}
}

// checkLive writes every key through every coordinator.
func (s *sim) checkLive() {
	for _, c := range s.coordinators {
		for _, k := range s.keys {
			if p := s.natural(k); len(p.old) < simNeed(Quorum, p.rf[0]) {
				continue
			}
			r := s.newRequest(k, nil)
			r.kind, r.level = requestPut, Quorum
			r.value = []byte("healed by " + c.id)
			s.mustSucceed(r, c, "a write after healing")
		}
	}
}

func (s *sim) mustSucceed(r *simRequest, c *simCoordinator, what string) {
	if s.violation != nil {
		return
	}
	s.tick++
	r.called = s.tick
	r.attempt(c, r.level)
	s.settleAll()
	if !r.ok {
		s.violate(r.key, "liveness", "%s through %s fails: %v", what, c.id, r.err)
	}
}

// checkConverged is P11.
func (s *sim) checkConverged(when string) {
	for _, k := range s.keys {
		if s.violation != nil {
			return
		}
		owners := s.natural(k).old
		first := &owners[0].data[k.index].version
		for _, n := range s.nodes {
			held := &n.data[k.index].version
			switch {
			case !s.isMember(n):
			case !slices.Contains(owners, n):
				if held.Exists() {
					s.violate(k, "P11", "%s, %s holds %s and is no replica of the key", when, n.uuid, s.name(&held.Head))
				}
			case compareIdentity(&held.Head, &first.Head) != 0 || !sameContent(held, first):
				s.violate(k, "P11", "%s, %s holds %s, but %s holds %s", when,
					n.uuid, s.name(&held.Head), owners[0].uuid, s.name(&first.Head))
			case compareIdentity(&held.Head, &k.floor) < 0 && !k.wasCollected(&k.floor):
				s.violate(k, "P11", "%s, %s holds %s, but clients knew of %s", when, n.uuid, s.name(&held.Head), s.name(&k.floor))
			}
		}
	}
}
