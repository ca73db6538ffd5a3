package coord

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// operation runs one write or read over real replicas and stores: it feeds the
// state machine what happens, one event at a time under its lock, and does,
// outside the lock, what the machine asks for. It starts no goroutine for
// replica calls; whoever finishes a call carries the operation on.
//
// Operations are pooled. One goes back when its caller has left and every call
// and store step it started has ended, which each does by its own deadline.
type operation struct {
	c *Coordinator

	mu     sync.Mutex
	kind   operationKind
	write  write
	read   read
	fx     effects // of the event at hand, valid under mu
	refs   int     // caller, calls and store steps that are still out
	wakeAt instant // when it is woken, or later than that
	alarm  alarm
	timer  *time.Timer // for what the alarms cannot do; nil until then

	claimKey ClaimKey
	began    time.Time // by the wall clock
	started  instant
	deadline instant
	expires  time.Time // deadline as a wall clock time, for calls
	limit    instant   // when the caller's own time is over; never where the deadline is no later
	trace    *Trace    // nil: nothing is recorded
	waiter   Waiter    // who started it, until told the answer; nil where the caller waits in run

	peers      []*peer // in the order of the subject's targets
	peersBuf   [maxTargets]*peer
	targetsBuf [maxTargets]target
	heard      [maxTargets]heard // of the peers, before the operation's version was decided on
	calls      []outCall
	used       int
	attempt    uint32        // counts the rings that the operation was tried with
	rf         int           // of the tenant
	id         string        // of the tenant; calls carry its space
	answered   chan struct{} // capacity 1
}

type operationKind uint8

const (
	opNone operationKind = iota
	opWrite
	opRead
)

func (k operationKind) String() string { return [...]string{"none", "write", "read"}[k] }

// heard is what a node said of its own time.
type heard struct {
	boot  uint64
	clock time.Duration
}

// outCall is a call with what its answer is booked to.
type outCall struct {
	Call
	o       *operation
	peer    *peer
	sentAt  instant
	attempt uint32 // of the operation
	phase   phase
	target  uint8
	hedge   bool
}

func newOperation() any {
	return &operation{answered: make(chan struct{}, 1)}
}

// acquire takes an operation from the pool, held once, by its caller, and
// locked: an alarm of its last use may still be about to ring.
func (c *Coordinator) acquire(kind operationKind, timeout time.Duration) *operation {
	o := c.pool.Get().(*operation)
	o.mu.Lock()
	o.c, o.kind, o.refs, o.wakeAt, o.limit = c, kind, 1, never, never
	o.began = c.options.Wall()
	o.started = c.now()
	o.deadline = o.started.add(timeout)
	o.expires = c.origin.Add(time.Duration(o.deadline))
	return o
}

// place chooses the subject's replicas from the view and ranks them.
func (o *operation) place(v *view, sub *subject) {
	var down [maxTargets]error
	var p placement
	v.place(&p, sub.tenant, sub.token, o.rf)
	o.peers = append(o.peersBuf[:0], p.peers()...)
	rank(o.peers, o.started, sub.level, down[:])
	sub.epoch, sub.rf = v.topology.Epoch, o.rf
	sub.sides = p.sides(o.peers)
	sub.targets = o.targetsBuf[:len(o.peers)]
	for i, peer := range o.peers {
		sub.targets[i] = target{node: peer.node.ID, down: down[i]}
		o.heard[i].boot, o.heard[i].clock = peer.replica.Heard()
	}
	// A replica is asked at most once in each of an operation's phases, of
	// which a read has three.
	if size := 3 * len(o.peers); cap(o.calls) < size {
		o.calls = make([]outCall, size)
	} else {
		o.calls = o.calls[:size]
	}
	o.used = 0
}

// start starts the operation, which is locked, and unlocks it.
func (o *operation) start() {
	switch o.kind {
	case opWrite:
		o.write.start(o.started, &o.fx)
	case opRead:
		o.read.start(o.started, &o.fx)
	}
	o.carryOut()
}

