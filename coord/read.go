package coord

import (
	"fmt"
	"time"
)

// read is a read as a state machine, like write.
//
//	asking -> [fetching ->] [writing back ->] answered [-> repairing]
//
// It asks the most preferred replica for the whole version and as many others
// for its head as the level needs. Where they agree, that is the answer. Where
// they do not, the greatest version must be on a majority before the read may
// answer with it: otherwise a later read could miss what this one has shown.
type read struct {
	subject
	errand   errand
	wall     time.Time // when it began, by the wall clock: what has expired by then is absent
	stage    readStage
	deadline instant
	hedgeAt  instant
	hedge    time.Duration
	hedges   *hedgeBudget
	overdue  bool // the budget refused a hedge: the next one needs none
	// awaitRepair makes the read wait for the repair of every stale replica it
	// has met, instead of the majority its answer needs.
	awaitRepair bool
	// transfer is where a version comes from or goes to that is backed up; nil
	// in all other reads.
	transfer *transfer
	hurried  bool // a restored version waits for no more heads than the level needs

	asks   inquiry
	heads  [maxTargets]Head // what each replica is known to hold at least
	valued set              // asked for the value, and not failed yet
	best   Version          // the greatest version met; its value only if hasBest
	value  bool             // best.Value is known (or best is a tombstone or absent)

	fetches inquiry // who was asked for best's value
	repairs inquiry // who was sent best
	clash   conflict

	result ReadResult
	err    error
}

type readStage uint8

const (
	readAsking readStage = iota
	readFetching
	readWritingBack
	readAnswered
)

func (r *read) start(now instant, fx *effects) {
	level := r.level
	if mutant == mutantReadAtOne && level == Quorum {
		level = One
	}
	r.asks.open(r.targets, r.at(level))
	r.fetches.open(r.targets, groups{{voters: firstN(len(r.targets)), need: 1}})
	r.repairs.open(r.targets, r.at(Quorum))
	if mutant == mutantReadOldSide {
		r.asks.tally.groups[1] = group{}
	}
	if mutant == mutantWriteBackOldSide {
		r.repairs.tally.groups[1] = group{}
	}
	if r.errand == errandCopy {
		old, next := &r.sides[0], &r.sides[1]
		r.asks.open(r.targets, groups{{old.members, old.fence}, {next.members, next.quorum}})
		if mutant == mutantCopyFromOne {
			r.asks.open(r.targets, groups{{old.members, 1}})
		}
		r.repairs.open(r.targets, groups{{next.members, next.quorum}})
	}
	r.hedgeAt = now.add(r.hedge)
	r.value = true // of the absent version
	if r.restores() {
		// What is restored is one of the versions that were met.
		r.best = *r.transfer.restored
	}
	r.ask(fx)
}

// restart begins again with the replicas of a newer ring, which the subject
// has become: answers of two rings do not add up.
func (r *read) restart(now instant, fx *effects) {
	if r.stage == readAnswered {
		return
	}
	*r = read{subject: r.subject, errand: r.errand, wall: r.wall, deadline: r.deadline, hedge: r.hedge, hedges: r.hedges,
		awaitRepair: r.awaitRepair, transfer: r.transfer}
	r.start(now, fx)
}

func (r *read) ask(fx *effects) {
	if r.asks.tally.verdict() == lost {
		r.fail(r.asks.shortfall("read", &r.subject), fx)
		return
	}
	for {
		i, ok := r.asks.next()
		if !ok && r.errand != noErrand {
			i, ok = r.asks.spare()
		}
		if !ok {
			return
		}
		if r.valued == 0 && !r.restores() {
			r.valued = r.valued.with(i)
			fx.call(CallRead, 0, phaseRead, i)
		} else {
			fx.call(CallHead, 0, phaseRead, i)
		}
	}
}

func (r *read) reply(p phase, i int, held *Version, err error, _ instant, fx *effects) {
	if err == nil && held.Compare(&r.heads[i]) > 0 {
		r.heads[i] = held.Head
	}
	switch p {
	case phaseRead:
		r.readReply(i, held, err, fx)
	case phaseFetch:
		r.fetchReply(i, held, err, fx)
	case phaseRepair:
		r.repairReply(i, err, fx)
	}
}

