package coord

import (
	"errors"
	"fmt"
	"time"
)

// write is a write or delete as a state machine: events go in by its methods,
// effects come out, and it does no I/O. Its calls on the issuer take a lock of
// that key's shard, nothing else.
//
//	gathering -> [waiting ->] [minting ->] sending -> answered
//
// The idempotency claim is reserved while clocks are gathered. A version's
// identity never changes once it was minted or sent.
type write struct {
	subject
	issuer  *issuer
	value   []byte
	delete  bool
	ttl     time.Duration
	keyed   bool
	attempt AttemptID
	print   Fingerprint

	stage    writeStage
	deadline instant
	hedgeAt  instant // one more replica is asked for its clock then
	hedge    time.Duration
	hedges   *hedgeBudget
	overdue  bool // the budget refused a hedge: the next one needs none

	clocks   inquiry
	clocksOK bool
	seen     Head  // greatest held by a replica that answered
	floor    int64 // greatest timestamp that replicas have dropped around the key
	joined   Clock
	conflict conflict // greatest pair of concurrent versions seen, for events

	claimed bool // the claim is this attempt's, or none is needed
	retryAt instant
	backoff time.Duration
	noted   ClaimState // of the claim when its version was adopted
	doneAt  Level      // the level a done claim has met

	version  Version
	intent   Intent
	mintSent bool
	sends    inquiry
	// sentBefore: the version was sent to the replicas of an older ring, too,
	// and what became of it there is not known.
	sentBefore bool
	verdictAt  instant // when a lost write stops waiting for the last refusals; 0: not lost
	hinted     set     // targets that a hint was made for
	duplicate  bool

	result WriteResult
	err    error
}

type writeStage uint8

const (
	writeGathering writeStage = iota
	writeWaiting              // another attempt holds the claim
	writeMinting
	writeSending
	writeAnswered // calls of the sending stage may still be out
)

// conflict is a pair of versions of which neither knew of the other.
type conflict struct{ winner, loser Head }

func (c *conflict) note(x, y *Head) {
	if !x.Exists() || !y.Exists() || x.Compare(y) == 0 || x.Clock.Compare(y.Clock) != Concurrent {
		return
	}
	if x.Compare(y) < 0 {
		x, y = y, x
	}
	c.winner, c.loser = *x, *y
}

const (
	// A waiting request looks at the claim again after claimPollMin, then twice
	// as long each time up to claimPollMax.
	claimPollMin = 5 * time.Millisecond
	claimPollMax = 100 * time.Millisecond
	refusalGrace = 50 * time.Millisecond
)

func (w *write) start(now instant, fx *effects) {
	w.openClocks()
	w.openSends()
	w.claimed = !w.keyed
	w.retryAt = never
	w.backoff = claimPollMin
	w.hedgeAt = now.add(w.hedge)
	// A replica that is known to be down would leave a partial value behind at
	// a level that cannot be met: fail before anything is sent.
	if w.sends.tally.verdict() == lost {
		w.fail(NotApplied, w.sends.shortfall(w.phaseName(), &w.subject), fx)
		return
	}
	if w.keyed {
		fx.store = stepReserve
	}
	w.askClocks(fx)
}

// openClocks begins the phase that asks what replicas hold: a majority, at
// every level but one.
func (w *write) openClocks() {
	level := Quorum
	if w.level == One || mutant == mutantClocksAtOne {
		level = One
	}
	w.clocks.open(w.targets, w.at(level))
}

func (w *write) openSends() {
	w.sends.open(w.targets, w.at(w.level))
	if mutant == mutantLiveMajority && w.level == Quorum {
		w.sends.tally.groups[0].need = Majority((w.sends.tally.voters() &^ w.sends.tally.no).size())
	}
}

// restart goes on with the replicas of a newer ring, which the subject has
// become. A phase counts answers of one ring only, so the one that was under
// way begins again: with the same version, if one was made.
func (w *write) restart(now instant, fx *effects) {
	if w.stage == writeAnswered {
		return
	}
	if w.stage == writeSending {
		w.sentBefore = true
	}
	w.openSends()
	if w.stage != writeSending && w.sends.tally.verdict() == lost {
		w.fail(w.unsent(), w.sends.shortfall(w.phaseName(), &w.subject), fx)
		return
	}
	if !w.clocksOK {
		w.openClocks()
	}
	switch w.stage {
	case writeGathering:
		if !w.clocksOK {
			w.hedgeAt, w.overdue = now.add(w.hedge), false
			w.askClocks(fx)
		}
	case writeSending:
		w.verdictAt, w.hinted = 0, 0
		w.send(now, fx)
	}
}