// run starts the operation, which is locked, and waits unlocked for its answer,
// for the caller's deadline, or for the end of ctx.
func (o *operation) run(ctx context.Context) {
	o.start()
	select {
	case <-o.answered:
	case <-ctx.Done():
	}
}

// Done carries the operation on with a finished call.
func (out *outCall) Done(call *Call) {
	o := out.o
	now := o.c.now()
	took := time.Duration(now - out.sentAt)
	out.peer.answered(now, took, call.Kind != CallApply && !out.hedge, call.Err)
	if f := o.c.events.ReplicaCall; f != nil {
		f(out.peer.node.ID, call.Kind, took, call.Err)
	}
	o.mu.Lock()
	if o.trace != nil {
		o.trace.replied(o, out, now)
	}
	newer := newerEpoch(call.Err)
	switch {
	case !o.subject().counts(out.attempt, o.attempt):
	case newer != 0 && !o.isAnswered():
		o.outdate(newer)
	case o.kind == opWrite:
		o.write.reply(out.phase, int(out.target), &call.Held, call.Floor, call.Err, now, &o.fx)
	case o.kind == opRead:
		o.read.reply(out.phase, int(out.target), &call.Held, call.Err, now, &o.fx)
	}
	o.refs--
	o.carryOut()
}

// wake tells the machine the time. An alarm for an operation that has ended or
// was reused since changes nothing: the machine compares.
func (o *operation) wake() {
	o.mu.Lock()
	if o.refs == 0 || o.wakeAt == never {
		o.mu.Unlock()
		return
	}
	o.wakeAt = never
	now := o.c.now()
	switch o.kind {
	case opWrite:
		o.write.wake(now, &o.fx)
	case opRead:
		o.read.wake(now, &o.fx)
	}
	if now >= o.limit && !o.isAnswered() {
		o.expire()
		return
	}
	o.carryOut()
}

// carryOut does what the event that was just fed asks for. It is called with
// mu held and returns with it released: calls may finish before Do returns,
// and so re-enter the operation.
func (o *operation) carryOut() {
	fx := o.fx
	o.fx.reset()
	var calls [2 * maxTargets]*outCall
	if fx.n > 0 {
		now := o.c.now()
		for i, s := range fx.sends[:fx.n] {
			calls[i] = o.prepare(s, now)
		}
	}
	o.refs += fx.n
	if fx.store != noStep {
		o.refs++
	}
	if o.trace != nil {
		o.trace.carried(o, &fx)
	}
	if fx.missed != 0 {
		o.noteMissed(fx.missed)
	}
	tell := false
	if fx.answer {
		o.noteAnswer()
		if tell = o.waiter != nil; !tell {
			o.release()
		}
	}
	o.setAlarm()
	// The operation may be recycled as soon as mu is free unless something of
	// it is still out, so nothing below touches it but through what was counted.
	if o.refs == 0 {
		o.recycle()
		return
	}
	o.mu.Unlock()

	if fx.store != noStep {
		go o.store(fx.store)
	}
	for _, call := range calls[:fx.n] {
		call.peer.replica.Do(&call.Call)
	}
	if tell {
		o.tell()
	}
}

// release lets the caller in run go on.
func (o *operation) release() {
	select {
	case o.answered <- struct{}{}:
	default: // it was told already that its time is over
	}
}

// prepare books a call that is sent now.
func (o *operation) prepare(s send, now instant) *outCall {
	out := &o.calls[o.used]
	o.used++
	sub := o.subject()
	out.Call = Call{
		Kind: s.kind, Intent: s.intent,
		Tenant: sub.tenant, Key: sub.key, Token: sub.token, Epoch: sub.epoch,
		Deadline: o.expires, Caller: out,
	}
	out.o, out.attempt, out.peer = o, o.attempt, o.peers[s.target]
	if s.kind == CallApply {
		heard := &o.heard[s.target]
		out.Boot, out.Heard = heard.boot, heard.clock
		if o.kind == opWrite {
			out.Version = o.write.version
		} else {
			out.Version = o.read.best
			if o.read.transfer == nil {
				o.c.noteRepair(o.id, sub.key, out.peer.node.ID)
			}
		}
	}
	out.phase, out.target, out.hedge = s.phase, s.target, s.hedge
	out.sentAt = now
	out.peer.sending(out.sentAt)
	if o.trace != nil {
		out.Trace = o.trace.Context.child()
		o.trace.sent(o, out)
	}
	if f := o.c.events.Hedge; s.hedge && f != nil {
		f(out.peer.node.ID)
	}
	return out
}

