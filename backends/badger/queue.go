package badger

import (
	"sync"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// callOverhead is what a waiting call costs besides its strings and value.
const callOverhead = 512

func callBytes(c *coord.Call) int64 {
	return int64(callOverhead + len(c.Tenant) + len(c.Key) + len(c.Version.Value))
}

// batchBytes is what of a call goes through the database.
func batchBytes(c *coord.Call) int64 {
	if isLarge(c) {
		return callBytes(c) - int64(len(c.Version.Value))
	}
	return callBytes(c)
}

// queue holds calls that wait, in order of arrival, bounded in number and bytes.
type queue struct {
	maxCalls int
	maxBytes int64

	mu     sync.Mutex
	wake   sync.Cond // there are calls, or the queue is closed
	calls  []*coord.Call
	head   int // calls before it have been taken
	bytes  int64
	got    uint64 // calls, ever
	closed bool
}

func newQueue(maxCalls int, maxBytes int64) *queue {
	q := &queue{maxCalls: maxCalls, maxBytes: maxBytes}
	q.wake.L = &q.mu
	return q
}

// pushed is what became of a call that was to wait.
type pushed uint8

const (
	queued pushed = iota
	queueFull
	queueClosed
)

func (q *queue) push(c *coord.Call) pushed {
	size := callBytes(c)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch waiting := len(q.calls) - q.head; {
	case q.closed:
		return queueClosed
	case waiting >= q.maxCalls, waiting > 0 && q.bytes+size > q.maxBytes:
		return queueFull
	}
	q.calls = append(q.calls, c)
	q.bytes += size
	q.got++
	q.wake.Signal()
	return queued
}

// count is how many calls the queue has got since it was made.
func (q *queue) count() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.got
}

// take waits for calls and moves the first ones to dst: at most maxCalls, and
// one or no more than maxBytes, large values aside. It returns nothing once the queue is closed.
func (q *queue) take(dst []*coord.Call, maxCalls int, maxBytes int64) []*coord.Call {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.calls) == q.head && !q.closed {
		q.wake.Wait()
	}
	var bytes, freed int64
	for len(dst) < maxCalls && q.head < len(q.calls) {
		c := q.calls[q.head]
		size := batchBytes(c)
		if len(dst) > 0 && bytes+size > maxBytes {
			break
		}
		bytes += size
		freed += callBytes(c)
		dst = append(dst, c)
		q.calls[q.head] = nil
		q.head++
	}
	q.bytes -= freed
	switch {
	case q.head == len(q.calls):
		q.calls, q.head = q.calls[:0], 0
	case q.head > len(q.calls)/2:
		n := copy(q.calls, q.calls[q.head:])
		clear(q.calls[n:])
		q.calls, q.head = q.calls[:n], 0
	}
	return dst
}

// expire moves the calls whose deadline has passed to dst.
func (q *queue) expire(now time.Time, dst []*coord.Call) []*coord.Call {
	q.mu.Lock()
	defer q.mu.Unlock()
	kept := q.calls[:q.head]
	for _, c := range q.calls[q.head:] {
		if expired(c, now) {
			q.bytes -= callBytes(c)
			dst = append(dst, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(q.calls[len(kept):])
	q.calls = kept
	return dst
}

// close stops the queue and returns what still waits.
func (q *queue) close() []*coord.Call {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	left := q.calls[q.head:]
	q.calls, q.head, q.bytes = nil, 0, 0
	q.wake.Broadcast()
	return left
}

func expired(c *coord.Call, now time.Time) bool {
	return !c.Deadline.IsZero() && now.After(c.Deadline)
}