func (w *write) phaseName() string {
	if w.delete {
		return "delete"
	}
	return "write"
}

func (w *write) askClocks(fx *effects) {
	if w.clocks.tally.verdict() == lost {
		w.fail(w.unsent(), w.clocks.shortfall("read clocks for "+w.phaseName(), &w.subject), fx)
		return
	}
	for {
		i, ok := w.clocks.next()
		if !ok {
			return
		}
		fx.call(CallHead, 0, phaseClocks, i)
	}
}

// unsent is the outcome of a write that has sent nothing to replicas: it is
// not applied, unless a mint was sent that may yet take effect.
func (w *write) unsent() Outcome {
	if w.mintSent {
		return InDoubt
	}
	return NotApplied
}

// reply takes a finished call.
func (w *write) reply(p phase, i int, held *Version, floor int64, err error, now instant, fx *effects) {
	switch p {
	case phaseClocks:
		if mutant != mutantFloorIgnored {
			w.floor = max(w.floor, floor)
		}
		w.clockReply(i, held, err, now, fx)
	case phaseSend:
		w.sendReply(i, held, err, now, fx)
	}
}

func (w *write) clockReply(i int, held *Version, err error, now instant, fx *effects) {
	if w.clocksOK || w.stage != writeGathering && w.stage != writeWaiting {
		return
	}
	if err != nil {
		w.clocks.refuse(i, err)
		if w.stage == writeGathering {
			w.askClocks(fx)
		}
		return
	}
	w.observe(&held.Head)
	w.clocks.tally.ack(i)
	w.clocksOK = w.clocks.tally.verdict() == won
	w.proceed(now, fx)
}

func (w *write) observe(held *Head) {
	if !held.Exists() {
		return
	}
	w.conflict.note(&w.seen, held)
	if held.Compare(&w.seen) > 0 {
		w.seen = *held
	}
	w.joined = w.joined.Join(held.Clock)
}

// proceed issues the version once the clocks are known and the claim is held.
func (w *write) proceed(now instant, fx *effects) {
	if w.stage != writeGathering || !w.clocksOK || !w.claimed {
		return
	}
	w.version.Head = w.issue(max(w.seen.Timestamp, w.floor))
	w.version.Value = w.value
	w.intent = IntentWrite
	if w.keyed && mutant != mutantMintAfterSend && mutant != mutantNoMint {
		w.stage = writeMinting
		w.mintSent = true
		fx.store = stepMint
		return
	}
	w.send(now, fx)
}

// issue makes the head of the write's version, above what was seen.
func (w *write) issue(seen int64) Head {
	h := w.issuer.issue(w.token, w.tenant, w.key, seen, w.joined, w.delete)
	if w.ttl != 0 {
		h.Expires = h.Timestamp + int64(w.ttl)
	}
	return h
}

// reserved takes the answer to stepReserve.
func (w *write) reserved(claim Claim, err error, now instant, fx *effects) {
	if w.stage != writeGathering && w.stage != writeWaiting {
		if err == nil && claim.State == ClaimReserved && claim.Attempt == w.attempt && !w.mintSent {
			fx.store = stepRelease
		}
		return
	}
	if err != nil {
		w.fail(w.unsent(), fmt.Errorf("reserve idempotency key: %w", err), fx)
		return
	}
	w.follow(claim, now, fx)
}

// minted takes the answer to stepMint.
func (w *write) minted(claim Claim, err error, now instant, fx *effects) {
	if w.stage != writeMinting {
		return
	}
	if err != nil {
		w.fail(InDoubt, fmt.Errorf("mint idempotency key: %w", err), fx)
		return
	}
	switch {
	case claim.State >= ClaimMinted && claim.Attempt == w.attempt && claim.Minted.Compare(&w.version.Head) == 0:
		w.send(now, fx)
	case claim.State == 0 && mutant == mutantLostMintSent:
		w.send(now, fx)
	case claim.State == 0:
		// The reservation ended before the mint arrived. The attempt stays the
		// same and mintSent stays set: should a delayed copy of that mint still
		// take effect, the claim will say so, and its version is followed.
		w.stage = writeGathering
		w.claimed = false
		fx.store = stepReserve
	default:
		w.follow(claim, now, fx)
	}
}

