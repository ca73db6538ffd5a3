package coord

import (
	"context"
	"crypto/rand"
	"errors"
)

// Waiter is told the answer of an operation that StartWrite or StartRead
// started, by one call of one method, from any goroutine and perhaps before the
// start has returned. It must not block.
type Waiter interface {
	// Written takes the answer to a write or delete, as Write returns it.
	Written(WriteResult, error)
	// Found takes the answer to a read, as Read returns it.
	Found(ReadResult, error)
}

// StartWrite is Write without the waiting: it returns at once, and w is told
// the answer. Nothing but the request's deadline gives the write up.
func (c *Coordinator) StartWrite(req WriteRequest, w Waiter) {
	if err := c.begin(); err != nil {
		w.Written(WriteResult{}, &WriteError{Outcome: NotApplied, Err: err})
		return
	}
	if t, ok := c.tenants.ready(req.Tenant); ok {
		if v := c.view.Load(); v.serves(t) {
			c.startWrite(v, t, &req, w)
			return
		}
	}
	go c.awaitTenantOfWrite(req, w)
}

func (c *Coordinator) awaitTenantOfWrite(req WriteRequest, w Waiter) {
	v, t, err := c.awaitTenant(context.Background(), req.Tenant, req.Deadline)
	if err != nil {
		c.ended()
		w.Written(WriteResult{}, &WriteError{Outcome: NotApplied, Err: err})
		return
	}
	c.startWrite(v, t, &req, w)
}

func (c *Coordinator) startWrite(v *view, t *Tenant, req *WriteRequest, w Waiter) {
	o := c.open(opWrite, v, t, req.Key, req.Level, req.Deadline)
	o.waiter = w
	o.takeWrite(req)
	o.start()
}

// StartRead is Read without the waiting, as StartWrite is Write.
func (c *Coordinator) StartRead(req ReadRequest, w Waiter) {
	if err := c.begin(); err != nil {
		w.Found(ReadResult{}, err)
		return
	}
	if t, ok := c.tenants.ready(req.Tenant); ok {
		if v := c.view.Load(); v.serves(t) {
			c.startRead(v, t, &req, w)
			return
		}
	}
	go c.awaitTenantOfRead(req, w)
}

func (c *Coordinator) awaitTenantOfRead(req ReadRequest, w Waiter) {
	v, t, err := c.awaitTenant(context.Background(), req.Tenant, req.Deadline)
	if err != nil {
		c.ended()
		w.Found(ReadResult{}, err)
		return
	}
	c.startRead(v, t, &req, w)
}

func (c *Coordinator) startRead(v *view, t *Tenant, req *ReadRequest, w Waiter) {
	o := c.open(opRead, v, t, req.Key, req.Level, req.Deadline)
	o.waiter = w
	o.takeRead(req)
	o.start()
}

// takeWrite completes a write, which is locked, with what is asked of it.
func (o *operation) takeWrite(req *WriteRequest) {
	c, w := o.c, &o.write
	o.follow(req.Trace)
	w.issuer = &c.issuer
	w.value, w.delete, w.ttl = req.Value, req.Delete, req.TTL
	w.deadline, w.hedges = o.deadline, &c.hedges
	w.hedge = hedgeAfter(o.peers, Majority(w.rf))
	if req.IdempotencyKey != "" {
		w.keyed = true
		w.print = fingerprint(*req)
		rand.Read(w.attempt[:])
		o.claimKey = ClaimKey{w.tenant, req.Key, req.IdempotencyKey}
	}
}

// takeRead completes a read, which is locked, with what is asked of it.
func (o *operation) takeRead(req *ReadRequest) {
	c, r := o.c, &o.read
	o.follow(req.Trace)
	r.deadline, r.hedges, r.awaitRepair = o.deadline, &c.hedges, c.options.AwaitRepair
	r.wall = o.began
	r.hedge = hedgeAfter(o.peers, r.level.need(r.rf))
}

// leaveWrite takes the answer of a write, or gives it up where there is none
// yet, and lets go of it. It is called with mu held.
func (o *operation) leaveWrite(ctx context.Context) (WriteResult, error) {
	c, w := o.c, &o.write
	result, err, deletion := w.result, w.err, w.delete
	if !o.isAnswered() {
		cause := abandonError(ctx)
		err = &WriteError{Outcome: w.abandon(cause, &o.fx), Err: cause}
	}
	o.leave()
	c.noteFailure(deletion, err)
	return result, err
}

// leaveRead is leaveWrite for a read.
func (o *operation) leaveRead(ctx context.Context) (ReadResult, error) {
	c, r := o.c, &o.read
	result, err := r.result, r.err
	if !o.isAnswered() {
		err = abandonError(ctx)
	}
	o.leave()
	if quorum := (*QuorumError)(nil); err != nil && c.events.QuorumFailure != nil && errors.As(err, &quorum) {
		c.events.QuorumFailure("read", quorum)
	}
	return result, err
}

func (o *operation) isAnswered() bool {
	if o.kind == opWrite {
		return o.write.stage == writeAnswered
	}
	return o.read.stage == readAnswered
}

// tell hands the answer to the waiter. It is called without mu, by whoever
// brought the answer; the waiter's hold keeps the operation until then.
func (o *operation) tell() {
	o.mu.Lock()
	o.tellLocked()
}

// tellLocked is called with mu held and returns with it released.
func (o *operation) tellLocked() {
	waiter := o.waiter
	o.waiter = nil
	if o.kind == opWrite {
		waiter.Written(o.leaveWrite(context.Background()))
	} else {
		waiter.Found(o.leaveRead(context.Background()))
	}
}

// expire ends the wait of a caller whose deadline has passed. It is called
// with mu held and returns with it released.
func (o *operation) expire() {
	o.limit = never
	if o.waiter != nil {
		o.tellLocked()
		return
	}
	o.release()
	o.carryOut()
}
