package coord

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// An operation whose replicas know a newer ring stops asking, waits until this
// coordinator knows that ring too, and goes on with it: a phase counts the
// answers of one ring only.

// outdate takes note that a replica knows a newer epoch. It is called with mu
// held, and takes a hold on the operation that resume gives back.
func (o *operation) outdate(epoch uint64) {
	o.subject().outdated = true
	o.refs++
	o.c.rings.await(o, epoch)
}

// resume goes on with a ring as new as the operation waited for, if it still
// waits. It is called without locks, and gives the hold of outdate back.
func (o *operation) resume() {
	c := o.c
	o.mu.Lock()
	if o.isAnswered() {
		o.refs--
		o.carryOut()
		return
	}
	if now := c.now(); now >= o.deadline {
		// After a pause its timer may come later than this. What it decided on
		// is too old to be sent with what nodes have said of their time since.
		switch o.kind {
		case opWrite:
			o.write.wake(now, &o.fx)
		case opRead:
			o.read.wake(now, &o.fx)
		}
		o.refs--
		o.carryOut()
		return
	}
	v := c.view.Load()
	t, ok := c.tenants.ready(o.id)
	ok = ok && v.serves(t)
	if !ok {
		// The tenant may have another replication factor by now.
		id, due := o.id, o.expires
		o.mu.Unlock()
		go func() {
			_, _, err := c.awaitTenant(context.Background(), id, due)
			if err != nil {
				o.abort(err)
				return
			}
			o.resume()
		}()
		return
	}
	o.calls = nil // those of the attempt before are still out
	o.attempt++
	o.rf = t.ReplicationFactor
	sub := o.subject()
	sub.outdated = false
	o.place(v, sub)
	now := c.now()
	switch o.kind {
	case opWrite:
		o.write.hedge = hedgeAfter(o.peers, Majority(o.rf))
		o.write.restart(now, &o.fx)
	case opRead:
		o.read.hedge = hedgeAfter(o.peers, o.read.level.need(o.rf))
		o.read.restart(now, &o.fx)
	}
	o.refs--
	o.carryOut()
}

// abort ends an operation that cannot go on with a newer ring.
func (o *operation) abort(err error) {
	o.mu.Lock()
	if !o.isAnswered() {
		switch o.kind {
		case opWrite:
			o.write.abandon(err, &o.fx)
			if !o.isAnswered() { // it was sent, or minted
				o.write.fail(InDoubt, err, &o.fx)
			}
		case opRead:
			o.read.fail(err, &o.fx)
		}
	}
	o.refs--
	o.carryOut()
}

// rings holds the operations that wait for a newer ring.
type rings struct {
	mu      sync.Mutex
	waiting []ringWait
	wake    chan struct{} // capacity 1
}

type ringWait struct {
	o     *operation
	epoch uint64
}

func (r *rings) await(o *operation, epoch uint64) {
	r.mu.Lock()
	r.waiting = append(r.waiting, ringWait{o, epoch})
	r.mu.Unlock()
	r.look()
}

// look makes followRings look again.
func (r *rings) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take removes those that wait for no more than epoch, or all.
func (r *rings) take(epoch uint64, all bool) (ready []*operation, left uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.waiting[:0]
	for _, w := range r.waiting {
		if all || w.epoch <= epoch {
			ready = append(ready, w.o)
		} else {
			kept = append(kept, w)
			left = max(left, w.epoch)
		}
	}
	clear(r.waiting[len(kept):])
	r.waiting = kept
	return ready, left
}

// Pauses between looks for a ring that operations wait for.
const (
	ringRetryMin = 5 * time.Millisecond
	ringRetryMax = 500 * time.Millisecond
)

// followRings gets newer rings for the operations that wait for one, until ctx
// ends. Operations end by their own deadlines, whatever it finds.
func (c *Coordinator) followRings(ctx context.Context) {
	pause := ringRetryMin
	for {
		ready, wanted := c.rings.take(c.view.Load().topology.Epoch, false)
		for _, o := range ready {
			o.resume()
		}
		var retry <-chan time.Time
		if wanted > 0 {
			err := c.learnRing(ctx, wanted)
			if c.view.Load().topology.Epoch >= wanted {
				pause = ringRetryMin
				continue
			}
			if err != nil && ctx.Err() == nil && c.events.Background != nil {
				c.events.Background("get a newer ring", err)
			}
			retry = time.After(pause)
			pause = min(2*pause, ringRetryMax)
		}
		select {
		case <-ctx.Done():
			ready, _ := c.rings.take(0, true)
			for _, o := range ready {
				o.abort(ErrShuttingDown)
			}
			return
		case <-c.rings.wake:
		case <-retry:
		}
	}
}

// learnRing asks metadata for the topology and, where that does not answer, the
// storage nodes, which keep the newest they were told of.
func (c *Coordinator) learnRing(ctx context.Context, epoch uint64) error {
	bounded, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	failure := c.Refresh(bounded)
	if c.view.Load().topology.Epoch >= epoch {
		return nil
	}
	for _, p := range c.view.Load().peers {
		if p.replica.Unavailable() != nil {
			continue
		}
		who, err := p.describe(bounded)
		if err != nil || who.Epoch < epoch || len(who.Topology) == 0 {
			continue
		}
		t, err := DecodeTopology(who.Topology)
		if err != nil {
			failure = errors.Join(failure, fmt.Errorf("ring of storage node %s: %w", p.node.ID, err))
			continue
		}
		if err := c.reshape(t); err != nil {
			return err
		}
		return nil
	}
	return failure
}
