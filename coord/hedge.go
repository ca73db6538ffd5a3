package coord

import "sync/atomic"

// hedgeBudget bounds hedged calls to a share of all operations, so that slow
// replicas are not answered with more load on all of them. Each operation
// earns a twentieth of a hedge; hedgeBurst is what can be saved up.
type hedgeBudget struct{ credit atomic.Int64 }

const (
	hedgeCost  = 20
	hedgeBurst = 100 * hedgeCost
)

func (b *hedgeBudget) earn() {
	if b.credit.Load() < hedgeBurst {
		b.credit.Add(1)
	}
}

func (b *hedgeBudget) take() bool {
	if b.credit.Add(-hedgeCost) < 0 {
		b.credit.Add(hedgeCost)
		return false
	}
	return true
}
