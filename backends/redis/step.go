package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	driver "github.com/redis/go-redis/v9"

	"github.com/pairdb/coordinator/coord"
)

const (
	// singleSenders is how many pipelines to one server may be under way at once:
	// two, so that one goes out while the answers to the other come in.
	singleSenders = 2
	// clusterQueues are as many ranges of hash slots, each with one pipeline
	// under way, so that a node that does not answer holds up few other than its own.
	clusterQueues = 16
	// maxBatch bounds the steps in a pipeline.
	maxBatch = 256
)

var (
	errClosed       = errors.New("the store is closed")
	errTooManySteps = errors.New("too many steps are waiting")
	errTimeout      = errors.New("no answer in time")
	errReplicas     = errors.New("the claim is minted, but too few replicas have it")
)

// step is one method call on its way to the server and back. Its caller owns it,
// except from the moment it is queued until done is signalled or the caller has
// given up; in that last case nobody uses it again.
type step struct {
	script *script
	args   []any // digest or source, number of keys, key, arguments
	ends   time.Time
	timer  *time.Timer

	stage atomic.Uint32
	done  chan struct{} // of capacity 1
	reply any
	err   error

	tries int
	whole bool // send the script in full
	cmd   *driver.Cmd
}

const (
	stepWaiting uint32 = iota
	stepSent
	stepGivenUp
)

// take has a step taken, and returns the server's answer.
func (s *Store) take(ctx context.Context, script *script, key *coord.ClaimKey, args ...any) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, s.unavailable(script.name+" claim, not sent", err)
	}
	name := appendKey(make([]byte, 0, 128), s.opts.KeyPrefix, key)
	st := s.newStep()
	st.script = script
	st.args = append(append(st.args[:0], nil, nil, 1, name), args...)
	st.ends = time.Now().Add(s.opts.Timeout)
	late := errTimeout
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(st.ends) {
		st.ends, late = deadline, context.DeadlineExceeded
	}
	s.count.steps.Add(1)
	if err := s.queue(st, name); err != nil {
		return nil, s.unavailable(script.name+" claim, not sent", err)
	}
	st.timer.Reset(time.Until(st.ends))
	var err error
	select {
	case <-st.done:
		reply, err := st.reply, st.err
		s.recycle(st)
		if err != nil {
			return nil, s.unavailable(script.name+" claim", err)
		}
		return reply, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-st.timer.C:
		err = late
	}
	if st.stage.CompareAndSwap(stepWaiting, stepGivenUp) {
		return nil, s.unavailable(script.name+" claim, not sent", err)
	}
	return nil, s.unavailable(script.name+" claim", err)
}

func (s *Store) newStep() *step {
	if st, ok := s.pool.Get().(*step); ok {
		return st
	}
	st := &step{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	st.timer.Stop()
	return st
}

func (s *Store) recycle(st *step) {
	st.timer.Stop()
	clear(st.args)
	st.reply, st.err, st.cmd, st.tries, st.whole = nil, nil, nil, 0, false
	st.stage.Store(stepWaiting)
	s.pool.Put(st)
}

func (s *Store) queue(st *step, key []byte) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errClosed
	}
	queue := s.queues[0]
	if n := len(s.queues); n > 1 {
		queue = s.queues[slot(key)*n/slots]
	}
	select {
	case queue <- st:
		return nil
	default:
		s.count.overflows.Add(1)
		return errTooManySteps
	}
}

// send sends what gathers in a queue, one pipeline after the other.
func (s *Store) send(queue chan *step) {
	batch := make([]*step, 0, maxBatch)
	for first := range queue {
		// Others that are ready to run may be about to queue theirs.
		runtime.Gosched()
		batch = append(batch[:0], first)
	more:
		for len(batch) < maxBatch {
			select {
			case st, ok := <-queue:
				if !ok {
					break more
				}
				batch = append(batch, st)
			default:
				break more
			}
		}
		s.sendBatch(batch)
		clear(batch)
	}
}