// follow acts on the claim that stands: it is this attempt's to mint, or its
// version is decided, or another attempt is at work.
func (w *write) follow(claim Claim, now instant, fx *effects) {
	switch {
	case claim.Fingerprint != w.print && mutant != mutantNoFingerprint:
		w.fail(w.unsent(), ErrIdempotencyConflict, fx)
	case claim.State == ClaimReserved && claim.Attempt == w.attempt:
		w.claimed = true
		w.stage = writeGathering
		w.askClocks(fx)
		w.proceed(now, fx)
	case claim.State == ClaimReserved:
		w.stage = writeWaiting
		w.retryAt = now.add(w.backoff)
		w.backoff = min(2*w.backoff, claimPollMax)
	default:
		if mutant == mutantRetryMintsAgain {
			w.version.Head = w.issue(max(w.seen.Timestamp, claim.Minted.Timestamp))
			w.version.Value = w.value
			w.send(now, fx)
			return
		}
		w.version = Version{Head: claim.Minted, Value: w.value}
		w.duplicate = true
		w.intent = IntentRepair
		w.mintSent = true
		w.noted, w.doneAt = claim.State, claim.Level
		if claim.State == ClaimDone && claim.Level >= w.level {
			w.succeed(fx)
			return
		}
		w.send(now, fx)
	}
}

func (w *write) send(now instant, fx *effects) {
	w.stage = writeSending
	for i := range w.targets {
		if w.targets[i].down == nil {
			w.sends.asked = w.sends.asked.with(i)
			fx.call(CallApply, w.intent, phaseSend, i)
		}
	}
	w.decide(now, fx)
}

func (w *write) sendReply(i int, held *Version, err error, now instant, fx *effects) {
	switch {
	case err != nil && mutant == mutantHintAcks:
		w.sends.tally.ack(i)
	case err != nil:
		w.sends.refuse(i, err)
	case held.Compare(&w.version.Head) < 0:
		w.sends.refuse(i, fmt.Errorf("%w: it answered with an older version than it was given", ErrReplicaUnavailable))
	default:
		w.conflict.note(&w.version.Head, &held.Head)
		w.sends.tally.ack(i)
	}
	w.decide(now, fx)
	w.hint(fx)
}

// hint asks for hints for the replicas that have failed, or were not worth
// sending to, once it is known that the version may have taken effect. They
// count for nothing: they only help those replicas to catch up.
func (w *write) hint(fx *effects) {
	failed := w.sends.tally.no &^ w.hinted
	if w.stage != writeAnswered || w.sends.asked == 0 || failed == 0 {
		return
	}
	if failure := (*WriteError)(nil); errors.As(w.err, &failure) && failure.Outcome == NotApplied && mutant != mutantRefusedHinted {
		return
	}
	w.hinted |= failed
	fx.missed |= failed
}

func (w *write) decide(now instant, fx *effects) {
	if w.stage != writeSending {
		return
	}
	switch w.sends.tally.verdict() {
	case won:
		w.succeed(fx)
	case lost:
		if mutant == mutantNewIdentity && w.intent == IntentWrite {
			w.intent = IntentRepair
			w.version.Head = w.issue(w.version.Timestamp)
			w.openSends()
			w.send(now, fx)
			return
		}
		outcome := InDoubt
		if !w.mintSent && !w.sentBefore && w.sends.tally.yes == 0 && w.allRefused() {
			outstanding := w.sends.asked &^ w.sends.tally.no
			if outstanding != 0 && w.verdictAt == 0 {
				// It has failed, but if the rest refuse too it was not applied,
				// which is worth a moment's wait.
				w.verdictAt = now.add(refusalGrace)
			}
			if outstanding != 0 && now < w.verdictAt {
				return
			}
			if outstanding == 0 {
				outcome = NotApplied
			}
		}
		w.fail(outcome, w.sends.shortfall(w.phaseName(), &w.subject), fx)
	}
}

