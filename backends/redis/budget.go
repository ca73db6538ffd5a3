package redis

import "sync"

// budget bounds what is sent again: at first retryReserve steps, then a tenth of
// the steps that succeed, so that an outage is not answered with a multiple of
// the load that it had. It is safe for concurrent use.
type budget struct {
	mu     sync.Mutex
	tenths int
}

const retryReserve = 256

func newBudget() *budget { return &budget{tenths: 10 * retryReserve} }

// earn notes n steps that succeeded.
func (b *budget) earn(n int) {
	b.mu.Lock()
	b.tenths = min(b.tenths+n, 10*retryReserve)
	b.mu.Unlock()
}

// spend tells whether one step may be sent again.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tenths < 10 {
		return false
	}
	b.tenths -= 10
	return true
}
