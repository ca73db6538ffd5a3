package coord

import "time"

// strike counts a fault that has been injected.
func (s *sim) strike(k faultKind) { s.figures.faults[k]++ }

// strikes decides whether a fault that hits messages or operations hits this one.
func (s *sim) strikes(k faultKind) bool {
	if p := s.swarm.chance[k]; p == 0 || s.healed || s.Float64() >= p {
		return false
	}
	s.figures.faults[k]++
	return true
}

// haunt injects a fault of the timed kinds again and again.
func (s *sim) haunt(k faultKind) {
	mean := s.swarm.every[k]
	if mean == 0 {
		return
	}
	s.after(s.upTo(2*mean), func() {
		if s.healed {
			return
		}
		if s.inject(k) {
			s.strike(k)
		}
		s.haunt(k)
	})
}

// until is the end of a fault that lasts between lo and hi.
func (s *sim) until(lo, hi time.Duration) instant { return s.now.add(s.spread(lo, hi)) }

// inject injects a fault, unless nothing is left to break.
func (s *sim) inject(k faultKind) bool {
	switch k {
	case faultNodeCrash, faultNodePause, faultDiskFull:
		n := s.nodes[s.IntN(len(s.nodes))]
		return s.mayFail(n) && s.injectNode(k, n)
	case faultNodeClock:
		n := s.nodes[s.IntN(len(s.nodes))]
		n.clock.skew = s.jump()
		s.noteNode(n, "the clock of %s jumps to %v", n.id, n.clock.skew)
	case faultCoordinatorCrash, faultCoordinatorPause, faultCoordinatorClock:
		c := s.coordinators[s.IntN(len(s.coordinators))]
		return c.up && s.injectCoordinator(k, c)
	case faultPartition:
		s.partition()
	case faultStoreOutage:
		if s.storeDownUntil > s.now {
			return false
		}
		s.storeDownUntil = s.until(5*time.Millisecond, time.Second)
		s.noteFault("the store fails until %v", time.Duration(s.storeDownUntil))
	case faultMetadataOutage:
		if s.metadata.downUntil > s.now {
			return false
		}
		s.metadata.downUntil = s.until(5*time.Millisecond, 3*time.Second)
		s.noteFault("metadata fails until %v", time.Duration(s.metadata.downUntil))
	}
	return true
}

// jump is where a clock goes that jumps: near the truth or up to an hour off.
func (s *sim) jump() time.Duration {
	if s.chance(0.3) {
		return s.around(50 * time.Millisecond)
	}
	d := s.spread(10*time.Millisecond, time.Hour)
	if s.chance(0.5) {
		return -d
	}
	return d
}

// mayFail tells whether a node may fail too: unless the swarm is brutal, most
// of the smallest replica set must stay.
func (s *sim) mayFail(n *simReplica) bool {
	failed, rf := 0, len(s.nodes)
	for _, m := range s.nodes {
		if m.failing() && s.isMember(m) {
			failed++
		}
	}
	for i := range s.metadata.tenants {
		if tenant := s.metadata.tenants[i].ReplicationFactor; tenant > 1 {
			rf = min(rf, tenant)
		}
	}
	return !n.failing() && (s.swarm.brutal || failed < (rf-1)/2)
}

func (n *simReplica) failing() bool {
	return !n.up || n.pausedUntil > n.s.now || n.fullUntil > n.s.now
}

func (s *sim) injectNode(k faultKind, n *simReplica) bool {
	switch k {
	case faultNodeCrash:
		n.crash()
		back := s.until(2*time.Millisecond, time.Second)
		s.noteNode(n, "%s crashes, and is back at %v", n.id, time.Duration(back))
		s.at(back, func() {
			if !n.up && !n.dead {
				n.start()
				s.noteNode(n, "%s is back", n.id)
			}
		})
	case faultNodePause:
		n.pausedUntil = s.until(2*time.Millisecond, 3*time.Second)
		s.noteNode(n, "%s is paused until %v", n.id, time.Duration(n.pausedUntil))
	case faultDiskFull:
		n.fullUntil = s.until(2*time.Millisecond, 500*time.Millisecond)
		s.noteNode(n, "%s has no space until %v", n.id, time.Duration(n.fullUntil))
		return false // counted for each write that it refuses
	}
	return true
}

func (s *sim) injectCoordinator(k faultKind, c *simCoordinator) bool {
	switch k {
	case faultCoordinatorCrash:
		s.noteFault("%s crashes", c.id)
		c.crash()
		s.at(s.until(2*time.Millisecond, time.Second), func() { s.revive(c) })
	case faultCoordinatorPause:
		if c.pausedUntil > s.now {
			return false
		}
		c.pausedUntil = s.until(2*time.Millisecond, 8*time.Second)
		s.noteFault("%s is paused until %v", c.id, time.Duration(c.pausedUntil))
	case faultCoordinatorClock:
		c.clock.skew = s.jump()
		s.noteFault("the clock of %s jumps to %v", c.id, c.clock.skew)
	}
	return true
}

func (s *sim) revive(c *simCoordinator) {
	if c.up {
		return
	}
	c.pausedUntil = 0
	c.boot()
	s.noteFault("%s is back as incarnation %d", c.id, c.incarnation)
}

// partition cuts some links, one way or both, between coordinators and nodes or
// to the store.
func (s *sim) partition() {
	until := s.until(5*time.Millisecond, 2*time.Second)
	c := s.coordinators[s.IntN(len(s.coordinators))]
	n := s.nodes[s.IntN(len(s.nodes))]
	out, back := true, true
	if s.chance(0.5) {
		out = s.chance(0.5)
		back = !out
	}
	cut := func(l *simLink) {
		if out {
			l.cutOut = until
		}
		if back {
			l.cutBack = until
		}
	}
	switch s.IntN(4) {
	case 0:
		cut(c.links[n.index])
		s.noteNode(n, "%s and %s are parted (out %t, back %t) until %v", c.id, n.id, out, back, time.Duration(until))
	case 1:
		for i := range s.nodes {
			if s.swarm.brutal || s.chance(0.5) {
				cut(c.links[i])
			}
		}
		s.noteFault("%s is parted from some nodes (out %t, back %t) until %v", c.id, out, back, time.Duration(until))
	case 2:
		for _, c := range s.coordinators {
			cut(c.links[n.index])
		}
		s.noteNode(n, "%s is parted from all coordinators (out %t, back %t) until %v", n.id, out, back, time.Duration(until))
	case 3:
		c.cutStore = until
		s.noteFault("%s is parted from the store until %v", c.id, time.Duration(until))
	}
}

// heal ends all faults. Messages that are under way stay so.
func (s *sim) heal() {
	s.noteFault("all is healed")
	s.healed = true
	s.storeDownUntil, s.metadata.downUntil = 0, 0
	for _, n := range s.nodes {
		n.pausedUntil, n.fullUntil = 0, 0
		if !n.up && !n.dead {
			n.start()
		}
		n.clock = simClock{skew: s.around(10 * time.Millisecond)}
	}
	for _, c := range s.coordinators {
		c.pausedUntil, c.cutStore = 0, 0
		c.clock = simClock{skew: s.around(10 * time.Millisecond)}
		s.revive(c)
		for _, l := range c.links {
			l.downUntil, l.cutOut, l.cutBack, l.heard = 0, 0, 0, heard{}
		}
	}
}

// isMember tells whether a data directory is one of the cluster's.
func (s *sim) isMember(n *simReplica) bool {
	m := s.metadata.topology.Node(n.id)
	return m != nil && m.UUID == n.uuid && m.Status != NodeInactive
}
