package coord

import (
	"errors"
	"slices"
	"time"
)

// simLeader is a coordinator that carries out changes of topology, as
// migrations does. Several may be at it at once: the lease is a courtesy.
type simLeader struct {
	c    *simCoordinator
	life uint32
	busy bool

	v       *view // of the migration that it copies for
	shifts  []shift
	factors []int
	at      int
	MigrationProgress
}

// keepHouse has coordinators lead again and again.
func (s *sim) keepHouse() {
	if s.swarm.churn == 0 {
		return
	}
	s.after(s.upTo(s.swarm.churn/4), func() {
		if s.healed {
			return
		}
		if s.swarm.leaders == 1 {
			// The lease is where it was, while its holder lives.
			if s.holder == nil || !s.holder.up || s.chance(0.05) {
				s.holder = s.coordinators[s.IntN(len(s.coordinators))]
			}
			s.holder.lead()
		} else {
			s.coordinators[s.IntN(len(s.coordinators))].lead()
		}
		s.keepHouse()
	})
}

// lead takes the next steps, unless it is at it already.
func (c *simCoordinator) lead() {
	l := c.leader
	if !c.up || l.busy {
		return
	}
	l.busy = true
	c.refresh(func(err error) { l.next(err) })
}

// rest ends the leader's turn; it goes on at its next.
func (l *simLeader) rest(err error) {
	l.busy = false
	if err != nil && l.c.s.trace != nil {
		l.c.s.noteFault("%s, leading: %v", l.c.id, err)
	}
}

func (l *simLeader) next(err error) {
	c := l.c
	if err != nil {
		l.rest(err)
		return
	}
	v := c.view
	if v.change != nil {
		c.announce(v)
		l.prepare(v)
		return
	}
	next := v.topology.Next()
	if next == nil {
		for i := range v.topology.Nodes {
			if n := &v.topology.Nodes[i]; n.Unswept != 0 && n.Status != NodeInactive && (c.s.healed || c.s.chance(0.3)) {
				l.sweep(v, n.ID)
				return
			}
		}
		l.rest(nil)
		return
	}
	if must := v.topology.MustSweep(next); len(must) > 0 {
		l.sweep(v, must[0])
		return
	}
	id := next.ID
	c.change(func(t *Topology) (step TopologyStep, err error) {
		next := t.Migration(id)
		if next == nil || next.Status != MigrationPending || t.Current() != nil || len(t.MustSweep(next)) > 0 {
			return step, errUnchanged
		}
		if c.s.impossible(t, next) {
			step.Next, err = t.Fail(id, "it has become impossible", c.s.wallTime())
		} else {
			step.Next, err = t.Begin(id, c.s.wallTime())
		}
		return step, err
	}, l.rest)
}

func (s *sim) wallTime() time.Time { return s.wall(0)() }

// impossible is Coordinator.impossible.
func (s *sim) impossible(t *Topology, m *Migration) bool {
	members := t.Members()
	switch m.Kind {
	case MigrationResize:
		return m.To > members
	case MigrationRemove:
		return t.Node(m.Node) == nil || !m.Force && members-1 < slices.Max(s.factors())
	case MigrationReplace:
		return t.Node(m.Node) == nil
	}
	return false
}

// factors are the replication factors that tenants have, in order.
func (s *sim) factors() (factors []int) {
	for i := range s.metadata.tenants {
		factors = append(factors, s.metadata.tenants[i].ReplicationFactor)
	}
	slices.Sort(factors)
	return slices.Compact(factors)
}

// prepare reads what the copy needs to know.
func (l *simLeader) prepare(v *view) {
	c, s := l.c, l.c.s
	m := v.change
	l.v, l.at = v, 0
	var tenants []Tenant
	c.ask(func() error {
		tenants = slices.Clone(s.metadata.tenants)
		for i := range tenants {
			tenants[i].AsOf = s.metadata.topology.Epoch
		}
		l.factors = s.factors()
		l.MigrationProgress = s.metadata.checkpoints[m.checkpoint()]
		return nil
	}, func(err error) {
		if err != nil {
			l.rest(err)
			return
		}
		c.tenants = tenants
		if m.Kind == MigrationResize {
			l.factors = []int{m.From}
		}
		l.shifts = v.shifts(l.factors)
		l.moveFloors()
	})
}

// moveFloors is copying.moveFloors.
func (l *simLeader) moveFloors() {
	if l.Floors || mutant == mutantFloorsLeft {
		l.page()
		return
	}
	c, m := l.c, l.v.change
	var ask []floorRaise
	for _, p := range everyone(l.shifts, m) {
		ask = append(ask, floorRaise{peer: p})
	}
	c.raiseFloors(l.v.topology.Epoch, ask, func(answers []floorAnswer) {
		for i := range l.shifts {
			if err := l.shifts[i].fenced(m, l.factors, answeredBy(answers)); err != nil {
				l.rest(err)
				return
			}
		}
		raises := movedFloors(l.shifts, m, answers)
		c.raiseFloors(l.v.topology.Epoch, raises, func(answers []floorAnswer) {
			for i := range l.shifts {
				if err := l.shifts[i].floored(m, l.factors, raisedBy(raises, answers)); err != nil {
					l.rest(err)
					return
				}
			}
			l.Floors = true
			l.checkpoint()
		})
	})
}

