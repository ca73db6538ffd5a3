package coord

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// identityKeeper holds the coordinator's identity for as long as it lives. It
// takes a new incarnation when the old one can no longer be used:
//
//   - What held the node id was cut off (Identity.Lost). Versions issued
//     meanwhile stay distinct from those of a process that took the id over,
//     since that one has another incarnation; so writes go on, and the id is
//     taken back when metadata answers.
//   - The wall clock has jumped back so far that the process clock, which never
//     does, is further ahead than replicas accept. Under a new incarnation the
//     process clock may start again from the wall clock.
type identityKeeper struct {
	c      *Coordinator
	mu     sync.Mutex
	held   Identity
	failed chan error // capacity 1: the id was lost to another process
}

// identityRetry is the pause between attempts to take the id back.
const (
	identityRetry   = 500 * time.Millisecond
	identityTimeout = 2 * time.Second
)

func (k *identityKeeper) writer() Writer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held.Writer
}

func (k *identityKeeper) lost() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held.Lost
}

func (k *identityKeeper) release() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held.Release == nil {
		return nil
	}
	return k.held.Release()
}

// run renews the identity when it must be, until ctx ends.
func (k *identityKeeper) run(ctx context.Context) {
	for {
		why := "node id may no longer be held"
		select {
		case <-ctx.Done():
			return
		case <-k.lost():
		case <-k.c.issuer.stuck:
			why = "wall clock has jumped back"
		}
		if f := k.c.events.Background; f != nil {
			f("keep node id", fmt.Errorf("%s: taking a new incarnation", why))
		}
		if err := k.renew(ctx); err != nil {
			if ctx.Err() == nil {
				k.failed <- err
			}
			return
		}
	}
}

// renew takes the id again. It fails only if another process has it.
func (k *identityKeeper) renew(ctx context.Context) error {
	id := k.writer().ID
	_ = k.release() // of a lock that is gone, or about to be taken again
	for {
		bounded, cancel := context.WithTimeout(ctx, identityTimeout)
		identity, err := k.c.metadata.AcquireIdentity(bounded, id)
		cancel()
		switch {
		case err == nil:
			k.mu.Lock()
			k.held = identity
			k.mu.Unlock()
			k.c.issuer.reincarnate(identity.Writer)
			return nil
		case errors.Is(err, ErrNodeIDTaken), ctx.Err() != nil:
			return fmt.Errorf("take node id %q back: %w", id, err)
		}
		timer := time.NewTimer(identityRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// Failed tells, at most once, why the coordinator must not go on: another
// process has taken its node id.
func (c *Coordinator) Failed() <-chan error { return c.identity.failed }
