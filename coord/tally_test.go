package coord

import (
	"math/rand/v2"
	"testing"
)

// TestTallyAgainstCounting compares verdicts with counting the votes of each
// group anew.
func TestTallyAgainstCounting(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		targets := 1 + rng.IntN(maxTargets)
		var y tally
		y.groups[0] = group{firstN(targets), 1 + rng.IntN(targets+1)}
		if rng.IntN(2) == 0 {
			// Two groups that overlap, as old and new replicas do.
			y.groups[0].voters = set(rng.Uint32()) & firstN(targets)
			y.groups[1] = group{set(rng.Uint32()) & firstN(targets), rng.IntN(targets + 1)}
		}
		votes := map[int]bool{}
		for range rng.IntN(2 * targets) {
			i := rng.IntN(targets)
			if rng.IntN(2) == 0 {
				y.ack(i)
				votes[i] = true
			} else {
				y.fail(i)
				if !votes[i] { // a yes stands
					votes[i] = false
				}
			}
		}
		want := won
		for _, g := range y.groups {
			yes, left := 0, 0
			for i := range targets {
				if vote, voted := votes[i]; g.voters.has(i) && vote {
					yes++
				} else if g.voters.has(i) && !voted {
					left++
				}
			}
			switch {
			case yes+left < g.need:
				want = lost
			case yes < g.need && want == won:
				want = pending
			}
		}
		if got := y.verdict(); got != want {
			t.Fatalf("groups %+v, votes %v: verdict %d, want %d", y.groups, votes, got, want)
		}
	}
}

func TestLevelsNeed(t *testing.T) {
	for _, c := range []struct {
		level Level
		rf    int
		need  int
	}{{One, 3, 1}, {Quorum, 1, 1}, {Quorum, 2, 2}, {Quorum, 3, 2}, {Quorum, 4, 3}, {Quorum, 5, 3}, {All, 5, 5}} {
		if got := c.level.need(c.rf); got != c.need {
			t.Errorf("%v of %d needs %d, want %d", c.level, c.rf, got, c.need)
		}
	}
}

// TestFenceMeetsEveryQuorum: whichever replicas made a quorum, and whichever
// are asked for the fence, they have one in common; and with one fewer asked
// there is a quorum that they miss.
func TestFenceMeetsEveryQuorum(t *testing.T) {
	for rf := 1; rf <= MaxReplicationFactor; rf++ {
		for members := Majority(rf); members <= rf; members++ {
			f := fence(members, rf)
			if f+Majority(rf) <= members {
				t.Errorf("a fence of %d and a quorum of %d fit beside each other in %d members", f, Majority(rf), members)
			}
			if f-1+Majority(rf) > members {
				t.Errorf("a fence of %d of %d members, replication factor %d, could be smaller", f, members, rf)
			}
		}
	}
}
