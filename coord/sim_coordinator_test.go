package coord

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// simCoordinator is a coordinator process: the engine's issuer, state machines
// and choice of replicas, with the simulator in the place of Coordinator and
// its driver.
type simCoordinator struct {
	s           *sim
	id          string
	index       int
	incarnation uint64
	life        uint32 // counts processes, whatever the incarnation says
	clock       simClock
	up          bool
	pausedUntil instant
	cutStore    instant // the store is out of reach until then

	issuer    *issuer
	hedges    hedgeBudget
	peers     []*peer    // by node
	links     []*simLink // likewise
	view      *view
	tenants   []Tenant      // as they were last read
	parked    []*simRequest // that wait for a tenant or a newer ring
	waiting   []simWait
	following bool // it is getting a newer ring
	deaf      bool // metadata does not tell it of changes
	leader    *simLeader
	running   []*simAttempt
	pending   []*simHint // not yet stored
	flushing  bool
	greatest  int64   // reading of its clock in this life
	issued    []int64 // greatest timestamp issued in this life, by simEntry.index
}

// boot starts a new process with nothing but its id and what metadata keeps.
func (c *simCoordinator) boot() {
	s := c.s
	c.life++
	if mutant != mutantSameIncarnation || c.incarnation == 0 {
		c.incarnation++
	}
	c.up = true
	c.greatest = 0
	c.issuer = &issuer{
		writer:    Writer{c.id, c.incarnation},
		wall:      c.wall,
		maxOffset: DefaultMaxClockOffset,
		stuck:     make(chan struct{}, 1),
	}
	c.hedges.credit.Store(hedgeBurst)
	c.pending, c.flushing = nil, false
	c.issued = make([]int64, len(s.keys))
	c.links, c.peers = nil, nil
	c.connect()
	c.waiting, c.following = nil, false
	c.deaf = s.chance(s.swarm.deaf)
	// A process starts once metadata has answered.
	c.view = nil
	c.reshape(s.metadata.topology)
	c.tenants = slices.Clone(s.metadata.tenants)
	for i := range c.tenants {
		c.tenants[i].AsOf = s.metadata.topology.Epoch
	}
	c.leader = &simLeader{c: c, life: c.life}
}

func (c *simCoordinator) wall() time.Time {
	ns := c.clock.read(c.s.now)
	c.greatest = max(c.greatest, ns)
	return time.Unix(0, ns)
}

// renew does what identityKeeper does when the wall clock has jumped back: it
// takes a new incarnation, under which the process clock starts again.
func (c *simCoordinator) renew() {
	if mutant != mutantSameIncarnation {
		c.incarnation++
	}
	c.issuer.reincarnate(Writer{c.id, c.incarnation})
	c.greatest = 0
	clear(c.issued)
}

// simRenewal is the answer of metadata to a coordinator that is stuck.
type simRenewal struct {
	c    *simCoordinator
	life uint32
}

func (r *simRenewal) happen() {
	if r.c.up && r.c.life == r.life {
		r.c.renew()
	}
}

func (c *simCoordinator) crash() {
	c.up = false
	for _, r := range c.parked {
		r.cutOff()
	}
	c.parked = nil
	for _, a := range slices.Clone(c.running) {
		op, wasLeft := a.op, a.left || a.answered
		a.recycle()
		if !wasLeft {
			op.cutOff()
		}
	}
}

// simAttempt is one request to one coordinator, and does for its state machine
// what operation does for real.
type simAttempt struct {
	s      *sim
	c      *simCoordinator
	gen    uint32
	serial int
	index  int // in c.running
	op     *simRequest
	group  *effect

	key        *simEntry
	level      Level
	reading    bool
	write      write
	read       read
	fx         effects
	wakeAt     instant
	deadline   instant
	targets    [maxTargets]target
	peers      [maxTargets]*peer
	heard      [maxTargets]heard
	round      uint32 // counts the rings it was tried with
	slots      uint16
	open       [simSlots / 64]uint64 // calls that have not been answered, by slot
	unanswered int
	claimKey   ClaimKey
	step       uint32 // counts store steps
	awaited    uint32 // the store step whose answer the machine waits for, or 0
	answered   bool
	left       bool // its client has left

	// What the simulator knows of it.
	floor   Head    // the key's when it started
	seen    int64   // greatest timestamp that it was answered before it issued
	known   Head    // the version of the write when last looked at
	sent    Head    // the version that was sent first
	record  *record // of known
	records []*record
}

// simSlots bounds the calls of an attempt.
const simSlots = 512

