package coord

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// newCall makes a call that belongs to no attempt; its owner sets then.
func (c *simCoordinator) newCall(l *simLink, kind CallKind, k *simEntry, epoch uint64, v Version, r *record) *simCall {
	s := c.s
	call := s.newCall(&simCall{
		s: s, c: c, life: c.life, n: l.n, key: k, kind: kind, intent: IntentRepair, epoch: epoch,
		version: v, record: r, sentAt: s.now, deadline: s.now.add(replayTimeout),
	})
	call.heard.boot, call.heard.clock = l.Heard()
	return call
}

// tell sends a node a message other than a call and brings its answer back, if
// neither is lost. Do happens at the node.
func (c *simCoordinator) tell(l *simLink, do func() error, then func(error)) {
	s, life := c.s, c.life
	var back func(error)
	back = func(err error) {
		switch {
		case c.life != life || !c.up:
		case c.pausedUntil > s.now:
			s.at(c.pausedUntil, func() { back(err) })
		default:
			then(err)
		}
	}
	var arrive func()
	arrive = func() {
		n := l.n
		switch {
		case n.pausedUntil > s.now:
			s.at(n.pausedUntil, arrive)
			return
		case !n.up:
			s.after(s.transit(), func() { back(errSimRefused) })
			return
		}
		err := do()
		if l.cutBack <= s.now && !s.strikes(faultLoss) {
			s.after(s.transit(), func() { back(err) })
		}
	}
	if l.cutOut <= s.now && !s.strikes(faultLoss) {
		s.after(s.transit(), arrive)
	}
}

// scan is a node's answer to a scan.
func (n *simReplica) scan(req *ScanRequest) (page ScanPage, err error) {
	if req.Epoch != 0 {
		if err := n.knows(req.Epoch); err != nil {
			return page, err
		}
	}
	s := n.s
	for _, k := range s.byPosition {
		held := &n.data[k.index]
		at := k.position()
		if !held.version.Exists() || !req.Span.Contains(k.token) || req.After != nil && at.Compare(*req.After) <= 0 ||
			req.Tenant != "" && req.Tenant != k.tenant || req.Prefix != "" && req.Prefix != k.key {
			continue
		}
		if req.DeadFor != 0 {
			wall := time.Unix(0, n.clock.read(s.now))
			if held.version.Live(wall) || held.version.Timestamp > wall.UnixNano() || n.elapsed()-held.since < req.DeadFor {
				continue
			}
		}
		if len(page.Items) == req.Limit {
			next := page.Items[len(page.Items)-1].Position
			page.Next = &next
			break
		}
		page.Items = append(page.Items, ScanItem{at, held.version.Head})
	}
	return page, nil
}

// scanAll asks peers for the same page, as the engine's scanAll does.
func (c *simCoordinator) scanAll(peers []*peer, req ScanRequest, then func([]scanAnswer)) {
	pages := make([]ScanPage, len(peers))
	c.tellAll(peers, func(i int, n *simReplica) (err error) { pages[i], err = n.scan(&req); return err }, func(answered []int) {
		var answers []scanAnswer
		for _, i := range answered {
			answers = append(answers, scanAnswer{peers[i], pages[i]})
		}
		then(answers)
	})
}

// raiseFloors raises floors of nodes and asks for them, as the engine's does.
// It asks those again that have not answered: all have to at once, which with
// losses would seldom come to pass.
func (c *simCoordinator) raiseFloors(epoch uint64, raises []floorRaise, then func([]floorAnswer)) {
	const rounds = 4
	var answers []floorAnswer
	var ask func(round int)
	ask = func(round int) {
		var left []floorRaise
		for _, r := range raises {
			if !answeredBy(answers)(r.peer) {
				left = append(left, r)
			}
		}
		if round == rounds || len(left) == 0 {
			then(answers)
			return
		}
		peers := make([]*peer, len(left))
		for i := range left {
			peers[i] = left[i].peer
		}
		floors := make([][]RangeFloor, len(left))
		c.tellAll(peers, func(i int, n *simReplica) (err error) {
			floors[i], err = n.tellFloors(epoch, left[i].floors)
			return err
		}, func(answered []int) {
			for _, i := range answered {
				answers = append(answers, floorAnswer{peers[i], floors[i]})
			}
			ask(round + 1)
		})
	}
	ask(0)
}

// tellFloors is Replica.Floors.
func (n *simReplica) tellFloors(epoch uint64, raise []RangeFloor) (floors []RangeFloor, err error) {
	if err := n.knows(epoch); err != nil {
		return nil, err
	}
	for _, f := range raise {
		n.raise(f.Range, f.Timestamp)
	}
	for at, timestamp := range n.floors {
		if timestamp != 0 {
			floors = append(floors, RangeFloor{uint16(at), timestamp})
		}
	}
	return floors, nil
}

// tellAll sends peers a message each, does at each what they are told, and goes
// on when all have answered, or at the end of their time, with those that did.
func (c *simCoordinator) tellAll(peers []*peer, do func(i int, n *simReplica) error, then func(answered []int)) {
	s := c.s
	done := make([]bool, len(peers))
	waiting, over := 1, false
	finish := func() {
		if over {
			return
		}
		over = true
		var answered []int
		for i := range peers {
			if done[i] {
				answered = append(answered, i)
			}
		}
		then(answered)
	}
	for i, p := range peers {
		l := p.replica.(*simLink)
		if l.Unavailable() != nil {
			continue
		}
		waiting++
		c.tell(l, func() error { return do(i, l.n) }, func(err error) {
			if stale := (*StaleRingError)(nil); err == nil {
				done[i] = true
			} else if errors.As(err, &stale) {
				c.refresh(nil)
			}
			if waiting--; waiting == 0 {
				finish()
			}
		})
	}
	if waiting--; waiting == 0 {
		s.after(0, finish)
		return
	}
	life := c.life
	s.after(s.swarm.timeout, func() {
		if c.life == life && c.up {
			finish()
		}
	})
}

// dropAll makes a node forget versions, unless it holds others by now.
func (c *simCoordinator) dropAll(v *view, p *peer, items []ScanItem, then func(error)) {
	var failure error
	left := len(items) + 1
	done := func(err error) {
		if err != nil {
			failure = err
		}
		if left--; left == 0 {
			then(failure)
		}
	}
	for i := range items {
		call := c.newCall(p.replica.(*simLink), CallDrop, c.s.entries[items[i].Position], v.topology.Epoch, Version{Head: items[i].Head}, nil)
		call.then = func(call *simCall) { done(call.err) }
		if c.s.traced(call.key) {
			c.s.note(call.key, "sent: %s", call)
		}
		call.depart()
	}
	done(nil)
}

// announce tells nodes of the topology.
func (c *simCoordinator) announce(v *view) {
	for i := range v.topology.Nodes {
		l := v.peers[v.topology.Nodes[i].ID].replica.(*simLink)
		if l.Unavailable() == nil && c.s.chance(0.8) {
			c.tell(l, func() error { return l.n.adopt(&v.topology) }, func(error) {})
		}
	}
}

// adopt is Replica.Adopt.
func (n *simReplica) adopt(t *Topology) error {
	if err := n.knows(t.Epoch); err != nil {
		return err
	}
	if n.told == nil || n.told.Version < t.Version {
		n.told = t
	}
	return nil
}

func (s *sim) sortKeys() {
	s.byPosition = slices.Clone(s.keys)
	slices.SortFunc(s.byPosition, func(j, k *simEntry) int { return j.position().Compare(k.position()) })
}

var errSimFence = fmt.Errorf("%w: too few nodes answered the scan", ErrReplicaUnavailable)
