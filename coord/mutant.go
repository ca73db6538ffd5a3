package coord

// mutation is a bug that can be planted in the engine, to show that the
// simulator finds it. The shipped engine has none: there mutant is a constant,
// and the compiler leaves the comparisons with it out (mutant_off.go). Built
// with the tag mutant it is a variable, which the tests set (mutant_on.go).
type mutation uint8

const (
	noMutant mutation = iota
	mutantWallClock
	mutantProcessClock
	mutantSharedTimestamp
	mutantSameIncarnation
	mutantCounterIdentity
	mutantTombstoneAbsent
	mutantBlindApply
	mutantEarlyAck
	mutantDroppedTombstone
	mutantClocksAtOne
	mutantLiveMajority
	mutantHintAcks
	mutantRefusedHinted
	mutantNewIdentity
	mutantFailedNotApplied
	mutantGoneNotApplied
	mutantFirstAnswer
	mutantReadAtOne
	mutantAnswerBeforeWriteBack
	mutantNoWriteBack
	mutantRepairRestamped
	mutantRepairAsWrite
	mutantMintAfterSend
	mutantNoMint
	mutantRetryMintsAgain
	mutantLostMintSent
	mutantMintByAnyone
	mutantNoFingerprint
	mutantOldSideOnly
	mutantNewSideOnly
	mutantReadOldSide
	mutantWriteBackOldSide
	mutantMixedEpochs
	mutantLowEpochs
	mutantSharedCheckpoint
	mutantSurvivorsTooFew
	mutantReplacementVotes
	mutantStaleFactor
	mutantCollectAtMajority
	mutantNoMessageBound
	mutantFloorIgnored
	mutantFloorsLeft
	mutantJoinUnswept
	mutantNoFence
	mutantCopyFromOne
)