func (o *operation) subject() *subject {
	if o.kind == opWrite {
		return &o.write.subject
	}
	return &o.read.subject
}

func (o *operation) setAlarm() {
	at := never
	switch o.kind {
	case opWrite:
		at = o.write.wakeAt()
	case opRead:
		at = o.read.wakeAt()
	}
	if at != never { // it is not answered yet
		at = min(at, o.limit)
	}
	if at >= o.wakeAt {
		return // the alarm is early enough; a wake too early costs nothing
	}
	o.wakeAt = at
	if o.c.alarms.set(o, at) {
		return
	}
	wait := time.Duration(at - o.c.now())
	if o.timer == nil {
		o.timer = time.AfterFunc(wait, o.wake)
	} else {
		o.timer.Reset(wait)
	}
}

func (o *operation) noteAnswer() {
	clash := &o.write.conflict
	if o.kind == opRead {
		clash = &o.read.clash
	}
	if f := o.c.events.Conflict; f != nil && clash.winner.Exists() {
		f(o.id, o.subject().key, clash.winner, clash.loser)
	}
}

// store takes one step on the write's claim and tells the machine.
func (o *operation) store(step storeStep) {
	w := &o.write // its keys, attempt and version are settled while a step is out
	ctx, cancel := context.WithDeadline(context.Background(), o.expires)
	defer cancel()
	var claim Claim
	var err error
	switch step {
	case stepReserve:
		claim, err = o.c.idempotency.Reserve(ctx, o.claimKey, w.print, w.attempt, claimLease)
	case stepMint:
		claim, err = o.c.idempotency.Mint(ctx, o.claimKey, w.attempt, w.version.Head)
	case stepComplete:
		err = o.c.idempotency.Complete(ctx, o.claimKey, w.version.Head, w.level)
	case stepRelease:
		err = o.c.idempotency.Release(ctx, o.claimKey, w.attempt)
	}
	o.mu.Lock()
	if o.trace != nil {
		o.trace.claimed(o, step, err)
	}
	switch step {
	case stepReserve:
		w.reserved(claim, err, o.c.now(), &o.fx)
	case stepMint:
		w.minted(claim, err, o.c.now(), &o.fx)
	default:
		// Both only save a later request some work.
		if f := o.c.events.Background; err != nil && f != nil {
			f("settle idempotency claim", err)
		}
	}
	o.refs--
	o.carryOut()
}

// claimLease is how long a reservation keeps others waiting when its owner has
// died. An owner that is slower than this reserves again.
const claimLease = 2 * time.Second

// leave gives up the caller's hold. It is called with mu held.
func (o *operation) leave() {
	o.refs--
	o.carryOut()
}

// recycle puts the operation back. It is called with mu held and nothing out.
func (o *operation) recycle() {
	c := o.c
	if o.timer != nil {
		o.timer.Stop()
	}
	select {
	case <-o.answered: // the caller had left before the answer came
	default:
	}
	// What is reused must not keep values, keys and errors alive.
	clear(o.calls[:o.used])
	clear(o.peersBuf[:])
	clear(o.targetsBuf[:])
	switch o.kind {
	case opWrite:
		o.write = write{}
	case opRead:
		o.read = read{}
	}
	trace := o.trace
	o.kind, o.wakeAt, o.claimKey, o.peers, o.trace = opNone, never, ClaimKey{}, nil, nil
	o.attempt, o.id = 0, ""
	o.mu.Unlock()
	c.pool.Put(o)
	if trace != nil && trace.Ended != nil {
		trace.Ended(trace)
	}
	c.ended()
}

// abandonError is what a caller is told whose context or deadline ended first.
func abandonError(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == nil {
		cause = context.DeadlineExceeded
	}
	return fmt.Errorf("%w: %w", ErrDeadlineExceeded, cause)
}
