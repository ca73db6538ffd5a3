//go:build mutant

package coord

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// plantedBugs are the bugs that the simulator must find, and how a run is
// directed at those that random ones meet too rarely.
var plantedBugs = []struct {
	bug    mutation
	what   string
	direct func(*swarm, dice)
}{
	{mutantWallClock, "a timestamp is the wall clock, whatever was seen", nil},
	{mutantProcessClock, "a timestamp far ahead raises the process clock", nil},
	{mutantSharedTimestamp, "the issuer forgets what it has issued", nil},
	{mutantSameIncarnation, "the incarnation is not counted up at a start", nil},
	{mutantCounterIdentity, "a version's identity is its writer's counter", restarts},
	{mutantTombstoneAbsent, "a tombstone counts as absent when versions are compared", nil},
	{mutantBlindApply, "a replica stores without comparing", nil},
	{mutantEarlyAck, "a replica acknowledges before it is durable", nil},
	{mutantDroppedTombstone, "a replica drops the value instead of keeping a tombstone", nil},
	{mutantClocksAtOne, "a quorum write reads its clock from one replica", nil},
	{mutantLiveMajority, "a majority of the replicas that are up is enough", nil},
	{mutantHintAcks, "a hint counts as an acknowledgement", nil},
	{mutantRefusedHinted, "a write that was refused leaves hints", nil},
	{mutantNewIdentity, "a version that was refused is sent again with a new timestamp", nil},
	{mutantFailedNotApplied, "every failed write says that it is not applied", nil},
	{mutantGoneNotApplied, "a write whose client has gone says that it is not applied", nil},
	{mutantFirstAnswer, "a read trusts its first answer", nil},
	{mutantReadAtOne, "a quorum read asks one replica", nil},
	{mutantAnswerBeforeWriteBack, "a read answers before its write-back", nil},
	{mutantNoWriteBack, "a read writes nothing back", nil},
	{mutantRepairRestamped, "a repair gives the version a new timestamp", nil},
	{mutantRepairAsWrite, "a repair may be refused for its timestamp", brokenClocks},
	{mutantMintAfterSend, "the version is minted after the fan-out", nil},
	{mutantNoMint, "nothing is minted: a claim is reserved, then done", nil},
	{mutantRetryMintsAgain, "a retry issues a version of its own", nil},
	{mutantLostMintSent, "a version whose reservation had ended is sent all the same", nil},
	{mutantMintByAnyone, "a mint does not ask whose the reservation is", lateMints},
	{mutantNoFingerprint, "the fingerprint is ignored", nil},
	{mutantOldSideOnly, "in a change, a majority of the old replicas is enough", nil},
	{mutantNewSideOnly, "in a change, a majority of the new replicas is enough", nil},
	{mutantReadOldSide, "in a change, a read trusts the old replicas", changes},
	{mutantWriteBackOldSide, "in a change, a write-back goes to the old replicas", changes},
	{mutantMixedEpochs, "a phase adds up answers of two rings", nil},
	{mutantLowEpochs, "a node accepts lower epochs than it knows", changes},
	{mutantNoFence, "a copy does not wait for a fence of the old replicas", changes},
	{mutantCopyFromOne, "a copy is made from one replica", changes},
	{mutantSharedCheckpoint, "a checkpoint is taken for that of another change", changes},
	{mutantJoinUnswept, "a node joins a range with what it held there before", changes},
	{mutantSurvivorsTooFew, "fewer survivors than a fence answer for a lost node", losses},
	{mutantReplacementVotes, "a replacement votes before it is rebuilt", losses},
	{mutantCollectAtMajority, "a tombstone is collected that a majority holds", collections},
	{mutantNoMessageBound, "a node takes messages of any age", collections},
	{mutantFloorIgnored, "what was collected from around a key does not raise its next version", collections},
	{mutantStaleFactor, "a tenant's replication factor is taken from an outdated cache", changes},
}

// brokenClocks makes versions that are far ahead stay on a minority: clocks
// jump, and coordinators take their hints with them.
func brokenClocks(w *swarm, d dice) {
	for _, k := range []faultKind{faultNodeClock, faultCoordinatorClock, faultCoordinatorCrash} {
		w.on[k], w.every[k] = true, 100*time.Millisecond
	}
	w.on[faultMetadataOutage], w.every[faultMetadataOutage] = true, 200*time.Millisecond
	w.levels = [4]float64{One: 0.3, Quorum: 1}
	w.tenants = []int{3}
}

