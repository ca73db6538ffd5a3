package limit

import (
	"sync"
	"sync/atomic"
	"time"
)

// A coordinator that is asked for more than it can do must not let operations
// wait in its queues until they are too late to be of use. How many may be under
// way is found as CoDel finds how long a queue may be (Nichols and Jacobson,
// "Controlling Queue Delay", 2012): while even the fastest operations of an
// interval take longer than they should, there is a queue that does not go away,
// and fewer are let in.
const (
	// interval is how long is looked at at a time.
	interval = 100 * time.Millisecond
	// target is how long the fastest operations may take at least, however fast
	// they have been when there was no load.
	target = 50 * time.Millisecond
	// slack is how much longer than without load they may take.
	slack = 4
	// fewest operations may always be under way.
	fewest = 256
	// baseAge is how long the fastest time counts for the one without load.
	baseAge = 30 * time.Second
	// enough operations in an interval tell something.
	enough = 8
)

// window is how many operations may be under way.
type window struct {
	most    int64
	allowed atomic.Int64
	ends    atomic.Int64 // of the interval, nanoseconds
	fastest atomic.Int64 // operation that ended in it
	done    atomic.Int64 // operations that ended in it
	expired atomic.Int64 // operations whose time was up in it
	peak    atomic.Int64 // most that were under way in it

	mu     sync.Mutex // held at the end of an interval
	base   int64      // how long the fastest took without load
	baseAt int64
}

func (w *window) open(most int64) {
	w.most = most
	w.allowed.Store(most)
	w.fastest.Store(int64(time.Hour))
}

// ended is what the end of an operation tells of the queue.
type ended uint8

const (
	// inTime: as much as it took.
	inTime ended = iota
	// tooLate: its time was up, and it might have taken any longer.
	tooLate
	// unrelated: nothing. It failed for want of something, which it knew at once
	// or waited for in vain: neither says how long those take that succeed.
	unrelated
)

// note tells of an operation that has ended, and how many were under way then.
func (w *window) note(how ended, underWay, now, took int64) {
	switch how {
	case inTime:
		w.done.Add(1)
		if took < w.fastest.Load() {
			w.fastest.Store(took) // of two at once either will do
		}
	case tooLate:
		w.expired.Add(1)
	}
	if underWay > w.peak.Load() {
		w.peak.Store(underWay)
	}
	if ends := w.ends.Load(); now >= ends && w.mu.TryLock() {
		if w.ends.CompareAndSwap(ends, now+int64(interval)) {
			w.turn(now)
		}
		w.mu.Unlock()
	}
}

// turn ends an interval.
func (w *window) turn(now int64) {
	done, fastest, peak := w.done.Swap(0), w.fastest.Swap(int64(time.Hour)), w.peak.Swap(0)
	expired := w.expired.Swap(0)
	allowed := w.allowed.Load()
	if done < enough {
		// Where hardly any is done in its time there is a queue, and a long one.
		if expired >= enough {
			w.allowed.Store(min(max(min(allowed, peak)/2, fewest), allowed))
		}
		return
	}
	if w.base == 0 || fastest < w.base || now-w.baseAt > int64(baseAge) && fastest < int64(target) {
		w.base, w.baseAt = fastest, now
	}
	most := max(int64(target), slack*w.base)
	switch {
	case fastest > most:
		// From what there is, not from what there might be: as much less as the
		// queue is too long, but at least an eighth and at most half.
		now := min(allowed, peak)
		allowed = max(min(max(now*most/fastest, now/2), now*7/8), fewest)
	case peak >= allowed*3/4:
		allowed += max(allowed/16, 4)
	case allowed < w.most:
		allowed += max(allowed/64, 1)
	}
	w.allowed.Store(min(allowed, w.most))
}

// reserve is the part of what may be under way that only tenants below their
// equal share may use: one eighth.
const reserve = 8

// load refuses what would be too much. The noisiest tenants go first: one that
// has more than an equal share under way may not use the last of the room.
func (l *Limiter) load(t *Tenant, bytes int64) error {
	allowed := l.window.allowed.Load()
	underWay := l.inFlight.Load()
	if underWay >= allowed {
		return errTooMuch
	}
	if underWay >= allowed-max(allowed/reserve, 1) {
		if share := allowed / max(l.busy.Load(), 1); t.inFlight.Load() >= max(share-share/reserve, 1) {
			return errTooMuch
		}
	}
	// A single value always finds room, or it never would.
	if held := l.bytes.Load(); bytes > 0 && held > 0 && held+bytes > l.opts.MaxBytes/2 {
		return errTooLarge
	}
	return nil
}

// The same for every operation, since making them costs what is short then.
// Nobody may change them.
var (
	errTooMuch  = &Refusal{ErrOverloaded, ErrOverloaded.Error() + ": too many operations are under way", defaultRetry}
	errTooLarge = &Refusal{ErrOverloaded, ErrOverloaded.Error() + ": too many bytes of values are under way", defaultRetry}
)
