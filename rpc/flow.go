package rpc

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// flow is what one stream has under way: what was read from it and is not yet
// answered, bounded in number and in bytes. Beyond the bounds the stream is not
// read, so that its sender's own queue fills. Answers leave in the order in
// which they become known, as many at a time as have gathered while those
// before them were being written.
//
// T is what the stream keeps of one operation. One goroutine reads (admit), any
// finish (done), and one writes (serve).
type flow[T any] struct {
	maxUnderWay int
	maxBytes    int

	mu       sync.Mutex
	room     sync.Cond     // signalled when there is room for more, and when no more is taken
	finish   []finished[T] // to be sent
	items    []T           // the reader's, of one message
	underWay int           // admitted and not yet sent
	bytes    int           // kept by what is under way
	writing  bool          // somebody is at work and will look at finish again
	held     bool          // the reader starts operations, and sees to answers after that
	direct   bool          // the reader sends answers, and serve must not
	ending   bool          // serve waits for the end of all that is under way
	closed   bool          // nothing is admitted any more
	ended    bool          // the stream is gone; nothing will be sent any more

	wake chan struct{} // holds a token when serve has something to do
}

type finished[T any] struct {
	item T
	cost int
}

func (f *flow[T]) open(maxUnderWay, maxBytes int) {
	f.maxUnderWay, f.maxBytes = maxUnderWay, maxBytes
	f.wake = make(chan struct{}, 1)
	f.room.L = &f.mu
}

// admit waits until there is room for n operations that keep so many bytes
// together, and books them; it fails once nothing is taken any more.
func (f *flow[T]) admit(n, bytes int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.closed && f.underWay > 0 && (f.underWay+n > f.maxUnderWay || f.bytes >= f.maxBytes) {
		f.room.Wait()
	}
	if f.closed {
		return false
	}
	f.underWay += n
	f.bytes += bytes
	return true
}

// done takes an operation whose answer is known and keeps cost bytes; the
// operation was booked with so many as was. Where too much waits already,
// refuse changes it to an answer that keeps no more than operationOverhead. It
// reports false where the stream is gone, and leaves the item to the caller.
func (f *flow[T]) done(item T, was, cost int, refuse func(T)) bool {
	f.mu.Lock()
	f.bytes -= was
	if f.ended {
		f.underWay--
		f.mu.Unlock()
		return false
	}
	// Reads that were started while there was room may together have found
	// more than may wait: twice the bound is the end of it.
	if cost > operationOverhead && f.underWay > 1 && f.bytes+cost > 2*f.maxBytes {
		refuse(item)
		cost = operationOverhead
	}
	f.bytes += cost
	f.finish = append(f.finish, finished[T]{item, cost})
	wake := !f.writing && !f.held
	f.writing = f.writing || wake
	f.mu.Unlock()
	if wake {
		f.rouse()
	}
	return true
}

func (f *flow[T]) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// hold keeps answers back until let, so that those which become known at once
// leave together. Both are the reader's.
func (f *flow[T]) hold() {
	f.mu.Lock()
	f.held = true
	f.mu.Unlock()
}

// let ends hold. Answers that became known at once are sent by the reader
// itself, where serve is not at it already: to wake another goroutine for them
// costs more than most of them do.
func (f *flow[T]) let(send func([]T) error) error {
	f.mu.Lock()
	f.held = false
	if f.writing || f.ended || len(f.finish) == 0 {
		f.mu.Unlock()
		return nil
	}
	items, bytes := f.take(f.items[:0])
	f.writing, f.direct = true, true
	f.mu.Unlock()

	err := send(items)

	f.mu.Lock()
	f.underWay -= len(items)
	f.bytes -= bytes
	f.direct, f.writing = false, len(f.finish) > 0
	wake := f.writing || f.ending
	f.mu.Unlock()
	clear(items)
	f.items = items
	if wake {
		f.rouse()
	}
	return err
}

// endings are what makes serve end once what is under way is answered.
type endings struct {
	// read gets the reader's error when it has ended.
	read <-chan error
	// stopping: what still comes is answered, and serve returns stopped.
	stopping <-chan struct{}
	stopped  error
	// enough: nothing more is taken, and serve returns nil. May be nil.
	enough <-chan time.Time
}

// serve hands answers to send until the stream breaks, or until all is answered
// that was taken before one of the endings. Nothing is under way when it
// returns, but where the stream broke.
func (f *flow[T]) serve(ctx context.Context, end endings, send func([]T) error) error {
	ending, last := false, error(nil)
	var items []T
	for {
		select {
		case <-f.wake:
		case err := <-end.read:
			ending, last, end.read = true, err, nil
		case <-end.stopping:
			ending, last, end.stopping = true, end.stopped, nil
		case <-end.enough:
			f.close()
			ending = true
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			// Whatever else is ready to run may finish more for the same message.
			runtime.Gosched()
			var bytes int
			var over bool
			items, bytes, over = f.gather(items[:0], ending)
			if len(items) == 0 {
				if over {
					return last
				}
				break
			}
			n := len(items)
			err := send(items)
			clear(items)
			f.sent(n, bytes)
			if err != nil {
				return err
			}
		}
	}
}

// gather appends the oldest finished items, and tells what they keep and
// whether it is all over. When ending, nothing more is admitted from the moment
// on that all under way is finished.
func (f *flow[T]) gather(items []T, ending bool) (_ []T, bytes int, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ending = ending
	if f.direct {
		return items, 0, false // the reader will wake serve
	}
	if ending && f.underWay == len(f.finish) {
		f.closed = true
		f.room.Signal()
	}
	items, bytes = f.take(items)
	f.writing = len(items) > 0
	return items, bytes, f.closed && f.underWay == 0
}

// take appends the oldest finished items, as many as go into one message. The
// lock is held.
func (f *flow[T]) take(items []T) (_ []T, bytes int) {
	n := 0
	for n < len(f.finish) && n < batchOperations && (n == 0 || bytes+f.finish[n].cost <= batchBytes) {
		items = append(items, f.finish[n].item)
		bytes += f.finish[n].cost
		n++
	}
	rest := copy(f.finish, f.finish[n:])
	clear(f.finish[rest:])
	f.finish = f.finish[:rest]
	return items, bytes
}

// sent makes room for others.
func (f *flow[T]) sent(n, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.underWay -= n
	f.bytes -= bytes
	f.room.Signal()
}

// close lets nothing more in.
func (f *flow[T]) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.room.Signal()
}

// end notes that the stream is gone, and returns what was to be sent on it.
func (f *flow[T]) end() []finished[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed, f.ended = true, true
	left := f.finish
	f.finish = nil
	f.underWay -= len(left)
	f.room.Signal()
	return left
}
