package coord

import (
	"errors"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// instant is a time on the driver's monotonic clock: nanoseconds since it began.
type instant int64

func (t instant) add(d time.Duration) instant { return t + instant(d) }

// never is later than every instant.
const never = instant(1<<63 - 1)

// target is one natural replica of the key at hand. An operation's targets are
// in order of preference: the one to ask first comes first.
type target struct {
	node string
	down error // why it is not worth asking; nil where it is
}

// subject is what an operation is about and whom it may ask.
type subject struct {
	tenant  string
	key     string
	token   ring.Token
	epoch   uint64
	level   Level
	rf      int
	targets []target
	// sides are the key's replicas and, while a change of topology goes on that
	// changes them, those that it leads to. Without a change the second is empty.
	sides [2]side
	// outdated: a replica knows a newer ring. Nothing new is asked until the
	// operation goes on with that one.
	outdated bool
}

// counts tells whether the answer to a call counts that was made when the
// operation had been tried with made rings, now that it has been with now: a
// phase adds up the answers of one ring only.
func (s *subject) counts(made, now uint32) bool {
	if mutant == mutantMixedEpochs {
		return true
	}
	return made == now && !s.outdated
}

// side is a replica set among an operation's targets.
type side struct {
	members set
	quorum  int // how many of them an operation needs
	all     int // how many the level all asks for
	fence   int // the fewest of them that are in every quorum
}

// newSide is a replica set of a key that has rf replicas: with too few nodes
// its quorum is out of reach rather than smaller.
func newSide(members set, rf int) side {
	return side{members: members, quorum: Majority(rf), all: rf, fence: fence(members.size(), rf)}
}

// survivors is the side whose members are those that are left of several after
// one was lost for good: what a quorum of them all held is on one at least of as
// many as a fence of them all takes.
func (s side) survivors(of, rf int) side {
	s.quorum, s.all = fence(of, rf), s.members.size()
	if mutant == mutantSurvivorsTooFew {
		s.quorum = max(s.quorum-1, 1)
	}
	s.fence = s.quorum
	return s
}

// joint tells whether the key's replicas are changing.
func (s *subject) joint() bool { return s.sides[1].members != 0 }

// at is what a phase at a level needs: of both sides, but at one a single
// answer of the side that still holds.
func (s *subject) at(level Level) (g groups) {
	for i := range s.sides {
		side := &s.sides[i]
		if side.members == 0 || s.joint() && (mutant == mutantOldSideOnly && i == 1 || mutant == mutantNewSideOnly && i == 0) {
			continue
		}
		g[i] = group{voters: side.members, need: side.quorum}
		switch {
		case level == All:
			g[i].need = side.all
		case level == One && i == 0:
			g[i].need = 1
		case level == One:
			g[i].need = 0
		}
	}
	return g
}

// phase tags calls with the part of an operation they belong to.
type phase uint8

const (
	phaseClocks phase = iota + 1 // a write asks what replicas hold
	phaseSend                    // a write sends its version
	phaseRead                    // a read asks for versions
	phaseFetch                   // a read asks for the value of the greatest version
	phaseRepair                  // a read writes the greatest version back
)

// send is a call to make. The version of an apply is the operation's own.
type send struct {
	kind   CallKind
	intent Intent
	phase  phase
	target uint8
	hedge  bool // one more than the operation would have needed
}

// storeStep is a step to take on a write's idempotency claim.
type storeStep uint8

const (
	noStep storeStep = iota
	stepReserve
	stepMint
	stepComplete
	stepRelease
)

// effects is what one event makes an operation do. At most one store step and
// two calls a target arise from one event.
type effects struct {
	sends  [2 * maxTargets]send
	n      int
	store  storeStep
	answer bool // the operation's result is now known
	missed set  // targets for which a write's version is to be hinted
}

func (fx *effects) reset() { fx.n, fx.store, fx.answer, fx.missed = 0, noStep, false, 0 }

func (fx *effects) call(kind CallKind, intent Intent, phase phase, target int) {
	fx.sends[fx.n] = send{kind: kind, intent: intent, phase: phase, target: uint8(target)}
	fx.n++
}

// hedged marks the call that was added last as a hedge.
func (fx *effects) hedged() { fx.sends[fx.n-1].hedge = true }

// errand is what a read is for besides its answer.
type errand uint8

const (
	noErrand errand = iota
	// errandCopy brings the greatest version to a quorum of the replicas that a
	// change leads to, and to the others of them that answer. Of the replicas
	// before the change it needs only as many as are in every quorum.
	errandCopy
	// errandRepair brings it to every replica that answers.
	errandRepair
	// errandRestore brings a version of a backup, or a greater one that replicas
	// hold, to a quorum of the replicas and to the others of them that answer.
	errandRestore
)

// inquiry asks replicas in order of preference until enough have answered:
// as many as are needed at once, one more for each that fails, and one more
// when hedgeAt passes.
type inquiry struct {
	tally   tally
	asked   set
	errs    [maxTargets]error
	expired bool // the deadline has passed: who has not answered counts as failed
}

// open starts an inquiry among the targets. Those known to be down count as
// failed from the start.
func (q *inquiry) open(targets []target, need groups) {
	*q = inquiry{tally: tally{groups: need}}
	for i := range targets {
		if targets[i].down != nil {
			q.refuse(i, targets[i].down)
		}
	}
}

func (q *inquiry) refuse(i int, err error) {
	q.errs[i] = err
	q.tally.fail(i)
}

// unasked is the voters that were not asked, have not agreed and have not failed.
func (q *inquiry) unasked() set { return q.tally.voters() &^ q.asked &^ q.tally.yes &^ q.tally.no }

// outstanding is those that were asked and have neither agreed nor failed.
func (q *inquiry) outstanding() set { return q.asked &^ q.tally.yes &^ q.tally.no }

// next picks the next one that must be asked if the inquiry is to be won, and
// marks it asked: one of a group that falls short even if all who were asked
// answer.
func (q *inquiry) next() (int, bool) {
	var short set
	for _, g := range q.tally.groups {
		if (g.voters & (q.asked | q.tally.yes) &^ q.tally.no).size() < g.need {
			short |= g.voters
		}
	}
	return q.ask(short)
}

// spare picks one more, and marks it asked.
func (q *inquiry) spare() (int, bool) { return q.ask(q.tally.voters()) }

func (q *inquiry) ask(of set) (int, bool) {
	left := q.unasked() & of
	if left == 0 {
		return 0, false
	}
	i := left.first()
	q.asked = q.asked.with(i)
	return i, true
}

var errNoAnswer = errors.New("no answer in time")

// shortfall describes an inquiry that did not succeed, by a group that falls
// short.
func (q *inquiry) shortfall(what string, s *subject) *QuorumError {
	at := -1
	for i := range q.tally.groups { // one that is out of reach, else one that waits
		g := &q.tally.groups[i]
		switch short := (q.tally.yes & g.voters).size() < g.need; {
		case short && (g.voters&^q.tally.no).size() < g.need:
			at = i
		case short && at < 0:
			at = i
		}
	}
	at = max(at, 0)
	g := &q.tally.groups[at]
	e := &QuorumError{Phase: what, Level: s.level, Need: g.need, Have: (q.tally.yes & g.voters).size()}
	if s.joint() {
		e.Side = [...]string{"before", "after"}[at]
	}
	if members := g.voters.size(); members < g.need {
		e.Replicas = append(e.Replicas, ReplicaError{Node: "ring",
			Err: fmt.Errorf("only %d of %d replicas exist", members, s.rf)})
	}
	for i := range s.targets {
		switch {
		case !g.voters.has(i):
		case q.errs[i] != nil:
			e.Replicas = append(e.Replicas, ReplicaError{s.targets[i].node, q.errs[i]})
		case q.expired && !q.tally.yes.has(i) && q.asked.has(i):
			e.Replicas = append(e.Replicas, ReplicaError{s.targets[i].node, errNoAnswer})
		}
	}
	return e
}
