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
	direct string // a key of directions; "" for random runs
}{
	{mutantWallClock, "a timestamp is the wall clock, whatever was seen", ""},
	{mutantProcessClock, "a timestamp far ahead raises the process clock", ""},
	{mutantSharedTimestamp, "the issuer forgets what it has issued", ""},
	{mutantSameIncarnation, "the incarnation is not counted up at a start", ""},
	{mutantCounterIdentity, "a version's identity is its writer's counter", "restarts"},
	{mutantTombstoneAbsent, "a tombstone counts as absent when versions are compared", ""},
	{mutantBlindApply, "a replica stores without comparing", ""},
	{mutantEarlyAck, "a replica acknowledges before it is durable", ""},
	{mutantDroppedTombstone, "a replica drops the value instead of keeping a tombstone", ""},
	{mutantClocksAtOne, "a quorum write reads its clock from one replica", ""},
	{mutantLiveMajority, "a majority of the replicas that are up is enough", ""},
	{mutantHintAcks, "a hint counts as an acknowledgement", ""},
	{mutantRefusedHinted, "a write that was refused leaves hints", ""},
	{mutantNewIdentity, "a version that was refused is sent again with a new timestamp", ""},
	{mutantFailedNotApplied, "every failed write says that it is not applied", ""},
	{mutantGoneNotApplied, "a write whose client has gone says that it is not applied", ""},
	{mutantFirstAnswer, "a read trusts its first answer", ""},
	{mutantReadAtOne, "a quorum read asks one replica", ""},
	{mutantAnswerBeforeWriteBack, "a read answers before its write-back", ""},
	{mutantNoWriteBack, "a read writes nothing back", ""},
	{mutantRepairRestamped, "a repair gives the version a new timestamp", ""},
	{mutantRepairAsWrite, "a repair may be refused for its timestamp", "brokenClocks"},
	{mutantMintAfterSend, "the version is minted after the fan-out", ""},
	{mutantNoMint, "nothing is minted: a claim is reserved, then done", ""},
	{mutantRetryMintsAgain, "a retry issues a version of its own", ""},
	{mutantLostMintSent, "a version whose reservation had ended is sent all the same", ""},
	{mutantMintByAnyone, "a mint does not ask whose the reservation is", "lateMints"},
	{mutantNoFingerprint, "the fingerprint is ignored", ""},
	{mutantOldSideOnly, "in a change, a majority of the old replicas is enough", ""},
	{mutantNewSideOnly, "in a change, a majority of the new replicas is enough", ""},
	{mutantReadOldSide, "in a change, a read trusts the old replicas", "changes"},
	{mutantWriteBackOldSide, "in a change, a write-back goes to the old replicas", "resizes"},
	{mutantMixedEpochs, "a phase adds up answers of two rings", ""},
	{mutantLowEpochs, "a node accepts lower epochs than it knows", "changes"},
	{mutantNoFence, "a copy does not wait for a fence of the old replicas", "changes"},
	{mutantCopyFromOne, "a copy is made from one replica", "changes"},
	{mutantSharedCheckpoint, "a checkpoint is taken for that of another change", "changes"},
	{mutantJoinUnswept, "a node joins a range with what it held there before", "returns"},
	{mutantSurvivorsTooFew, "fewer survivors than a fence answer for a lost node", "losses"},
	{mutantReplacementVotes, "a replacement votes before it is rebuilt", "losses"},
	{mutantCollectAtMajority, "a tombstone is collected that a majority holds", "collections"},
	{mutantNoMessageBound, "a node takes messages of any age", "collections"},
	{mutantFloorIgnored, "what was collected from around a key does not raise its next version", "collections"},
	{mutantFloorsLeft, "what was collected from a range is not known where it moves", "laggards"},
	{mutantStaleFactor, "a tenant's replication factor is taken from an outdated cache", "changes"},
}

// directions change the swarms that seeds have drawn, so that they meet what
// random ones meet too rarely.
var directions = map[string]func(*swarm, dice){
	"":             nil,
	"brokenClocks": brokenClocks,
	"changes":      changes,
	"collections":  collections,
	"laggards":     laggards,
	"lateMints":    lateMints,
	"losses":       losses,
	"resizes":      resizes,
	"restarts":     restarts,
	"returns":      returns,
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
	w.churn = 0
	w.keys, w.tenants, w.keyed, w.drift = 3, []int{3}, 0, 0
	w.levels = [4]float64{Quorum: 1}
	w.on[faultLateDuplicate], w.chance[faultLateDuplicate] = true, 0.05
	w.on[faultLoss], w.chance[faultLoss] = true, 0.05
	w.skew = 2 * time.Second
}