func (r *read) readReply(i int, held *Version, err error, fx *effects) {
	if err != nil {
		r.asks.refuse(i, err)
		r.valued = r.valued.without(i)
		if r.stage == readAsking {
			r.ask(fx)
			r.settleOnce(fx)
		}
		r.checkBackground(fx)
		return
	}
	r.asks.tally.ack(i)
	switch r.stage {
	case readAsking:
		r.meet(i, held)
		r.settleOnce(fx)
	case readFetching:
		// An answer that a hedge or a fetch has overtaken may still bring the value.
		if r.valued.has(i) && held.Compare(&r.best.Head) >= 0 {
			r.meet(i, held)
			r.settle(fx)
		}
	case readWritingBack:
		if r.restores() { // one that was not waited for is not left out
			r.repairStale(fx)
		}
	case readAnswered:
		r.meet(i, held)
		r.checkBackground(fx)
	}
}

// meet takes note of a version that replica i holds, of which the value is
// known if the replica was asked for it.
func (r *read) meet(i int, held *Version) {
	r.clash.note(&r.best.Head, &held.Head)
	full := r.valued.has(i) || held.Tombstone
	if mutant == mutantFirstAnswer && r.best.Exists() {
		return
	}
	switch order := held.Compare(&r.best.Head); {
	case order > 0:
		r.best, r.value = *held, full
	case order == 0 && full && !r.value:
		r.best.Value, r.value = held.Value, true
	}
}

// holders is the replicas known to hold best, or something greater.
func (r *read) holders() set {
	var s set
	for i := range r.targets {
		if r.heads[i].Exists() && r.heads[i].Compare(&r.best.Head) >= 0 {
			s = s.with(i)
		}
	}
	return s
}

// stale is the replicas that have answered with less than best.
func (r *read) stale() set { return r.asks.tally.yes &^ r.holders() }

// settleOnce settles a read as soon as its level has been met; one with an errand
// hears all replicas first.
func (r *read) settleOnce(fx *effects) {
	waits := r.errand != noErrand && r.asks.outstanding() != 0 && !r.hurried
	if r.stage != readAsking || r.asks.tally.verdict() != won || waits {
		return
	}
	r.settle(fx)
}

// settle takes the next step of a read whose level has been met.
func (r *read) settle(fx *effects) {
	if !r.best.Exists() {
		r.answer(fx)
		if r.level == One {
			r.askRest(fx)
		}
		return
	}
	if r.restores() && r.stale() == 0 {
		// As many as are asked for hold it, or what is greater, whatever its value.
		r.answer(fx)
		return
	}
	if !r.value {
		r.stage = readFetching
		r.fetch(fx)
		return
	}
	if r.level == One {
		r.answer(fx)
		r.askRest(fx)
		return
	}
	if mutant == mutantAnswerBeforeWriteBack || mutant == mutantNoWriteBack {
		r.answer(fx)
		if mutant == mutantAnswerBeforeWriteBack {
			r.checkBackground(fx)
		}
		return
	}
	if r.stale() == 0 {
		// All who answered hold it, and they are a majority.
		r.answer(fx)
		return
	}
	r.stage = readWritingBack
	r.repairs.tally.yes = r.holders()
	r.writeBack(fx)
}

// fetch asks one holder of best for its value.
func (r *read) fetch(fx *effects) {
	candidates := r.holders() &^ r.fetches.asked &^ r.fetches.tally.no
	if candidates == 0 {
		if r.fetches.asked&^r.fetches.tally.no == 0 {
			r.fail(r.fetches.shortfall("read", &r.subject), fx)
		}
		return
	}
	i := candidates.first()
	r.fetches.asked = r.fetches.asked.with(i)
	r.valued = r.valued.with(i)
	fx.call(CallRead, 0, phaseFetch, i)
}

func (r *read) fetchReply(i int, held *Version, err error, fx *effects) {
	if err == nil && held.Compare(&r.best.Head) < 0 {
		err = fmt.Errorf("%w: it answered with an older version than before", ErrReplicaUnavailable)
	}
	if err != nil {
		r.fetches.refuse(i, err)
		if r.stage == readFetching {
			r.fetch(fx)
		}
		return
	}
	switch r.stage {
	case readFetching:
		r.meet(i, held)
		r.settle(fx)
	case readAnswered:
		r.meet(i, held)
		r.repairStale(fx)
	}
}

// writeBack sends best to the stale replicas, and to the others too where
// those cannot make a majority, and answers when a majority holds it.
func (r *read) writeBack(fx *effects) {
	r.repairStale(fx)
	for {
		i, ok := r.repairs.next()
		if !ok {
			break
		}
		r.repair(i, fx)
	}
	r.decideWriteBack(fx)
}

func (r *read) repairStale(fx *effects) {
	for left := r.stale() &^ r.repairs.asked &^ r.repairs.tally.no; left != 0; left = left.without(left.first()) {
		r.repair(left.first(), fx)
	}
}

