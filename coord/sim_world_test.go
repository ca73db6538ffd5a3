package coord

import (
	"container/heap"
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
	events eventQueue
	serial int
	epoch  time.Time // wall clock time at instant 0
}

type event struct {
	at     instant
	serial int // events of one instant happen in the order they were scheduled
	do     func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = event{}
	*q = (*q)[:last]
	return e
}

func newWorld() *world {
	return &world{epoch: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func (w *world) after(d time.Duration, do func()) { w.at(w.now.add(d), do) }

func (w *world) at(t instant, do func()) {
	w.serial++
	heap.Push(&w.events, event{max(t, w.now), w.serial, do})
}

// step runs the next event and tells whether there was one.
func (w *world) step() bool {
	if len(w.events) == 0 {
		return false
	}
	e := heap.Pop(&w.events).(event)
	w.now = e.at
	e.do()
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
	data   map[string]Version
	offset time.Duration // of its clock
}

func simKey(tenant, key string) string { return tenant + "\x00" + key }

func (n *simNode) handle(c *Call, wall time.Time) (Version, error) {
	k := simKey(c.Tenant, c.Key)
	held := n.data[k]
	switch c.Kind {
	case CallRead:
		return held, nil
	case CallHead:
		return Version{Head: held.Head}, nil
	}
	store, err := Admit(&held.Head, &c.Version.Head, c.Intent, wall.Add(n.offset), DefaultMaxClockOffset)
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
		o.calls(call, int(s.target), func(held Version, err error) {
			if o.write != nil {
				o.write.reply(s.phase, int(s.target), &held, err, o.world.now, &o.fx)
			} else {
				o.read.reply(s.phase, int(s.target), &held, err, o.world.now, &o.fx)
			}
			o.carryOut()
		})
	}
}

// simClaims is a simulated idempotency store.
type simClaims struct {
	world  *world
	claims map[ClaimKey]simClaim
	ttl    time.Duration
}

type simClaim struct {
	Claim
	ends instant
}

func (s *simClaims) get(k ClaimKey) Claim {
	c, ok := s.claims[k]
	if !ok || s.world.now >= c.ends {
		return Claim{}
	}
	return c.Claim
}

func (s *simClaims) take(step storeStep, k ClaimKey, w *write, lease time.Duration) Claim {
	c := s.get(k)
	switch step {
	case stepReserve:
		if c.State == 0 {
			c = Claim{State: ClaimReserved, Fingerprint: w.print, Attempt: w.attempt}
			s.claims[k] = simClaim{c, s.world.now.add(lease)}
		}
	case stepMint:
		if c.State == ClaimReserved && c.Attempt == w.attempt {
			c.State, c.Minted = ClaimMinted, w.version.Head
			s.claims[k] = simClaim{c, s.world.now.add(s.ttl)}
		}
	case stepComplete:
		if c.State >= ClaimMinted && c.Minted.Compare(&w.version.Head) == 0 && (c.State == ClaimMinted || c.Level < w.level) {
			c.State, c.Level = ClaimDone, w.level
			s.claims[k] = simClaim{c, s.claims[k].ends}
		}
	case stepRelease:
		if c.State == ClaimReserved && c.Attempt == w.attempt {
			delete(s.claims, k)
		}
	}
	return c
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
