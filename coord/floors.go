package coord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// RangeFloor is the greatest timestamp that was forgotten, after its deletion
// or its end, in one of the ranges that OwedRange tells apart.
type RangeFloor struct {
	Range     uint16 // below 1 << OwedRangeBits
	Timestamp int64  // above 0
}

// floorTable is a node's floors by range, 0 where nothing was forgotten.
type floorTable [1 << OwedRangeBits]int64

// Floors are versions that nobody holds any more: a write reads them from a
// quorum, to be above what was collected. They move as versions do: read from so
// many of the old replicas, at the change's epoch, that every quorum of them has
// one of these, and kept by a quorum of the new ones before the change ends. The
// greatest counts. At the time of that reading a tombstone is either collected,
// and in the floors of the nodes that were asked, or they hold it and cannot
// drop it before the change ends, and then it is copied.

// floorAnswer is what a node says its floors are.
type floorAnswer struct {
	peer   *peer
	floors []RangeFloor
}

// floorRaise is what a new replica is to raise its floors to.
type floorRaise struct {
	peer   *peer
	floors []RangeFloor // by range, in order
}

// movedFloors tells, from what nodes answered, what the new replicas of spans
// have to raise their floors to. Nodes that already do are left out.
func movedFloors(shifts []shift, m *Migration, answers []floorAnswer) (raises []floorRaise) {
	held := make(map[*peer]*floorTable, len(answers))
	for _, a := range answers {
		held[a.peer] = tableOf(a.floors)
	}
	wanted := make(map[*peer]*floorTable)
	var gaining []*peer
	for i := range shifts {
		s := &shifts[i]
		asked := s.asked(m)
		for r := OwedRange(s.First); ; r++ {
			highest := int64(0)
			for _, p := range asked {
				if t := held[p]; t != nil {
					highest = max(highest, t[r])
				}
			}
			for _, p := range s.new {
				if t := held[p]; highest == 0 || t != nil && t[r] >= highest {
					continue
				}
				if wanted[p] == nil {
					wanted[p] = new(floorTable)
					gaining = append(gaining, p)
				}
				wanted[p][r] = max(wanted[p][r], highest)
			}
			if r == OwedRange(s.Last) {
				break
			}
		}
	}
	for _, p := range gaining {
		raise := floorRaise{peer: p}
		for r, timestamp := range wanted[p] {
			if timestamp != 0 {
				raise.floors = append(raise.floors, RangeFloor{uint16(r), timestamp})
			}
		}
		raises = append(raises, raise)
	}
	return raises
}

func tableOf(floors []RangeFloor) *floorTable {
	t := new(floorTable)
	for _, f := range floors {
		if int(f.Range) < len(t) {
			t[f.Range] = max(t[f.Range], f.Timestamp)
		}
	}
	return t
}

// floored tells whether the nodes that have raised their floors are a quorum of
// the replicas after the change. Factors are those in use before it.
func (s *shift) floored(m *Migration, factors []int, raised func(*peer) bool) error {
	if m.Kind == MigrationResize {
		factors = []int{m.To}
	}
	for _, rf := range factors {
		next, have := first(s.new, rf), 0
		need := min(Majority(rf), len(next))
		for _, p := range next {
			if raised(p) {
				have++
			}
		}
		if have < need {
			return fmt.Errorf("%w: %d of %d replicas know what was forgotten before they hold the range, of %s", ErrReplicaUnavailable, have, need, nodeNames(next))
		}
	}
	return nil
}

// everyone is all nodes that may hold something of the spans.
func everyone(shifts []shift, m *Migration) (all []*peer) {
	for i := range shifts {
		for _, p := range shifts[i].asked(m) {
			if !contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// moveFloors makes the new replicas know what the old ones have forgotten.
func (cp *copying) moveFloors(ctx context.Context, shifts []shift) error {
	if cp.Floors || mutant == mutantFloorsLeft {
		return nil
	}
	var ask []floorRaise
	for _, p := range everyone(shifts, cp.m) {
		ask = append(ask, floorRaise{peer: p})
	}
	answers, failure := raiseFloors(ctx, cp.v.topology.Epoch, ask)
	answered := answeredBy(answers)
	for i := range shifts {
		if err := shifts[i].fenced(cp.m, cp.factors, answered); err != nil {
			return errors.Join(err, failure)
		}
	}
	raises := movedFloors(shifts, cp.m, answers)
	answers, failure = raiseFloors(ctx, cp.v.topology.Epoch, raises)
	raised := raisedBy(raises, answers)
	for i := range shifts {
		if err := shifts[i].floored(cp.m, cp.factors, raised); err != nil {
			return errors.Join(err, failure)
		}
	}
	cp.Floors = true
	return cp.checkpoint(ctx, true)
}

// answeredBy tells of a peer whether it is among those that answered.
func answeredBy(answers []floorAnswer) func(*peer) bool {
	return func(p *peer) bool {
		return slices.ContainsFunc(answers, func(a floorAnswer) bool { return a.peer == p })
	}
}

// raisedBy tells of a peer whether it had nothing to raise, or has raised it.
func raisedBy(raises []floorRaise, answers []floorAnswer) func(*peer) bool {
	answered := answeredBy(answers)
	return func(p *peer) bool {
		return answered(p) || !slices.ContainsFunc(raises, func(r floorRaise) bool { return r.peer == p })
	}
}

// raiseFloors raises floors of nodes, or with none to raise asks for them, and
// returns what those answered that did, and what failed.
func raiseFloors(ctx context.Context, epoch uint64, raises []floorRaise) (answers []floorAnswer, failure error) {
	floors := make([][]RangeFloor, len(raises))
	errs := make([]error, len(raises))
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	var all sync.WaitGroup
	for i, r := range raises {
		if errs[i] = r.peer.replica.Unavailable(); errs[i] == nil {
			all.Go(func() { floors[i], errs[i] = r.peer.replica.Floors(bounded, epoch, r.floors) })
		}
	}
	all.Wait()
	for i, r := range raises {
		if errs[i] == nil {
			answers = append(answers, floorAnswer{r.peer, floors[i]})
		} else {
			failure = errors.Join(failure, fmt.Errorf("floors of storage node %s: %w", r.peer.node.ID, errs[i]))
		}
	}
	return answers, failure
}
