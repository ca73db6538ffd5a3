package client

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// Pauses between attempts double from the first to the greatest. Each is drawn
// between half of that and all of it.
const (
	firstPause    = 20 * time.Millisecond
	greatestPause = time.Second
)

// budget lets retries be a fraction of what is asked for, after a burst.
type budget struct{ credit atomic.Int64 }

const (
	creditPerCall  = 1
	creditPerRetry = 10
	mostCredit     = 100 * creditPerRetry
)

func (b *budget) earn() {
	if b.credit.Load() < mostCredit { // a little more does no harm
		b.credit.Add(creditPerCall)
	}
}

func (b *budget) take() bool {
	if b.credit.Add(-creditPerRetry) >= 0 {
		return true
	}
	b.credit.Add(creditPerRetry)
	return false
}

// passing tells errors that another attempt may not meet.
func (e *Error) passing() bool {
	switch e.Code {
	case codes.Unavailable:
		return true
	case codes.ResourceExhausted:
		// Without a reason it is gRPC's own: the message was too large.
		return e.Reason != ""
	}
	return false
}

// mayRetry tells whether to make another attempt, and after which pause.
func (c *Client) mayRetry(call *call, e *Error, attempt int) (pause time.Duration, ok bool) {
	switch {
	case !e.passing() || attempt >= c.opts.MaxAttempts:
		return 0, false
	case call.mutates() && e.Outcome != NotApplied && call.idempotencyKey == "":
		return 0, false
	case !e.unsent && !c.budget.take():
		return 0, false
	}
	longest := greatestPause
	if shift := attempt - 1; shift < 10 {
		longest = min(firstPause<<shift, greatestPause)
	}
	pause = longest/2 + rand.N(longest/2+1)
	if attempt == 1 && e.unsent {
		pause = rand.N(firstPause / 10) // another connection may be there
	}
	return max(pause, e.RetryDelay), true
}

// rest waits, and reports false where ctx or the time until due end before.
func rest(ctx context.Context, pause time.Duration, due time.Time) bool {
	if time.Until(due) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
