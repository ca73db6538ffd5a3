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
	uuid        string
	index       int
	clock       simClock
	data        []simHeld  // by simEntry.index; durable
	floors      floorTable // what it answers as Floor, likewise
	dropped     []int64    // greatest timestamps that it dropped for whatever reason
	epoch       uint64     // the highest it knows; durable
	told        *Topology  // the newest it was told of; durable
	boot        uint64     // counts its lives
	rate        int64      // of its own clock: fast by so many parts in a million
	bootedAt    instant
	up          bool
	dead        bool // for good
	pausedUntil instant
	fullUntil   instant
	syncing     []*simCall
}

// simHeld is what a replica holds for a key, with what the simulator knows of it.
type simHeld struct {
	version Version
	record  *record
	since   time.Duration // by the node's own clock
}

// elapsed is the node's own clock: it counts from its start and never falls.
func (n *simReplica) elapsed() time.Duration {
	d := time.Duration(n.s.now - n.bootedAt)
	return d + d/1_000_000*time.Duration(n.rate)
}

// start begins another life.
func (n *simReplica) start() {
	n.up = true
	n.boot++
	n.bootedAt = n.s.now
	for _, c := range n.s.coordinators {
		if n.s.healed || n.s.chance(0.8) { // it has noticed that the connection broke
			c.links[n.index].heard = heard{}
		}
	}
	for i := range n.data {
		n.data[i].since = 0
	}
}

// knows compares the epoch of a call with the one that the node knows, and
// adopts a higher one. It is part of the transaction that does the call.
func (n *simReplica) knows(epoch uint64) error {
	if epoch < n.epoch && mutant != mutantLowEpochs {
		return &StaleRingError{n.epoch}
	}
	n.epoch = max(n.epoch, epoch)
	return nil
}

// fresh checks when a mutation was sent, by the node's own clock.
func (n *simReplica) fresh(call *simCall) error {
	if call.heard.boot == 0 || mutant == mutantNoMessageBound {
		return nil
	}
	if call.heard.boot != n.boot || n.elapsed()-call.heard.clock > n.s.swarm.messageLifetime {
		return errSimLate
	}
	return nil
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
	case call.kind == CallRead || call.kind == CallHead:
		if call.err = n.knows(call.epoch); call.err == nil {
			call.held, call.floor = *held, n.floor(call.key)
			if call.kind == CallHead {
				call.held.Value = nil
			}
		}
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
	call.err = n.knows(call.epoch)
	if call.err == nil {
		call.err = n.fresh(call)
	}
	if call.err != nil {
		if s.traced(call.key) {
			s.note(call.key, "%s refused %s: %v", n.id, call, call.err)
		}
		return
	}
	if call.kind == CallDrop {
		if held.version.Exists() && compareIdentity(&held.version.Head, &call.version.Head) == 0 {
			if s.traced(call.key) {
				s.note(call.key, "%s dropped %s", n.uuid, s.name(&held.version.Head))
			}
			s.dropping(n, call.key, held)
			if call.version.Tombstone || call.version.Expires != 0 {
				n.raise(OwedRange(call.key.token), call.version.Timestamp)
			}
			n.dropped[call.key.index] = max(n.dropped[call.key.index], call.version.Timestamp)
			*held = simHeld{}
		}
		call.held = Version{Head: held.version.Head}
		return
	}
	wall := time.Unix(0, n.clock.read(s.now))
	store, err := Admit(&held.version.Head, n.floor(call.key), &call.version.Head, call.intent, wall, DefaultMaxClockOffset)
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
		held.version, held.record, held.since = call.version, call.record, n.elapsed()
		if mutant == mutantDroppedTombstone && call.version.Tombstone {
			*held = simHeld{}
		}
	}
	call.held = Version{Head: call.version.Head}
	if mutant != mutantDroppedTombstone {
		call.held = Version{Head: held.version.Head}
	}
}

// floor is what the node answers as Floor for a key.
func (n *simReplica) floor(k *simEntry) int64 { return n.floors[OwedRange(k.token)] }

func (n *simReplica) raise(at uint16, timestamp int64) {
	n.floors[at] = max(n.floors[at], timestamp)
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
	errSimLate        = fmt.Errorf("%w: the message is too old", ErrReplicaRefused)
	errSimBusy        = fmt.Errorf("%w: too many calls wait", ErrReplicaRefused)
	errSimLinkDown    = fmt.Errorf("%w: the link is down", ErrReplicaUnavailable)
	errSimStoreFailed = fmt.Errorf("%w: it failed", ErrIdempotencyUnavailable)
	errSimStoreLost   = fmt.Errorf("%w: deadline exceeded", ErrIdempotencyUnavailable)
)
