package coord

import (
	"context"
	"time"
)

// pace holds work in the background to so many bytes a second. One goroutine
// uses it.
type pace struct {
	rate int64 // bytes a second; 0: no limit
	free time.Time
}

// spend notes bytes and waits until they are paid for.
func (p *pace) spend(ctx context.Context, bytes int64) error {
	if p.rate <= 0 || bytes <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(bytes) / float64(p.rate) * float64(time.Second)))
	wait := p.free.Sub(now)
	if wait < 5*time.Millisecond {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