// sendBatch sends the steps of a batch until each is answered or has failed.
func (s *Store) sendBatch(batch []*step) {
	var ends time.Time
	open := batch[:0]
	for _, st := range batch {
		if st.stage.CompareAndSwap(stepWaiting, stepSent) {
			open = append(open, st)
			if st.ends.After(ends) {
				ends = st.ends
			}
		}
	}
	if len(open) == 0 {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), ends)
	defer cancel()
	for attempt := 0; ; attempt++ {
		s.roundTrip(ctx, open)
		var pause bool
		if open, pause = s.settle(open); len(open) == 0 {
			return
		}
		if pause && !sleep(ctx, backoff(attempt)) {
			for _, st := range open {
				st.done <- struct{}{}
			}
			return
		}
	}
}

// settle lets go of the steps that are answered or have failed for good, and
// returns those to send again, and whether to pause before.
func (s *Store) settle(open []*step) (again []*step, pause bool) {
	again = open[:0]
	answered := 0
	for _, st := range open {
		switch {
		case st.err == nil:
			answered++
		case !st.whole && driver.HasErrorPrefix(st.err, "NOSCRIPT"):
			st.whole = true
			again = append(again, st)
			continue
		case st.tries < s.opts.MaxRetries && retryable(st.err):
			if !s.budget.spend() {
				s.count.refusals.Add(1)
				break
			}
			st.tries++
			s.count.retries.Add(1)
			again = append(again, st)
			pause = true
			continue
		}
		st.done <- struct{}{}
	}
	s.budget.earn(answered)
	return again, pause
}

// sleep tells whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff is how long to wait after the attempt: around 10 ms, then twice as
// long each time.
func backoff(attempt int) time.Duration {
	d := 10 * time.Millisecond << min(attempt, 4)
	return d/2 + rand.N(d)
}

// roundTrip sends the steps in one pipeline and notes each one's answer.
func (s *Store) roundTrip(ctx context.Context, steps []*step) {
	s.count.roundTrips.Add(1)
	pipe := s.client.Pipeline()
	decides := false
	for _, st := range steps {
		st.args[0], st.args[1] = "evalsha", st.script.digest
		if st.whole {
			st.args[0], st.args[1] = "eval", st.script.source
		}
		st.cmd = pipe.Do(ctx, st.args...)
		decides = decides || st.script.decides
	}
	var wait *driver.Cmd
	if decides && s.opts.WaitReplicas > 0 {
		wait = pipe.Do(ctx, "wait", s.opts.WaitReplicas, milliseconds(s.replicaPatience(ctx)))
	}
	_, _ = pipe.Exec(ctx)
	for _, st := range steps {
		st.reply, st.err = st.cmd.Result()
		st.cmd = nil
		if wait != nil && st.err == nil && minted(st.reply) {
			st.err = s.replicated(wait)
		}
	}
}

// replicaPatience is how long replicas are waited for: so long that the answer
// still arrives before the steps end.
func (s *Store) replicaPatience(ctx context.Context) time.Duration {
	left := min(s.opts.Timeout, s.opts.ReadTimeout)
	if ends, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(ends))
	}
	return left * 3 / 5
}

// minted tells whether an answer is the record of a minted claim.
func minted(reply any) bool {
	record, ok := reply.(string)
	return ok && len(record) > 1 && record[1] >= stageMinted
}

func (s *Store) replicated(wait *driver.Cmd) error {
	have, err := wait.Int()
	switch {
	case err != nil:
		return fmt.Errorf("wait for replicas: %w", err)
	case have < s.opts.WaitReplicas:
		return fmt.Errorf("%w: %d of %d", errReplicas, have, s.opts.WaitReplicas)
	}
	return nil
}

// retryable tells whether sending again soon may help. A timeout is not worth
// it: by then the step has used up its time.
func retryable(err error) bool {
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errReplicas),
		errors.Is(err, driver.ErrClosed), errors.Is(err, driver.ErrPoolTimeout), errors.Is(err, driver.ErrPoolExhausted):
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return false
	}
	var answer driver.Error
	if !errors.As(err, &answer) {
		return true // the connection broke, or could not be made
	}
	for _, prefix := range []string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "max number of clients"} {
		if driver.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}
