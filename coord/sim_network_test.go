package coord

import (
	"errors"
	"fmt"
	"time"
)

type callStage uint8

const (
	callArrives callStage = iota // at the node
	callSyncs
	callReturns // to the coordinator
)

// simCall is one copy of a call on a replica, on its way there or back. At any
// time exactly one event, or nobody, has it.
type simCall struct {
	s       *sim
	attempt *simAttempt // nil: then is told instead
	then    func(*simCall)
	gen     uint32 // of attempt: it is reused
	round   uint32 // of the attempt: the ring it was tried with
	serial  int    // of the attempt, for traces
	slot    uint16 // of the call among the attempt's: its first answer counts
	c       *simCoordinator
	life    uint32 // of c
	n       *simReplica
	stage   callStage
	copy    bool // a duplicate, of which the caller does not know
	copied  bool // there are several copies of the call
	learn   bool

	kind     CallKind
	intent   Intent
	phase    phase
	target   uint8
	sentAt   instant
	deadline instant
	key      *simEntry
	epoch    uint64
	heard    heard // of n, before version was decided on
	version  Version
	record   *record // of version
	held     Version
	told     heard // of n, with the answer
	floor    int64
	err      error
}

// newCall takes a call from the free list, as a copy of like.
func (s *sim) newCall(like *simCall) *simCall {
	var call *simCall
	if last := len(s.freeCalls) - 1; last >= 0 {
		call = s.freeCalls[last]
		s.freeCalls = s.freeCalls[:last]
	} else {
		call = new(simCall)
	}
	*call = *like
	return call
}

func (s *sim) freeCall(call *simCall) {
	*call = simCall{}
	s.freeCalls = append(s.freeCalls, call)
}

func (call *simCall) happen() {
	switch call.stage {
	case callArrives:
		call.n.arrive(call)
	case callSyncs:
		call.n.commit(call)
	case callReturns:
		call.c.finish(call)
	}
}

// depart sends a call to its node, or to nowhere.
func (call *simCall) depart() {
	s := call.s
	if s.strikes(faultRefusal) {
		call.err = errSimBusy
		call.stage = callReturns
		s.plan(s.now, call)
		return
	}
	if s.strikes(faultDuplicate) {
		call.duplicate(s.transit())
	}
	if s.strikes(faultLateDuplicate) {
		call.duplicate(s.spread(100*time.Millisecond, 3*time.Minute))
	}
	if call.c.links[call.n.index].cutOut > s.now || s.strikes(faultLoss) {
		call.lose()
		return
	}
	if s.strikes(faultReset) {
		call.duplicate(s.transit()) // it arrives all the same
		call.err = errSimReset
		call.stage = callReturns
		s.plan(s.now.add(s.transit()), call)
		return
	}
	s.plan(s.now.add(s.transit()), call)
}

// duplicate makes another copy arrive after delay.
func (call *simCall) duplicate(delay time.Duration) {
	call.copied = true
	twin := call.s.newCall(call)
	twin.copy = true
	call.s.plan(call.s.now.add(delay), twin)
}

// answer sends the answer back.
func (call *simCall) answer() {
	s := call.s
	call.stage = callReturns
	call.told = heard{call.n.boot, call.n.elapsed()}
	if stale := (*StaleRingError)(nil); call.copied && call.err != nil && errors.Is(call.err, ErrReplicaRefused) && !errors.As(call.err, &stale) {
		// To refuse a call says that it has no effect, ever. Of one that was
		// duplicated nobody can say so.
		call.err = errSimReset
	}
	if call.c.links[call.n.index].cutBack > s.now || s.strikes(faultLoss) {
		call.lose()
		return
	}
	s.plan(s.now.add(s.transit()), call)
}

// lose makes the call fail at its caller, who learns of it late.
func (call *simCall) lose() {
	s := call.s
	if call.copy {
		s.freeCall(call)
		return
	}
	if s.traced(call.key) {
		s.note(call.key, "lost: %s", call)
	}
	call.stage = callReturns
	call.err = errSimLost
	s.plan(max(call.deadline, s.now), call)
}

// transit is how long a message is under way.
func (s *sim) transit() time.Duration {
	if s.strikes(faultDelay) {
		return s.spread(10*time.Millisecond, 2*time.Second)
	}
	return s.swarm.latency[0] + s.upTo(s.swarm.latency[1])
}

// simLink is a coordinator's way to a node.
type simLink struct {
	Replica   // only Unavailable is ever called
	s         *sim
	n         *simReplica
	downUntil instant // the coordinator knows it to be down
	cutOut    instant // requests are lost until then
	cutBack   instant // and answers until then
	heard     heard
	heardAt   instant
}

// Heard is what the node said last of its own time.
func (l *simLink) Heard() (uint64, time.Duration) {
	l.listen()
	return l.heard.boot, l.heard.clock
}

// hear takes note of what the node said of its own time.
func (l *simLink) hear(h heard) {
	if h.boot > l.heard.boot || h.boot == l.heard.boot && h.clock > l.heard.clock {
		l.heard, l.heardAt = h, l.s.now
		if h.boot == l.n.boot {
			// Answers are late for longer here than messages may live; on a real
			// link, which gives up on a silent node long before, they are not.
			l.heardAt = l.s.now.add(h.clock - l.n.elapsed())
		}
	}
}

// listen hears a node that was not asked anything for a while.
func (l *simLink) listen() {
	now := l.s.now
	if l.heard.boot != 0 && time.Duration(now-l.heardAt) < l.s.swarm.messageLifetime/4 {
		return
	}
	if n := l.n; n.up && n.pausedUntil <= now && l.cutOut <= now && l.cutBack <= now {
		l.hear(heard{n.boot, n.elapsed()})
	}
}

func (l *simLink) Unavailable() error {
	l.listen()
	if l.downUntil > l.s.now || l.heard.boot == 0 {
		return errSimLinkDown
	}
	return nil
}

var phaseNames = [...]string{"none", "clocks", "send", "read", "fetch", "repair"}

func (call *simCall) String() string {
	what := call.kind.String()
	if call.attempt != nil {
		what = phaseNames[call.phase] + " " + what
	}
	if call.kind == CallApply || call.kind == CallDrop {
		what += " " + call.s.name(&call.version.Head)
	}
	what += fmt.Sprintf(" at epoch %d", call.epoch)
	if call.attempt != nil {
		what += fmt.Sprintf(" of attempt %d", call.serial)
	}
	return fmt.Sprintf("%s, %s and %s", what, call.c.id, call.n.uuid)
}
