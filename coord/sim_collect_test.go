package coord

import (
	"time"

	"github.com/pairdb/coordinator/ring"
)

// collect has coordinators forget what is deleted, key by key, as collector
// does, and compare replicas, without which not all would ever hold it.
func (s *sim) collect() {
	if s.swarm.collect == 0 {
		return
	}
	s.after(s.upTo(2*s.swarm.collect), func() {
		if s.healed {
			return
		}
		c, k := s.coordinators[s.IntN(len(s.coordinators))], s.keys[s.IntN(len(s.keys))]
		if c.up && c.pausedUntil <= s.now && c.view.change == nil && c.ready(k) {
			if s.chance(0.5) {
				c.runErrands(errandRepair, c.view, []*simEntry{k}, func(error) {})
			} else {
				c.collectKey(k)
			}
		}
		s.collect()
	})
}

func (c *simCoordinator) collectKey(k *simEntry) {
	v, t := c.view, &c.tenants[k.tenantIndex]
	var where placement
	v.place(&where, t.Space, k.token, t.ReplicationFactor)
	natural := where.peers()
	if len(natural) < t.ReplicationFactor {
		return
	}
	req := ScanRequest{
		Epoch: v.topology.Epoch, Span: ring.Span{First: k.token, Last: k.token}, Tenant: k.tenant, Limit: 10, DeadFor: c.s.swarm.grace,
	}
	c.scanAll(natural, req, func(answers []scanAnswer) {
		found, _ := mergeScans(answers)
		for i := range found {
			f := &found[i]
			if !f.collectable(answers, natural) {
				continue
			}
			for _, p := range natural {
				c.dropAll(v, p, []ScanItem{{Position: f.Position, Head: f.newest}}, func(error) {})
			}
		}
	})
}

// enableCollection turns the collection of what is deleted on, with all
// lifetimes so short that runs see their ends.
func (w *swarm) enableCollection(d dice) {
	w.collect = d.spread(5*time.Millisecond, 40*time.Millisecond)
	w.timeout = d.spread(50*time.Millisecond, 400*time.Millisecond)
	w.messageLifetime = d.spread(100*time.Millisecond, 800*time.Millisecond)
	w.hintLifetime = w.timeout + d.spread(100*time.Millisecond, 800*time.Millisecond)
	w.claimLifetime = 2*w.timeout + d.spread(100*time.Millisecond, 800*time.Millisecond)
	w.grace = max(w.hintLifetime, w.claimLifetime) + w.timeout + w.messageLifetime
	w.grace += w.grace / 20 // nodes' own clocks drift
	w.think = d.spread(10*time.Millisecond, 100*time.Millisecond)
	w.deletes = 0.5
	w.ttls = d.pick(0, 0.2)
}
