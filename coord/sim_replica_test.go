package coord

import (
	"fmt"
	"time"
)

// simClock is a wall clock that is wrong.
type simClock struct {
	skew  time.Duration
	drift int64 // parts in a million
}

func (c *simClock) read(now instant) int64 {
	return worldEpoch.UnixNano() + int64(now) + int64(c.skew) + int64(now)/1_000_000*c.drift
}

// simReplica is a storage node: the rule of Admit over what it has made
// durable. A crash loses nothing that it has acknowledged; of what it was just
// making durable, each version may have survived or not.
type simReplica struct {
	s           *sim
	id          string
	index       int
	clock       simClock
	data        []simHeld // by simEntry.index; durable
	up          bool
	pausedUntil instant
	fullUntil   instant
	syncing     []*simCall
}

// simHeld is what a replica holds for a key, with what the simulator knows of it.
type simHeld struct {
	version Version
	record  *record
}

func (n *simReplica) arrive(call *simCall) {
	s := n.s
	switch {
	case n.pausedUntil > s.now:
		s.plan(n.pausedUntil, call)
		return
	case !n.up:
		call.err = errSimRefused
		call.answer()
		return
	}
	held := &n.data[call.key.index].version
	switch {
	case call.kind == CallRead:
		call.held = *held
		call.answer()
	case call.kind == CallHead:
		call.held = Version{Head: held.Head}
		call.answer()
	case n.fullUntil > s.now:
		s.strike(faultDiskFull)
		call.err = ErrDiskFull
		call.answer()
	default:
		if mutant == mutantEarlyAck {
			ack := s.newCall(call)
			ack.held = Version{Head: call.version.Head}
			ack.answer()
			call.copy = true
		}
		call.stage = callSyncs
		n.syncing = append(n.syncing, call)
		s.plan(s.now.add(s.swarm.sync[0]+s.upTo(s.swarm.sync[1])), call)
	}
}

// commit ends the syncing of an apply and acknowledges it.
func (n *simReplica) commit(call *simCall) {
	for i, c := range n.syncing {
		if c == call {
			n.syncing[i] = n.syncing[len(n.syncing)-1]
			n.syncing = n.syncing[:len(n.syncing)-1]
			break
		}
	}
	n.keep(call)
	call.answer()
}

// keep stores the version of an apply if it is to be kept.
func (n *simReplica) keep(call *simCall) {
	s := n.s
	held := &n.data[call.key.index]
	wall := time.Unix(0, n.clock.read(s.now))
	store, err := Admit(&held.version.Head, &call.version.Head, call.intent, wall, DefaultMaxClockOffset)
	if err != nil {
		call.err = err
		if s.traced(call.key) {
			s.note(call.key, "%s refused %s from %s: %v", n.id, s.name(&call.version.Head), call.c.id, err)
		}
		return
	}
	if store {
		if s.traced(call.key) {
			s.note(call.key, "%s stored %s, had %s", n.id, s.name(&call.version.Head), s.name(&held.version.Head))
		}
		s.storing(n, call.key, held, call.version, call.record)
		held.version, held.record = call.version, call.record
		if mutant == mutantDroppedTombstone && call.version.Tombstone {
			*held = simHeld{}
		}
	}
	call.held = Version{Head: call.version.Head}
	if mutant != mutantDroppedTombstone {
		call.held = Version{Head: held.version.Head}
	}
}

// crash takes the node down. What it was syncing is durable or not, and is not
// acknowledged either way.
func (n *simReplica) crash() {
	s := n.s
	n.up = false
	for _, call := range n.syncing {
		if s.chance(0.5) {
			n.keep(call)
		}
		call.err = errSimReset
		call.stage = callReturns
	}
	n.syncing = n.syncing[:0]
}

var (
	errSimRefused     = fmt.Errorf("%w: connection refused", ErrReplicaUnavailable)
	errSimReset       = fmt.Errorf("%w: connection reset", ErrReplicaUnavailable)
	errSimLost        = fmt.Errorf("%w: deadline exceeded", ErrReplicaUnavailable)
	errSimBusy        = fmt.Errorf("%w: too many calls wait", ErrReplicaRefused)
	errSimLinkDown    = fmt.Errorf("%w: the link is down", ErrReplicaUnavailable)
	errSimStoreFailed = fmt.Errorf("%w: it failed", ErrIdempotencyUnavailable)
	errSimStoreLost   = fmt.Errorf("%w: deadline exceeded", ErrIdempotencyUnavailable)
)