// begin starts an attempt at op on c, which must be up. With the attempt it
// returns its generation: it may have ended already.
func (s *sim) begin(c *simCoordinator, op *simRequest, level Level) (*simAttempt, uint32) {
	var a *simAttempt
	if last := len(s.freeAttempts) - 1; last >= 0 {
		a = s.freeAttempts[last]
		s.freeAttempts = s.freeAttempts[:last]
	} else {
		a = &simAttempt{s: s}
	}
	s.attempts++
	a.c, a.op, a.key, a.level = c, op, op.key, level
	a.serial = s.attempts
	a.index = len(c.running)
	c.running = append(c.running, a)
	a.reading = op.kind == requestGet
	a.wakeAt = never
	a.floor = op.key.floor
	a.deadline = s.now.add(s.swarm.timeout)
	c.hedges.earn()
	if op.view != nil {
		a.place(op.view, &op.tenant)
	} else {
		a.place(c.view, &c.tenants[op.key.tenantIndex])
	}
	if s.traced(a.key) {
		s.note(a.key, "attempt %d on %s at %s, epoch %d: %s", a.serial, c.id, level, a.subject().epoch, op)
	}
	if a.reading {
		r := &a.read
		r.errand, r.wall = op.errand, c.wall()
		r.deadline, r.hedges = a.deadline, &c.hedges
		r.awaitRepair = s.swarm.awaitRepair || s.healed || op.errand != noErrand
		r.hedge = hedgeAfter(a.peers[:len(r.targets)], r.level.need(r.rf))
		r.start(s.now, &a.fx)
	} else {
		w := &a.write
		w.issuer = c.issuer
		w.value, w.delete = op.value, op.kind == requestDelete
		w.deadline, w.hedges = a.deadline, &c.hedges
		w.ttl = op.ttl
		w.hedge = hedgeAfter(a.peers[:len(w.targets)], Majority(w.rf))
		a.group = op.group
		if op.idempotencyKey != "" {
			w.keyed = true
			w.print = op.print
			binary.BigEndian.PutUint64(w.attempt[:], uint64(a.serial))
			a.claimKey = ClaimKey{op.key.tenant, op.key.key, op.idempotencyKey}
		} else {
			a.group = new(effect)
		}
		w.start(s.now, &a.fx)
	}
	gen := a.gen
	a.carryOut()
	return a, gen
}

