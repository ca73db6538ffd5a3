package coord

import (
	"math/rand/v2"
	"testing"
)

// TestTallyAgainstCounting compares verdicts with counting the votes anew.
func TestTallyAgainstCounting(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		voters := 1 + rng.IntN(maxTargets)
		y := tally{voters: firstN(voters), need: 1 + rng.IntN(voters+1)}
		votes := map[int]bool{}
		for range rng.IntN(2 * voters) {
			i := rng.IntN(voters)
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
		yes, no := 0, 0
		for _, v := range votes {
			if v {
				yes++
			} else {
				no++
			}
		}
		want := pending
		switch {
		case yes >= y.need:
			want = won
		case voters-no < y.need:
			want = lost
		}
		if got := y.verdict(); got != want {
			t.Fatalf("%d voters, need %d, %d yes, %d no: verdict %d, want %d", voters, y.need, yes, no, got, want)
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
