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

// inquiry asks replicas in order of preference until enough have answered:
// as many as are needed at once, one more for each that fails, and one more
// when hedgeAt passes.
type inquiry struct {
	tally   tally
	asked   set
	errs    [maxTargets]error
	expired bool // the deadline has passed: who has not answered counts as failed
}

// open starts an inquiry of need among the targets. Those known to be down
// count as failed from the start.
func (q *inquiry) open(targets []target, need int) {
	*q = inquiry{tally: tally{voters: firstN(len(targets)), need: need}}
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

// unasked is the targets that were not asked and have not failed.
func (q *inquiry) unasked() set { return q.tally.voters &^ q.asked &^ q.tally.no }

// next picks one of them and marks it asked.
func (q *inquiry) next() (int, bool) {
	left := q.unasked()
	if left == 0 {
		return 0, false
	}
	i := left.first()
	q.asked = q.asked.with(i)
	return i, true
}

// short is how many more targets must be asked for need to be met if all who
// were asked answer.
func (q *inquiry) short() int {
	return q.tally.need - (q.asked &^ q.tally.no).size()
}

var errNoAnswer = errors.New("no answer in time")

// shortfall describes an inquiry that did not succeed.
func (q *inquiry) shortfall(what string, s *subject) *QuorumError {
	e := &QuorumError{Phase: what, Level: s.level, Need: q.tally.need, Have: (q.tally.yes & q.tally.voters).size()}
	if len(s.targets) < q.tally.need {
		e.Replicas = append(e.Replicas, ReplicaError{Node: "ring",
			Err: fmt.Errorf("only %d of %d replicas exist", len(s.targets), s.rf)})
	}
	for i := range s.targets {
		switch {
		case q.errs[i] != nil:
			e.Replicas = append(e.Replicas, ReplicaError{s.targets[i].node, q.errs[i]})
		case q.expired && !q.tally.yes.has(i) && q.asked.has(i):
			e.Replicas = append(e.Replicas, ReplicaError{s.targets[i].node, errNoAnswer})
		}
	}
	return e
}