// place chooses and ranks the replicas as the driver does.
func (a *simAttempt) place(v *view, t *Tenant) {
	s, k := a.s, a.key
	var down [maxTargets]error
	p := &s.placement
	v.place(p, t.Space, k.token, t.ReplicationFactor)
	peers := append(a.peers[:0], p.peers()...)
	rank(peers, s.now, a.level, down[:])
	if s.swarm.shuffle {
		up := 0
		for up < len(peers) && down[up] == nil {
			up++
		}
		s.Shuffle(up, func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	}
	sub := a.subject()
	*sub = subject{
		tenant: k.tenant, key: k.key, token: k.token,
		epoch: v.topology.Epoch, level: a.level, rf: t.ReplicationFactor, targets: a.targets[:len(peers)],
		sides: p.sides(peers),
	}
	for i, p := range peers {
		sub.targets[i] = target{node: p.node.UUID, down: down[i]}
		a.heard[i].boot, a.heard[i].clock = p.replica.Heard()
	}
}

// carryOut does what the event that was just fed asks for, as the driver does.
func (a *simAttempt) carryOut() {
	s := a.s
	fx := &a.fx
	if !a.reading {
		s.noteVersion(a)
	}
	if fx.missed != 0 {
		a.noteMissed(fx.missed)
	}
	if fx.answer {
		if a.answered {
			s.violate(a.key, "engine", "attempt %d answered twice", a.serial)
		}
		a.answered = true
		a.finished()
	}
	at := never
	if a.reading {
		at = a.read.wakeAt()
	} else {
		at = a.write.wakeAt()
	}
	if at < a.wakeAt {
		a.wakeAt = at
		s.plan(at, &simTimer{a, a.gen})
	}
	if fx.store != noStep {
		a.takeStep(fx.store)
	}
	select {
	case <-a.c.issuer.stuck:
		s.plan(s.now.add(s.upTo(20*time.Millisecond)), &simRenewal{a.c, a.c.life})
	default:
	}
	for _, send := range fx.sends[:fx.n] {
		a.send(send)
	}
	fx.reset()
	if a.answered && a.unanswered == 0 && a.awaited == 0 {
		a.recycle()
	}
}

func (a *simAttempt) send(send send) {
	s := a.s
	p := a.peers[send.target]
	n := p.replica.(*simLink).n
	call := s.newCall(&simCall{
		s: s, attempt: a, gen: a.gen, round: a.round, serial: a.serial, slot: a.slots, c: a.c, life: a.c.life, n: n, key: a.key,
		epoch: a.subject().epoch, heard: a.heard[send.target],
		kind: send.kind, intent: send.intent, phase: send.phase, target: send.target,
		learn: send.kind != CallApply && !send.hedge, sentAt: s.now, deadline: a.deadline,
	})
	if a.slots == simSlots-1 {
		s.violate(a.key, "engine", "attempt %d makes too many calls", a.serial)
		return
	}
	a.open[a.slots/64] |= 1 << (a.slots % 64)
	a.slots++
	a.unanswered++
	if send.kind == CallApply {
		if a.reading {
			call.version = a.read.best
		} else {
			call.version = a.write.version
		}
		call.record = s.sending(a, &call.version, n)
	}
	p.sending(s.now)
	if s.traced(a.key) {
		s.note(a.key, "sent: %s", call)
	}
	call.depart()
}

// finish takes the answer to a call.
func (c *simCoordinator) finish(call *simCall) {
	s := c.s
	if c.life != call.life || !c.up {
		s.freeCall(call)
		return
	}
	if c.pausedUntil > s.now {
		s.plan(c.pausedUntil, call)
		return
	}
	if call.told.boot == call.n.boot { // answers of an earlier life came over another connection
		c.links[call.n.index].hear(call.told)
	}
	if call.then != nil {
		if !call.copy {
			call.then(call)
		}
		s.freeCall(call)
		return
	}
	a := call.attempt
	if bit := uint64(1) << (call.slot % 64); a.gen != call.gen || a.open[call.slot/64]&bit == 0 {
		s.freeCall(call)
		return
	} else {
		a.open[call.slot/64] &^= bit
	}
	a.unanswered--
	if call.err != nil && !s.healed && s.chance(0.2) && !errors.Is(call.err, ErrReplicaRefused) {
		c.links[call.n.index].downUntil = s.now.add(s.spread(2*time.Millisecond, 300*time.Millisecond))
	}
	c.peers[call.n.index].answered(s.now, time.Duration(s.now-call.sentAt), call.learn, call.err)
	if s.traced(a.key) {
		if call.err != nil {
			s.note(a.key, "failed: %s: %v", call, call.err)
		} else {
			s.note(a.key, "answered: %s: holds %s", call, s.name(&call.held.Head))
		}
	}
	newer := newerEpoch(call.err)
	switch {
	case !a.subject().counts(call.round, a.round):
	case newer != 0 && !a.isAnswered():
		a.outdate(newer)
	case a.reading:
		a.read.reply(call.phase, int(call.target), &call.held, call.err, s.now, &a.fx)
	default:
		if call.phase == phaseClocks && !a.write.clocksOK && call.err == nil {
			a.seen = max(a.seen, call.held.Timestamp)
		}
		a.write.reply(call.phase, int(call.target), &call.held, call.floor, call.err, s.now, &a.fx)
	}
	s.freeCall(call)
	a.carryOut()
}

// finished tells the simulator and the client the result.
func (a *simAttempt) finished() {
	if a.op.done != nil {
		a.left = true
		a.op.done(a.read.err)
		return
	}
	a.s.checkAnswer(a)
	if a.left {
		return
	}
	a.left = true
	if a.s.strikes(faultAnswerLost) && !a.s.healed {
		a.op.cutOff()
		return
	}
	a.op.attemptEnded(a)
}

// abandon is the client's leaving before the answer.
func (a *simAttempt) abandon() {
	s := a.s
	if a.answered || a.left {
		return
	}
	a.left = true
	if s.traced(a.key) {
		s.note(a.key, "attempt %d: the client is gone", a.serial)
	}
	op := a.op
	if a.reading || a.c.pausedUntil > s.now {
		op.cutOff()
		return
	}
	outcome := a.write.abandon(errSimLost, &a.fx)
	s.checkOutcome(a, outcome)
	if outcome == NotApplied {
		op.attemptFailed(NotApplied, false)
	} else {
		op.cutOff()
	}
	// The client has its answer; what the machine makes known is for nobody.
	if a.fx.answer {
		a.fx.answer, a.answered = false, true
	}
	a.carryOut()
}

func (a *simAttempt) recycle() {
	c, last := a.c, len(a.c.running)-1
	c.running[last].index = a.index
	c.running[a.index] = c.running[last]
	c.running = c.running[:last]
	*a = simAttempt{s: a.s, gen: a.gen + 1, records: a.records[:0]}
	a.s.freeAttempts = append(a.s.freeAttempts, a)
}

// simTimer wakes an attempt.
type simTimer struct {
	a   *simAttempt
	gen uint32
}

func (t *simTimer) happen() {
	a := t.a
	if a.gen != t.gen {
		return
	}
	s := a.s
	if a.c.pausedUntil > s.now {
		s.plan(a.c.pausedUntil, t)
		return
	}
	a.wakeAt = never
	if a.reading {
		a.read.wake(s.now, &a.fx)
	} else {
		a.write.wake(s.now, &a.fx)
	}
	a.carryOut()
}

// simEntry is a key with everything that is known of it.
type simEntry struct {
	index       int
	tenant      string
	key         string
	name        string // tenant/key
	token       ring.Token
	tenantIndex int
	places      []*simPlaces // by epoch
	owned       []bool       // by node: it was a replica once

	records   map[identity]*record
	newest    int64   // greatest timestamp of any version
	floor     Head    // what a quorum is known to hold, since some client was told
	collected *record // the greatest version that was collected
}