// allRefused tells whether every failure so far was a refusal, so that no
// replica can have applied the version.
func (w *write) allRefused() bool {
	for i := range w.targets {
		if w.sends.asked.has(i) && w.sends.errs[i] != nil && !errors.Is(w.sends.errs[i], ErrReplicaRefused) {
			return false
		}
	}
	return true
}

func (w *write) succeed(fx *effects) {
	w.result = WriteResult{
		Clock:     w.version.Clock,
		Replicas:  w.level.need(w.rf),
		Level:     w.level,
		Duplicate: w.duplicate,
	}
	w.stage = writeAnswered
	fx.answer = true
	w.hint(fx)
	if w.keyed && !(w.noted == ClaimDone && w.doneAt >= w.level) {
		fx.store = stepComplete
		if mutant == mutantMintAfterSend {
			fx.store = stepMint
		}
	}
}

func (w *write) fail(outcome Outcome, err error, fx *effects) {
	if mutant == mutantFailedNotApplied {
		outcome = NotApplied
	}
	w.err = &WriteError{Outcome: outcome, Err: err}
	fx.store = noStep
	if w.keyed && w.claimed && !w.mintSent {
		fx.store = stepRelease
	}
	w.stage = writeAnswered
	fx.answer = true
	w.hint(fx)
}

// wakeAt is when the operation next wants to know the time.
func (w *write) wakeAt() instant {
	switch {
	case w.stage == writeAnswered:
		return never
	case w.outdated:
		return w.deadline
	}
	switch w.stage {
	case writeWaiting:
		return min(w.deadline, w.retryAt)
	case writeGathering:
		return min(w.deadline, w.hedgeAt)
	case writeSending:
		if w.verdictAt != 0 {
			return min(w.deadline, w.verdictAt)
		}
	}
	return w.deadline
}

// wake tells the time.
func (w *write) wake(now instant, fx *effects) {
	switch {
	case w.stage == writeAnswered:
	case now >= w.deadline:
		w.expire(fx)
	case w.outdated: // the ring that is on its way brings other replicas
	case w.stage == writeWaiting && now >= w.retryAt:
		w.retryAt = never
		fx.store = stepReserve
	case w.stage == writeGathering && now >= w.hedgeAt:
		w.hedgeAt = never
		switch {
		case w.clocksOK || w.clocks.unasked() == 0:
		case w.overdue || w.hedges.take():
			i, _ := w.clocks.spare()
			fx.call(CallHead, 0, phaseClocks, i)
			fx.hedged()
		default:
			// The budget is for slow replicas. One that is silent for longer
			// has failed, for all that is known, and another takes its place.
			w.overdue, w.hedgeAt = true, now.add(silentAfter)
		}
	case w.stage == writeSending:
		w.decide(now, fx)
	}
}

func (w *write) expire(fx *effects) {
	w.clocks.expired, w.sends.expired = true, true
	switch w.stage {
	case writeGathering:
		if w.clocksOK {
			w.fail(w.unsent(), fmt.Errorf("%w: it did not answer in time", ErrIdempotencyUnavailable), fx)
			return
		}
		w.fail(w.unsent(), w.clocks.shortfall("read clocks for "+w.phaseName(), &w.subject), fx)
	case writeWaiting:
		w.fail(InDoubt, fmt.Errorf("%w: another attempt with this idempotency key is still under way", ErrIdempotencyUnavailable), fx)
	case writeMinting:
		w.fail(InDoubt, fmt.Errorf("%w: it did not answer in time", ErrIdempotencyUnavailable), fx)
	case writeSending:
		w.fail(InDoubt, w.sends.shortfall(w.phaseName(), &w.subject), fx)
	}
}

// abandon is told when the client has gone or its deadline has passed. It
// cancels only what has had no effect yet; a version that was minted or sent
// goes on without the client. It returns the outcome to report.
func (w *write) abandon(cause error, fx *effects) Outcome {
	switch w.stage {
	case writeGathering:
		outcome := w.unsent()
		w.fail(outcome, cause, fx)
		return outcome
	case writeWaiting:
		w.fail(InDoubt, cause, fx)
	}
	if mutant == mutantGoneNotApplied {
		return NotApplied
	}
	return InDoubt
}