// page copies the next keys.
func (l *simLeader) page() {
	c, s, v := l.c, l.c.s, l.v
	for l.at < len(l.shifts) && l.After != nil && l.After.Token > l.shifts[l.at].Last {
		l.at++
	}
	if l.at == len(l.shifts) {
		l.finish()
		return
	}
	shift := &l.shifts[l.at]
	after := l.After
	if after != nil && after.Token < shift.First {
		after = nil
	}
	req := ScanRequest{Epoch: v.topology.Epoch, Span: shift.Span, After: after, Limit: 1 + s.IntN(3)}
	if v.change.Kind == MigrationResize {
		req.Tenant = v.change.Tenant
	}
	c.scanAll(shift.asked(v.change), req, func(answers []scanAnswer) {
		if err := shift.fenced(v.change, l.factors, func(p *peer) bool {
			return slices.ContainsFunc(answers, func(a scanAnswer) bool { return a.peer == p })
		}); err != nil {
			l.rest(err)
			return
		}
		found, next := mergeScans(answers)
		var keys []*simEntry
		for i := range found {
			f := &found[i]
			k := s.entries[f.Position]
			t := &c.tenants[k.tenantIndex]
			if !v.serves(t) {
				l.rest(ErrMigrationConflict)
				return
			}
			var where placement
			v.place(&where, t.Space, k.token, t.ReplicationFactor)
			if where.news > 0 && f.lacking(answers, where.new[:where.news]) {
				keys = append(keys, k)
			}
		}
		c.runErrands(errandCopy, v, keys, func(err error) {
			if err != nil {
				l.rest(err)
				return
			}
			l.Keys += int64(len(found))
			l.After = next
			if next == nil {
				l.After = &Position{Token: shift.Last, Tenant: lastTenant}
				l.at++
			}
			l.checkpoint()
		})
	})
}

func (l *simLeader) checkpoint() {
	c, s := l.c, l.c.s
	goOn := func(err error) {
		switch {
		case err != nil:
			l.rest(err)
		case c.view.topology.Epoch != l.v.topology.Epoch:
			l.rest(ErrMigrationConflict)
		default:
			l.page()
		}
	}
	if s.chance(0.5) {
		goOn(nil)
		return
	}
	saved, name := l.MigrationProgress, l.v.change.checkpoint()
	c.ask(func() error { s.metadata.checkpoints[name] = saved; return nil }, goOn)
}

func (l *simLeader) finish() {
	c, v := l.c, l.v
	c.change(func(t *Topology) (step TopologyStep, err error) {
		if now := t.Current(); now == nil || now.ID != v.change.ID || now.Joint != v.change.Joint {
			return step, errUnchanged
		}
		step.Next, step.Resize, err = t.Finish(c.s.wallTime())
		return step, err
	}, func(err error) {
		if err == nil {
			c.announce(c.view)
		}
		l.rest(err)
	})
}

// runErrands carries out one errand for each key, all at once.
func (c *simCoordinator) runErrands(kind errand, v *view, keys []*simEntry, then func(error)) {
	var failure error
	left := len(keys) + 1
	done := func(err error) {
		if err != nil && !errors.Is(err, ErrKeyNotFound) {
			failure = err
		}
		if left--; left == 0 {
			then(failure)
		}
	}
	for _, k := range keys {
		r := &simRequest{s: c.s, key: k, kind: requestGet, level: Quorum, errand: kind, done: done, view: v, tenant: c.tenants[k.tenantIndex]}
		r.running = 1
		c.s.begin(c, r, Quorum)
	}
	done(nil)
}

// sweep makes a node forget what it does not own.
func (l *simLeader) sweep(v *view, id string) {
	c, s := l.c, l.c.s
	p := v.peers[id]
	var page func(after *Position)
	page = func(after *Position) {
		c.scanAll([]*peer{p}, ScanRequest{Epoch: v.topology.Epoch, Span: everything, After: after, Limit: 1 + s.IntN(4)}, func(answers []scanAnswer) {
			if len(answers) == 0 {
				l.rest(errSimFence)
				return
			}
			var drops []ScanItem
			for _, item := range answers[0].page.Items {
				k := s.entries[item.Position]
				t := &c.tenants[k.tenantIndex]
				if !v.serves(t) {
					c.load(k.tenantIndex, func(err error) { l.rest(err) })
					return
				}
				var where placement
				v.place(&where, t.Space, k.token, t.ReplicationFactor)
				if !contains(where.peers(), p) {
					drops = append(drops, item)
				}
			}
			c.dropAll(v, p, drops, func(err error) {
				switch next := answers[0].page.Next; {
				case err != nil:
					l.rest(err)
				case next != nil:
					page(next)
				default:
					c.change(func(t *Topology) (step TopologyStep, err error) {
						step.Next, err = t.Swept(id, v.topology.Epoch)
						return step, err
					}, l.rest)
				}
			})
		})
	}
	page(nil)
}