// resizes makes replication factors change in quick succession, which leaves the
// old and the new replicas least in common, while messages get lost: what is
// half done when a change ends stays so.
func resizes(w *swarm, d dice) {
	w.enableChurn(d)
	w.churn = d.spread(10*time.Millisecond, 40*time.Millisecond)
	w.changes = [operatorActions]float64{actResize: 1}
	w.queue, w.deaf, w.gossip = 2, 0, 5*time.Millisecond
	w.on[faultLoss], w.chance[faultLoss] = true, 0.15
	w.on[faultStoreDelay], w.on[faultStoreLoss], w.on[faultMetadataOutage] = false, false, false
	w.chance[faultStoreDelay], w.chance[faultStoreLoss] = 0, 0
	w.timeout = d.spread(50*time.Millisecond, 100*time.Millisecond)
	w.levels = [4]float64{Quorum: 1}
	w.tenants, w.keys, w.keyed, w.reads = []int{1}, 2, 0, 0.6
	w.nodes = max(w.nodes, 5)
	w.shuffle = true
}

// returns makes nodes leave and come back after what they held was deleted, and
// forgotten by those who stayed.
func returns(w *swarm, d dice) {
	w.enableChurn(d)
	w.enableCollection(d)
	w.timeout = 50 * time.Millisecond
	w.messageLifetime = 100 * time.Millisecond
	w.hintLifetime = 150 * time.Millisecond
	w.claimLifetime = 200 * time.Millisecond
	w.grace = 400 * time.Millisecond
	w.collect, w.ttls, w.drift = 30*time.Millisecond, 0, 0
	w.churn = d.spread(100*time.Millisecond, 400*time.Millisecond)
	w.changes = [operatorActions]float64{actAdd: 1, actRemove: 1}
	w.queue, w.deaf = 1, 0
	w.think = 300 * time.Millisecond
	w.clients = 4
	w.tenants, w.keys, w.keyed, w.reads, w.deletes = []int{3}, 12, 0, 0.3, 0.5
	w.levels = [4]float64{Quorum: 1}
}

// laggards makes coordinators issue timestamps below those of versions that were
// collected long ago, while ranges move between nodes.
func laggards(w *swarm, d dice) {
	returns(w, d)
	w.on, w.chance, w.every = [faultKinds]bool{}, [faultKinds]float64{}, [faultKinds]time.Duration{}
	// A coordinator that was started again has not seen the timestamps of others.
	w.on[faultCoordinatorCrash], w.every[faultCoordinatorCrash] = true, 100*time.Millisecond
	w.skew, w.coordinators, w.leaders = 4*time.Second, 4, 2
	w.churn, w.collect, w.keys = 50*time.Millisecond, 5*time.Millisecond, 24
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

// cleanSeeds is how many seeds of a direction, at least, must be clean without
// the bug that it is to find; those that find the bug must be, too.
const cleanSeeds = 100

func TestMutants(t *testing.T) {
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer table.Flush()
	defer func() { mutant = noMutant }()
	began := time.Now()
	found := 0
	used := map[string]uint64{} // seeds, by direction
	for _, p := range plantedBugs {
		if !strings.Contains(p.what, *simBug) {
			continue
		}
		mutant = p.bug
		failure := firstFailure(directions[p.direct], mutantSeeds)
		if failure == nil {
			t.Errorf("%d seeds do not find: %s", mutantSeeds, p.what)
			fmt.Fprintf(table, "%s\tnot found\t\n", p.what)
			continue
		}
		found++
		used[p.direct] = max(used[p.direct], failure.seed, cleanSeeds)
		fmt.Fprintf(table, "%s\t%d seeds\t%s\n", p.what, failure.seed, failure.violation.predicate)
	}
	fmt.Fprintf(table, "%d planted bugs of %d found in %v\n", found, len(plantedBugs), time.Since(began).Round(time.Millisecond))
	mutant = noMutant
	for name, seeds := range used {
		if failure := firstFailure(directions[name], seeds); failure != nil {
			t.Errorf("direction %q, without a bug: %s", name, failure.report())
		}
	}
	fmt.Fprintf(table, "%d directions are clean without them, after %v\n", len(used), time.Since(began).Round(time.Millisecond))
}

// firstFailure is the first of so many seeds that fails.
func firstFailure(direct func(*swarm, dice), seeds uint64) *simFailure {
	const group = 20
	for from := uint64(1); from <= seeds; from += group {
		if c := runChunk(from, min(from+group-1, seeds), direct); len(c.failures) > 0 {
			return &c.failures[0]
		}
	}
	return nil
}
