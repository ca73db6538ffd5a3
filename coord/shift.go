package coord

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pairdb/coordinator/ring"
)

// shift is a span of tokens whose replicas a change of topology changes.
type shift struct {
	ring.Span
	old, new []*peer // for the greatest replication factor in use, in the ring's order
}

// shifts lists what the change under way moves, in order. Factors are the
// replication factors in use, in ascending order.
func (v *view) shifts(factors []int) []shift {
	m := v.change
	if m == nil || len(factors) == 0 || len(v.members) == 0 {
		return nil
	}
	next, members := v.next, v.nextMembers
	if next == nil {
		next, members = v.ring, v.members
	}
	if len(members) == 0 {
		return nil
	}
	most := factors[len(factors)-1]
	from, to := most, most
	if m.Kind == MigrationResize {
		from, to = m.From, m.To
	}
	var moved []shift
	for _, r := range ring.Ranges(v.ring, from, next, to) {
		s := shift{r.Span, pick(v.members, r.Old), pick(members, r.New)}
		if m.Kind == MigrationResize || slices.ContainsFunc(factors, func(rf int) bool { return s.moves(rf, m.lostNode()) }) {
			moved = append(moved, s)
		}
	}
	return moved
}

func pick(peers []*peer, at []uint32) []*peer {
	picked := make([]*peer, len(at))
	for i, n := range at {
		picked[i] = peers[n]
	}
	return picked
}

func first(peers []*peer, n int) []*peer { return peers[:min(n, len(peers))] }

// moves tells whether a key of a tenant with rf replicas moves.
func (s *shift) moves(rf int, lost string) bool {
	old, new := first(s.old, rf), first(s.new, rf)
	if len(old) != len(new) {
		return true
	}
	for _, p := range old {
		if p.node.ID == lost || !contains(new, p) {
			return true
		}
	}
	return false
}

// asked is everybody who may hold something of the span.
func (s *shift) asked(m *Migration) []*peer {
	var all []*peer
	for _, p := range append(slices.Clone(s.old), s.new...) {
		if !contains(all, p) && (p.node.ID != m.lostNode() || contains(s.new, p)) {
			all = append(all, p)
		}
	}
	return all
}

// fenced tells whether the nodes that answered a scan at the change's epoch,
// which refuse every older one from then on, are in every quorum of the
// replicas before the change: whatever was acknowledged at an older epoch is in
// their answers, and nothing will be any more. Factors are those in use.
func (s *shift) fenced(m *Migration, factors []int, answered func(*peer) bool) error {
	if m.Kind == MigrationResize {
		factors = []int{m.From}
	}
	if mutant == mutantNoFence {
		return nil
	}
	for _, rf := range factors {
		old, have := first(s.old, rf), 0
		need := fence(len(old), rf)
		if m.AcceptLoss {
			need = min(need, 1)
		}
		if mutant == mutantCopyFromOne {
			need = 1
		}
		for _, p := range old {
			if p.node.ID != m.lostNode() && answered(p) {
				have++
			}
		}
		if have < need {
			return fmt.Errorf("%w: %d of the %d replicas that must be scanned answered, of %s", ErrReplicaUnavailable, have, need, nodeNames(old))
		}
	}
	return nil
}

func nodeNames(peers []*peer) []string {
	names := make([]string, len(peers))
	for i, p := range peers {
		names[i] = p.node.ID
	}
	return names
}

// scanAnswer is what a node has answered to a scan that others were asked, too.
type scanAnswer struct {
	peer *peer
	page ScanPage
}

// foundKey is a key in the answers to a scan.
type foundKey struct {
	Position
	newest Head
	heads  []Head // by answer; the zero Head where it lacks the key
}

// mergeScans puts the answers to one scan together, in order, up to the least
// position that all of them have covered: Next is where to go on, nil at the end.
func mergeScans(answers []scanAnswer) (found []foundKey, next *Position) {
	for i := range answers {
		if n := answers[i].page.Next; n != nil && (next == nil || n.Compare(*next) < 0) {
			next = n
		}
	}
	at := make([]int, len(answers))
	for {
		var least *Position
		for i := range answers {
			if items := answers[i].page.Items; at[i] < len(items) {
				if p := &items[at[i]].Position; least == nil || p.Compare(*least) < 0 {
					least = p
				}
			}
		}
		if least == nil || next != nil && least.Compare(*next) > 0 {
			return found, next
		}
		k := foundKey{Position: *least, heads: make([]Head, len(answers))}
		for i := range answers {
			if items := answers[i].page.Items; at[i] < len(items) && items[at[i]].Position == k.Position {
				k.heads[i] = items[at[i]].Head
				if k.heads[i].Compare(&k.newest) > 0 {
					k.newest = k.heads[i]
				}
				at[i]++
			}
		}
		found = append(found, k)
	}
}

// lacking tells whether some of the peers, as far as they answered, hold less
// than the newest version of a key, or did not answer.
func (k *foundKey) lacking(answers []scanAnswer, peers []*peer) bool {
	for _, p := range peers {
		i := slices.IndexFunc(answers, func(a scanAnswer) bool { return a.peer == p })
		if i < 0 || k.heads[i].Compare(&k.newest) < 0 {
			return true
		}
	}
	return false
}

// share is the part of all tokens that spans have together.
func share(shifts []shift, upTo *Position) (part float64) {
	for i := range shifts {
		s := shifts[i].Span
		if upTo != nil {
			if cmp.Compare(upTo.Token, s.First) <= 0 {
				break
			}
			s.Last = min(s.Last, upTo.Token)
		}
		part += s.Share()
	}
	return part
}
