package coord

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// world is a single-threaded event loop in virtual time, in which the engine's
// state machines run over simulated replicas. Nothing in it depends on the
// wall clock, on goroutines or on map order, so a run repeats exactly.
type world struct {
	now    instant
	events []event // a binary heap, the earliest first
	serial uint64
	epoch  time.Time // wall clock time at instant 0
}

type event struct {
	at     instant
	serial uint64 // events of one instant happen in the order they were scheduled
	what   happening
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.serial < f.serial
}

// happening is something that is due. It is scheduled at most once at a time.
type happening interface{ happen() }

type happenFunc func()

func (f happenFunc) happen() { f() }

// worldEpoch is the wall clock time at which every world begins.
var worldEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld() *world { return &world{epoch: worldEpoch} }

func (w *world) after(d time.Duration, do func()) { w.plan(w.now.add(d), happenFunc(do)) }

func (w *world) at(t instant, do func()) { w.plan(t, happenFunc(do)) }

// plan schedules what at t, or now where t has passed.
func (w *world) plan(t instant, what happening) {
	w.serial++
	e := event{max(t, w.now), w.serial, what}
	q := append(w.events, e)
	i := len(q) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !e.before(&q[parent]) {
			break
		}
		q[i] = q[parent]
		i = parent
	}
	q[i] = e
	w.events = q
}

// step runs the next event and tells whether there was one.
func (w *world) step() bool {
	q := w.events
	if len(q) == 0 {
		return false
	}
	first := q[0]
	last := len(q) - 1
	e := q[last]
	q[last] = event{}
	q = q[:last]
	w.events = q
	if last > 0 {
		i := 0
		for {
			child := 2*i + 1
			if child >= last {
				break
			}
			if child+1 < last && q[child+1].before(&q[child]) {
				child++
			}
			if !q[child].before(&e) {
				break
			}
			q[i] = q[child]
			i = child
		}
		q[i] = e
	}
	w.now = first.at
	first.what.happen()
	return true
}

// runUntil runs events until done says so; it fails when none are left.
func (w *world) runUntil(done func() bool) error {
	for !done() {
		if !w.step() {
			return errors.New("nothing is left to happen")
		}
	}
	return nil
}

func (w *world) settle() {
	for w.step() {
	}
}

func (w *world) wall(offset time.Duration) func() time.Time {
	return func() time.Time { return w.epoch.Add(time.Duration(w.now) + offset) }
}

// simNode is a simulated replica: the rule of Admit over a map.
type simNode struct {
	id     string
	epoch  uint64 // the highest it knows
	data   map[string]Version
	offset time.Duration // of its clock
}

func simKey(tenant, key string) string { return tenant + "\x00" + key }

func (n *simNode) handle(c *Call, wall time.Time) (Version, error) {
	if c.Epoch < n.epoch {
		return Version{}, &StaleRingError{n.epoch}
	}
	n.epoch = c.Epoch
	k := simKey(c.Tenant, c.Key)
	held := n.data[k]
	switch c.Kind {
	case CallRead:
		return held, nil
	case CallHead:
		return Version{Head: held.Head}, nil
	}
	store, err := Admit(&held.Head, 0, &c.Version.Head, c.Intent, wall.Add(n.offset), DefaultMaxClockOffset)
	if err != nil {
		return Version{}, err
	}
	if store {
		n.data[k] = c.Version
		held = c.Version
	}
	return Version{Head: held.Head}, nil
}

// simOp drives one state machine in a world: what operation does for real.
type simOp struct {
	world    *world
	write    *write
	read     *read
	calls    func(call *Call, target int, done func(held Version, err error)) // sends a call
	claims   func(step storeStep, done func(Claim, error))                    // takes a store step
	finished func(op *simOp)                                                  // told once, when the result is known
	place    func()                                                           // gives the subject the replicas of the newest ring
	round    uint32                                                           // counts the rings it was tried with
	fx       effects
	answered bool
	wakeAt   instant
}

func (o *simOp) subject() *subject {
	if o.write != nil {
		return &o.write.subject
	}
	return &o.read.subject
}

func (o *simOp) start() {
	o.wakeAt = never
	if o.write != nil {
		o.write.start(o.world.now, &o.fx)
	} else {
		o.read.start(o.world.now, &o.fx)
	}
	o.carryOut()
}

func (o *simOp) carryOut() {
	fx := o.fx
	o.fx.reset()
	if fx.answer {
		if o.answered {
			panic("an operation answered twice")
		}
		o.answered = true
		o.finished(o)
	}
	at := never
	if o.write != nil {
		at = o.write.wakeAt()
	} else {
		at = o.read.wakeAt()
	}
	if at < o.wakeAt {
		o.wakeAt = at
		o.world.at(at, func() {
			o.wakeAt = never
			if o.write != nil {
				o.write.wake(o.world.now, &o.fx)
			} else {
				o.read.wake(o.world.now, &o.fx)
			}
			o.carryOut()
		})
	}
	if fx.store != noStep {
		o.claims(fx.store, func(c Claim, err error) {
			switch fx.store {
			case stepReserve:
				o.write.reserved(c, err, o.world.now, &o.fx)
			case stepMint:
				o.write.minted(c, err, o.world.now, &o.fx)
			}
			o.carryOut()
		})
	}
	sub := o.subject()
	for _, s := range fx.sends[:fx.n] {
		call := &Call{Kind: s.kind, Intent: s.intent, Tenant: sub.tenant, Key: sub.key, Token: sub.token, Epoch: sub.epoch}
		if s.kind == CallApply {
			if o.write != nil {
				call.Version = o.write.version
			} else {
				call.Version = o.read.best
			}
		}
		round := o.round
		o.calls(call, int(s.target), func(held Version, err error) {
			if !o.subject().counts(round, o.round) {
				return
			}
			if newerEpoch(err) != 0 && !o.answered {
				o.outdate()
				return
			}
			if o.write != nil {
				o.write.reply(s.phase, int(s.target), &held, 0, err, o.world.now, &o.fx)
			} else {
				o.read.reply(s.phase, int(s.target), &held, err, o.world.now, &o.fx)
			}
			o.carryOut()
		})
	}
}

// ringDelay is how long a coordinator takes to get a newer ring.
const ringDelay = 10 * time.Millisecond

// outdate stops the operation until its coordinator has the newest ring.
func (o *simOp) outdate() {
	o.subject().outdated = true
	o.world.after(ringDelay, func() {
		o.round++
		o.place()
		if o.write != nil {
			o.write.restart(o.world.now, &o.fx)
		} else {
			o.read.restart(o.world.now, &o.fx)
		}
		o.carryOut()
	})
}

func describeHeld(n *simNode, tenant, key string) string {
	v, ok := n.data[simKey(tenant, key)]
	switch {
	case !ok:
		return fmt.Sprintf("%s absent", n.id)
	case v.Tombstone:
		return fmt.Sprintf("%s deleted %s", n.id, v.Clock)
	}
	return fmt.Sprintf("%s %q %s", n.id, v.Value, v.Clock)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