func (r *read) repair(i int, fx *effects) {
	if mutant == mutantRepairRestamped && r.repairs.asked == 0 {
		r.best.Timestamp++
	}
	intent := IntentRepair
	if mutant == mutantRepairAsWrite {
		intent = IntentWrite
	}
	r.repairs.asked = r.repairs.asked.with(i)
	fx.call(CallApply, intent, phaseRepair, i)
}

func (r *read) repairReply(i int, err error, fx *effects) {
	if err != nil {
		r.repairs.refuse(i, err)
	} else {
		r.repairs.tally.ack(i)
	}
	if r.stage == readWritingBack {
		r.writeBack(fx)
	}
}

func (r *read) decideWriteBack(fx *effects) {
	switch r.repairs.tally.verdict() {
	case won:
		if r.awaitRepair && r.repairs.outstanding() != 0 {
			return
		}
		r.answer(fx)
	case lost:
		r.fail(r.repairs.shortfall("write back for read", &r.subject), fx)
	}
}

func (r *read) answer(fx *effects) {
	if r.transfer != nil {
		r.transfer.done(&r.best, r.repairs.asked != 0)
	}
	if r.best.Live(r.wall) {
		r.result = ReadResult{Value: r.best.Value, Clock: r.best.Clock, UpdatedAt: r.best.UpdatedAt()}
	} else {
		r.err = ErrKeyNotFound
	}
	r.stage = readAnswered
	fx.answer = true
}

func (r *read) fail(err error, fx *effects) {
	r.err = err
	r.stage = readAnswered
	fx.answer = true
}

// askRest compares the other replicas with the one that a read at level one
// has answered from, after the answer.
func (r *read) askRest(fx *effects) {
	for {
		i, ok := r.asks.spare()
		if !ok {
			return
		}
		fx.call(CallHead, 0, phaseRead, i)
	}
}

// checkBackground repairs what a read has found stale after its answer, once
// all replicas that were asked have answered or failed.
func (r *read) checkBackground(fx *effects) {
	if r.stage != readAnswered {
		return
	}
	if r.asks.outstanding() != 0 || !r.best.Exists() || r.stale() == 0 {
		return
	}
	if r.value {
		r.repairStale(fx)
		return
	}
	if i := r.holders() &^ r.fetches.asked &^ r.fetches.tally.no; i != 0 {
		r.fetches.asked = r.fetches.asked.with(i.first())
		r.valued = r.valued.with(i.first())
		fx.call(CallRead, 0, phaseFetch, i.first())
	}
}

func (r *read) wakeAt() instant {
	if r.stage == readAnswered {
		return never
	}
	if r.outdated {
		return r.deadline
	}
	return min(r.deadline, r.hedgeAt)
}

func (r *read) wake(now instant, fx *effects) {
	switch {
	case r.stage == readAnswered:
	case now >= r.deadline:
		r.expire(fx)
	case r.outdated: // the ring that is on its way brings other replicas
	case now >= r.hedgeAt:
		r.hedgeAt = never
		if r.restores() {
			r.hurried = true
			r.settleOnce(fx)
			return
		}
		r.hedgeRead(now, fx)
	}
}

// hedgeRead asks one more replica, for the value: whoever is slow, the answers
// of this one and of the others make the level.
func (r *read) hedgeRead(now instant, fx *effects) {
	asking := r.stage == readAsking && r.asks.unasked() != 0
	fetching := r.stage == readFetching && r.holders()&^r.fetches.asked&^r.fetches.tally.no != 0
	switch {
	case !asking && !fetching:
	case !r.overdue && !r.hedges.take():
		// As in write.wake: the budget does not protect a replica that is silent.
		r.overdue, r.hedgeAt = true, now.add(silentAfter)
	case asking:
		i, _ := r.asks.spare()
		r.valued = r.valued.with(i)
		fx.call(CallRead, 0, phaseRead, i)
		fx.hedged()
	default:
		r.fetch(fx)
		fx.hedged()
	}
}

func (r *read) expire(fx *effects) {
	r.asks.expired, r.fetches.expired, r.repairs.expired = true, true, true
	switch r.stage {
	case readAsking:
		r.fail(r.asks.shortfall("read", &r.subject), fx)
	case readFetching:
		r.fail(r.fetches.shortfall("read", &r.subject), fx)
	case readWritingBack:
		if r.repairs.tally.verdict() == won {
			r.answer(fx) // only awaitRepair had held it back
			return
		}
		r.fail(r.repairs.shortfall("write back for read", &r.subject), fx)
	}
}
