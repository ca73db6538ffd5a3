package coord

import "github.com/pairdb/coordinator/ring"

// placement is a key's replicas in a view: those that hold it and, while a
// change of topology moves it, those that it moves to.
type placement struct {
	rf      [2]int
	old     [MaxReplicationFactor]*peer
	new     [MaxReplicationFactor]*peer
	olds    int
	news    int // 0 where nothing moves
	lost    *peer
	loose   bool // one answer of those before the change is enough
	union   [maxTargets]*peer
	unions  int
	indexes [MaxReplicationFactor]uint32
}

// place finds the replicas of a token of a tenant, known by its space, that has
// rf of them.
func (v *view) place(p *placement, space string, token ring.Token, rf int) {
	p.rf = [2]int{rf, rf}
	p.olds, p.news, p.lost, p.loose = 0, 0, nil, false
	for _, n := range v.ring.Replicas(p.indexes[:0], token, min(rf, MaxReplicationFactor)) {
		p.old[p.olds] = v.members[n]
		p.olds++
	}
	m := v.change
	if m != nil {
		v.placeNext(p, m, space, token, rf)
	}
	p.unions = 0
	for _, peer := range p.old[:p.olds] {
		if peer != p.lost || p.isNew(peer) {
			p.union[p.unions] = peer
			p.unions++
		}
	}
	for _, peer := range p.new[:p.news] {
		if !p.isOld(peer) {
			p.union[p.unions] = peer
			p.unions++
		}
	}
}

// placeNext finds where a key moves, if it does.
func (v *view) placeNext(p *placement, m *Migration, space string, token ring.Token, rf int) {
	next, members := v.next, v.nextMembers
	if next == nil {
		next, members = v.ring, v.members
	}
	if m.Kind == MigrationResize {
		if !m.resizes(space) {
			return
		}
		p.rf[1] = m.To
		rf = m.To
	}
	for _, n := range next.Replicas(p.indexes[:0], token, min(rf, MaxReplicationFactor)) {
		p.new[p.news] = members[n]
		p.news++
	}
	if id := m.lostNode(); id != "" {
		for _, peer := range p.old[:p.olds] {
			if peer.node.ID == id {
				p.lost = peer
			}
		}
	}
	p.loose = m.AcceptLoss
	if p.lost != nil || p.news != p.olds || p.rf[0] != p.rf[1] {
		return
	}
	for _, peer := range p.new[:p.news] {
		if !p.isOld(peer) {
			return
		}
	}
	p.news = 0 // the same replicas
}

// peers is all that are asked, in the ring's order. It is valid as long as p is.
func (p *placement) peers() []*peer { return p.union[:p.unions] }

func (p *placement) isOld(peer *peer) bool { return contains(p.old[:p.olds], peer) }
func (p *placement) isNew(peer *peer) bool { return contains(p.new[:p.news], peer) }

func contains(peers []*peer, x *peer) bool {
	for _, p := range peers {
		if p == x {
			return true
		}
	}
	return false
}

// sides tells which of the targets, in their order, are on which side.
func (p *placement) sides(targets []*peer) (sides [2]side) {
	if p.news == 0 && p.lost == nil {
		sides[0] = newSide(firstN(len(targets)), p.rf[0])
		return sides
	}
	var old, next set
	for i, peer := range targets {
		if p.isOld(peer) && peer != p.lost {
			old = old.with(i)
		}
		if p.isNew(peer) {
			next = next.with(i)
		}
	}
	sides[0], sides[1] = newSide(old, p.rf[0]), newSide(next, p.rf[1])
	if p.lost != nil {
		sides[0] = sides[0].survivors(p.olds, p.rf[0])
		if p.loose {
			sides[0].quorum, sides[0].fence = 1, 1
		}
	}
	return sides
}