// changes makes topology changes take long enough for operations to meet them
// half done: messages are lost and coordinators learn late.
func changes(w *swarm, d dice) {
	w.enableChurn(d)
	w.churn = d.spread(50*time.Millisecond, 200*time.Millisecond)
	w.changes = [operatorActions]float64{actAdd: 1, actRemove: 1, actResize: 1, actCancel: 0.3}
	w.on[faultLoss], w.chance[faultLoss] = true, 0.05
	w.on[faultPartition], w.every[faultPartition] = true, 100*time.Millisecond
	w.on[faultCoordinatorPause], w.every[faultCoordinatorPause] = true, 300*time.Millisecond
	w.timeout = d.spread(50*time.Millisecond, 200*time.Millisecond)
	w.levels = [4]float64{Quorum: 1}
	w.tenants, w.keys, w.keyed = []int{3}, 2, 0
	w.deaf = d.pick(0, 0.3)
}

// collections makes replicas forget what is deleted while messages, hints and
// restarted nodes may still bring back what it had replaced.
func collections(w *swarm, d dice) {
	w.enableCollection(d)
	w.keys, w.tenants, w.keyed, w.drift = 3, []int{3}, 0, 0
	w.levels = [4]float64{Quorum: 1}
	w.on[faultLateDuplicate], w.chance[faultLateDuplicate] = true, 0.05
	w.on[faultLoss], w.chance[faultLoss] = true, 0.05
	w.skew = 2 * time.Second
}

// losses makes nodes die for good, and others of their keys' replicas miss writes.
func losses(w *swarm, d dice) {
	changes(w, d)
	w.changes = [operatorActions]float64{actLose: 1, actAdd: 0.3}
}

// restarts makes coordinators forget what they have issued, and not see it.
func restarts(w *swarm, d dice) {
	w.on[faultCoordinatorCrash], w.every[faultCoordinatorCrash] = true, 50*time.Millisecond
	w.on[faultLoss], w.chance[faultLoss] = true, 0.05
	w.levels = [4]float64{One: 1, Quorum: 1}
}

// lateMints makes mints arrive when their reservation has ended, and clients
// use an idempotency key again that they believe to be free.
func lateMints(w *swarm, d dice) {
	w.on[faultStoreDelay], w.chance[faultStoreDelay] = true, 0.3
	w.on[faultStoreDuplicate], w.chance[faultStoreDuplicate] = true, 0.3
	w.keyed, w.reuse, w.retry, w.replay, w.reads = 1, 0.5, 0.2, 0, 0
	w.timeout = 3 * time.Second
	w.think = 500 * time.Millisecond
}

var simBug = flag.String("sim.bug", "", "plant only the bugs whose description contains this")

// mutantSeeds is how many seeds a planted bug may take to be found.
const mutantSeeds = 500

// TestHistoriesFindBugs shows that what clients see is evidence by itself:
// these bugs are found by porcupine with every other predicate switched off.
func TestHistoriesFindBugs(t *testing.T) {
	defer func() { mutant = noMutant }()
	for _, p := range plantedBugs {
		switch p.bug {
		case mutantWallClock, mutantClocksAtOne, mutantBlindApply, mutantFirstAnswer, mutantReadAtOne, mutantNoWriteBack, mutantNoMint:
		default:
			continue
		}
		mutant = p.bug
		for seed := uint64(1); ; seed++ {
			s := newSim(seed, *simOperations, nil)
			s.predicate = "P5"
			s.run()
			if s.violation != nil {
				t.Logf("%d seeds: %s", seed, p.what)
				break
			}
			if seed == mutantSeeds {
				t.Errorf("%d seeds do not find: %s", mutantSeeds, p.what)
				break
			}
		}
	}
}

func TestMutants(t *testing.T) {
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer table.Flush()
	defer func() { mutant = noMutant }()
	for _, p := range plantedBugs { // the directions themselves are none
		if p.direct == nil || *simBug != "" {
			continue
		}
		if failure := firstFailure(p.direct); failure != nil {
			t.Fatalf("directed at %q, without that bug: %s", p.what, failure.report())
		}
	}
	began := time.Now()
	found := 0
	for _, p := range plantedBugs {
		if !strings.Contains(p.what, *simBug) {
			continue
		}
		mutant = p.bug
		failure := firstFailure(p.direct)
		if failure == nil {
			t.Errorf("%d seeds do not find: %s", mutantSeeds, p.what)
			fmt.Fprintf(table, "%s\tnot found\t\n", p.what)
			continue
		}
		found++
		fmt.Fprintf(table, "%s\t%d seeds\t%s\n", p.what, failure.seed, failure.violation.predicate)
	}
	fmt.Fprintf(table, "%d planted bugs of %d found in %v\n", found, len(plantedBugs), time.Since(began).Round(time.Millisecond))
}

// firstFailure is the first seed that fails.
func firstFailure(direct func(*swarm, dice)) *simFailure {
	const group = 20
	for from := uint64(1); from <= mutantSeeds; from += group {
		if c := runChunk(from, min(from+group-1, mutantSeeds), direct); len(c.failures) > 0 {
			return &c.failures[0]
		}
	}
	return nil
}
