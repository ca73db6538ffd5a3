package coord

import (
	"slices"
	"time"
)

// hearOfTopology is metadata's word that the topology has changed. It may come
// late, or never: then replicas have to tell.
func (c *simCoordinator) hearOfTopology() {
	s, life := c.s, c.life
	if c.deaf && !s.healed || s.chance(0.1) {
		return
	}
	s.after(s.spread(time.Millisecond, s.swarm.gossip), func() {
		if c.life == life && c.up {
			c.refresh(nil)
		}
	})
}

// refresh gets the topology from metadata.
func (c *simCoordinator) refresh(then func(error)) {
	var t Topology
	c.ask(func() error { t = c.s.metadata.topology; return nil }, func(err error) {
		if err == nil {
			c.reshape(t)
		}
		if then != nil {
			then(err)
		}
	})
}

// reshape makes the view of a topology, as Coordinator.reshape does.
func (c *simCoordinator) reshape(t Topology) {
	if c.view != nil && t.Version <= c.view.topology.Version {
		return
	}
	s := c.s
	e := s.epochs[t.Epoch]
	v := &view{topology: t, change: t.Current(), ring: e.ring, next: e.next, peers: make(map[string]*peer, len(t.Nodes))}
	for i := range t.Nodes {
		n := &t.Nodes[i]
		v.peers[n.ID] = c.peers[s.nodeOf(n).index]
	}
	v.members = v.seats(v.ring)
	if v.next != nil {
		v.nextMembers = v.seats(v.next)
	}
	c.view = v
	c.resumeWaiting()
}

// connect makes room for nodes that have come.
func (c *simCoordinator) connect() {
	for _, n := range c.s.nodes[len(c.peers):] {
		l := &simLink{s: c.s, n: n}
		c.links = append(c.links, l)
		c.peers = append(c.peers, &peer{node: StorageNode{ID: n.id, UUID: n.uuid}, replica: l})
	}
}

// ready tells whether a tenant may be used with the present view.
func (c *simCoordinator) ready(k *simEntry) bool {
	return c.view.serves(&c.tenants[k.tenantIndex])
}

// load does what awaitTenant does: it gets the tenant, or a newer view.
func (c *simCoordinator) load(tenant int, then func(error)) {
	if t := &c.tenants[tenant]; t.AsOf >= c.view.topology.TenantsEpoch && t.Since > c.view.topology.Epoch {
		c.refresh(then)
		return
	}
	var t Tenant
	c.ask(func() error {
		t = c.s.metadata.tenants[tenant]
		t.AsOf = c.s.metadata.topology.Epoch
		return nil
	}, func(err error) {
		if err == nil && t.AsOf >= c.tenants[tenant].AsOf {
			c.tenants[tenant] = t
		}
		then(err)
	})
}

// simWait is an attempt that waits for a newer ring.
type simWait struct {
	a     *simAttempt
	gen   uint32
	epoch uint64
}

// outdate stops an attempt until the coordinator knows a ring of epoch.
func (a *simAttempt) outdate(epoch uint64) {
	c := a.c
	a.subject().outdated = true
	c.waiting = append(c.waiting, simWait{a, a.gen, epoch})
	if a.s.traced(a.key) {
		a.s.note(a.key, "attempt %d waits for the ring of epoch %d", a.serial, epoch)
	}
	c.follow()
}

// follow gets newer rings while attempts wait for one.
func (c *simCoordinator) follow() {
	s := c.s
	c.waiting = slices.DeleteFunc(c.waiting, func(w simWait) bool { return w.a.gen != w.gen || w.a.answered })
	if c.following || len(c.waiting) == 0 {
		return
	}
	c.following = true
	c.refresh(func(err error) {
		if err != nil {
			c.askNodesForRing()
		}
		c.following = false
		c.resumeWaiting()
		if len(c.waiting) > 0 {
			life := c.life
			s.after(s.spread(5*time.Millisecond, 100*time.Millisecond), func() {
				if c.life == life && c.up {
					c.follow()
				}
			})
		}
	})
}

// askNodesForRing takes the newest ring that a node in reach was told of.
func (c *simCoordinator) askNodesForRing() {
	for i, l := range c.links {
		n := c.s.nodes[i]
		if l.Unavailable() == nil && l.cutOut <= c.s.now && l.cutBack <= c.s.now && n.up && n.pausedUntil <= c.s.now && n.told != nil {
			c.reshape(*n.told)
		}
	}
}

func (c *simCoordinator) resumeWaiting() {
	for again := true; again; {
		again = false
		for i, w := range c.waiting {
			if w.a.gen == w.gen && w.epoch > c.view.topology.Epoch {
				continue
			}
			c.waiting = slices.Delete(c.waiting, i, i+1)
			if w.a.gen == w.gen {
				w.a.resume()
			}
			again = true
			break
		}
	}
}

// resume goes on with a newer ring, as operation.resume does.
func (a *simAttempt) resume() {
	s, c := a.s, a.c
	if a.isAnswered() {
		return
	}
	if s.now >= a.deadline {
		if a.reading {
			a.read.wake(s.now, &a.fx)
		} else {
			a.write.wake(s.now, &a.fx)
		}
		a.carryOut()
		return
	}
	if !c.ready(a.key) {
		gen := a.gen
		c.load(a.key.tenantIndex, func(err error) {
			switch {
			case a.gen != gen || a.isAnswered():
			case err != nil:
				a.abort(err)
			default:
				a.resume()
			}
		})
		return
	}
	a.round++
	a.place(c.view, &c.tenants[a.key.tenantIndex])
	if s.traced(a.key) {
		s.note(a.key, "attempt %d goes on at epoch %d", a.serial, a.subject().epoch)
	}
	if a.reading {
		a.read.hedge = hedgeAfter(a.peers[:len(a.read.targets)], a.read.level.need(a.read.rf))
		a.read.restart(s.now, &a.fx)
	} else {
		a.write.hedge = hedgeAfter(a.peers[:len(a.write.targets)], Majority(a.write.rf))
		a.write.restart(s.now, &a.fx)
	}
	a.carryOut()
}

// abort is operation.abort.
func (a *simAttempt) abort(err error) {
	if a.reading {
		a.read.fail(err, &a.fx)
	} else {
		a.write.abandon(err, &a.fx)
		if !a.isAnswered() {
			a.write.fail(InDoubt, err, &a.fx)
		}
	}
	a.carryOut()
}

func (a *simAttempt) subject() *subject {
	if a.reading {
		return &a.read.subject
	}
	return &a.write.subject
}

func (a *simAttempt) isAnswered() bool {
	if a.reading {
		return a.read.stage == readAnswered
	}
	return a.write.stage == writeAnswered
}
