package coord

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"
)

// faultKind is a way in which the simulated world goes wrong.
type faultKind uint8

const (
	// What strikes a message or an operation, each with a probability.
	faultLoss faultKind = iota
	faultDuplicate
	faultLateDuplicate
	faultDelay
	faultReset
	faultRefusal
	faultStoreLoss
	faultStoreDuplicate
	faultStoreDelay
	faultClientGone
	faultAnswerLost
	// What strikes a process, a link or the store, now and then.
	faultNodeCrash
	faultNodePause
	faultDiskFull
	faultNodeClock
	faultCoordinatorCrash
	faultCoordinatorPause
	faultCoordinatorClock
	faultPartition
	faultStoreOutage
	faultMetadataOutage
	faultKinds
)

const firstTimedFault = faultNodeCrash

func (k faultKind) String() string {
	return [...]string{
		"loss", "duplicate", "late_duplicate", "delay", "reset", "refusal",
		"store_loss", "store_duplicate", "store_delay", "client_gone", "answer_lost",
		"node_crash", "node_pause", "disk_full", "node_clock",
		"coordinator_crash", "coordinator_pause", "coordinator_clock", "partition", "store_outage", "metadata_outage",
	}[k]
}

// swarm is the configuration of one seed. Seeds differ in which faults there
// are at all, not only in how often: a fault that is always there hides bugs
// that need its absence.
type swarm struct {
	operations   int // attempts that clients make in the safety phase
	coordinators int
	nodes        int
	tenants      []int // replication factors
	keys         int   // of all tenants together
	clients      int

	timeout     time.Duration // of an operation
	latency     [2]time.Duration
	sync        [2]time.Duration // how long a replica takes to make a version durable
	think       time.Duration
	awaitRepair bool
	shuffle     bool // replicas are preferred in random order, not in the ring's

	reads, deletes float64    // shares of operations
	keyed          float64    // share of writes
	reuse          float64    // share of keyed writes that take the key of another request
	replay         float64    // share of keyed writes that repeat one that has ended
	impatient      float64    // share of keyed writes sent to more coordinators at once
	retry          float64    // chance that a keyed write that failed is sent again
	levels         [4]float64 // weights by Level
	sticky         bool       // a client stays with its coordinator while it answers

	skew  time.Duration // coordinators' and replicas' clocks differ by up to this
	drift int64         // and drift by up to so many parts in a million

	on     [faultKinds]bool
	chance [faultKinds]float64       // of those that strike messages and operations
	every  [faultKinds]time.Duration // mean time between the others
	brutal bool                      // majorities fail too

	churn   time.Duration            // mean time between changes of topology; 0: none
	changes [operatorActions]float64 // weights
	queue   int                      // changes that may wait
	leaders int                      // that work at once: 1, or all
	gossip  time.Duration            // within which coordinators are told of changes
	deaf    float64                  // share of coordinators that are not

	collect         time.Duration // between collections of what is deleted; 0: none
	grace           time.Duration // how long all replicas must have held it
	messageLifetime time.Duration
	hintLifetime    time.Duration
	claimLifetime   time.Duration
	ttls            float64 // share of writes that expire
}

// dice is all the randomness of a run.
type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0x5ca1ab1e))} }

func (d dice) chance(p float64) bool { return p > 0 && d.Float64() < p }

// spread is between lo and hi, each power of two as likely as the others.
func (d dice) spread(lo, hi time.Duration) time.Duration {
	lo = lo << d.IntN(max(bits.Len64(uint64(hi/lo)), 1))
	return min(lo+time.Duration(d.Int64N(int64(lo))), hi)
}

func (d dice) upTo(limit time.Duration) time.Duration {
	return time.Duration(d.Int64N(int64(limit) + 1))
}

// around is between -limit and limit.
func (d dice) around(limit time.Duration) time.Duration { return d.upTo(2*limit) - limit }

func (d dice) pick(values ...float64) float64 { return values[d.IntN(len(values))] }

func newSwarm(d dice, operations int) swarm {
	w := swarm{
		operations:   operations,
		coordinators: 1 + d.IntN(4),
		nodes:        3 + d.IntN(4),
		clients:      2 + d.IntN(7),
		timeout:      d.spread(100*time.Millisecond, 4*time.Second),
		think:        d.spread(500*time.Microsecond, 16*time.Millisecond),
		awaitRepair:  d.chance(0.3),
		shuffle:      d.chance(0.5),
		reads:        d.pick(0.3, 0.5, 0.7),
		deletes:      d.pick(0, 0.05, 0.2),
		keyed:        d.pick(0, 0.2, 0.5, 1),
		reuse:        d.pick(0, 0.05),
		replay:       d.pick(0, 0.1),
		impatient:    d.pick(0, 0.2),
		retry:        d.pick(0.5, 0.9),
		levels:       [4]float64{Quorum: 1, All: d.pick(0, 0.1), One: d.pick(0, 0, 0.1, 0.3)},
		sticky:       d.chance(0.5),
		skew:         time.Duration(d.pick(0, 1e6, 50e6, 2e9, 50e9)),
		drift:        int64(d.pick(0, 0, 100, 10_000)),
		brutal:       d.chance(0.15),
	}
	for range 1 + d.IntN(2) {
		rf := 3
		if d.chance(0.3) {
			rf = 1 + d.IntN(5)
		}
		if !d.chance(0.1) {
			rf = min(rf, w.nodes) // else there may be fewer nodes than the factor
		}
		w.tenants = append(w.tenants, rf)
	}
	w.keys = len(w.tenants) + d.IntN(7)
	w.latency[0] = d.spread(50*time.Microsecond, time.Millisecond)
	w.latency[1] = d.spread(w.latency[0], 8*time.Millisecond)
	w.sync[0] = 10 * time.Microsecond
	w.sync[1] = d.spread(20*time.Microsecond, 4*time.Millisecond)

	w.messageLifetime, w.hintLifetime, w.claimLifetime = MessageLifetime, DefaultHintLifetime, DefaultIdempotencyTTL
	if d.chance(0.5) {
		w.enableChurn(d)
	}
	if d.chance(0.2) {
		w.enableCollection(d)
	}
	if d.chance(0.05) {
		return w
	}
	for k := range faultKinds {
		if !d.chance(0.5) {
			continue
		}
		w.enable(k, d)
	}
	// Where many faults of the lasting kinds are on, each comes more rarely:
	// operations must succeed in between.
	lasting := time.Duration(0)
	for k := firstTimedFault; k < faultKinds; k++ {
		if w.on[k] {
			lasting++
		}
	}
	for k := range w.every {
		w.every[k] += w.every[k] * lasting / 4
	}
	return w
}

// enableChurn turns changes of topology on.
func (w *swarm) enableChurn(d dice) {
	w.churn = churnEvery(d)
	for k := range w.changes {
		w.changes[k] = d.pick(0, 1, 1, 3)
	}
	w.changes[actAdd] = max(w.changes[actAdd], 0.5)
	w.changes[actCancel] = d.pick(0, 0.3, 1)
	w.queue = 1 + d.IntN(4)
	w.leaders = 1 + d.IntN(2)
	w.gossip = d.spread(5*time.Millisecond, time.Second)
	w.deaf = d.pick(0, 0, 0.3, 1)
}

// enable turns a fault on at a random strength.
func (w *swarm) enable(k faultKind, d dice) {
	w.on[k] = true
	switch k {
	case faultLoss, faultDelay, faultDuplicate:
		w.chance[k] = d.pick(0.002, 0.01, 0.05)
	case faultReset, faultRefusal, faultLateDuplicate:
		w.chance[k] = d.pick(0.002, 0.01)
	case faultStoreLoss, faultStoreDuplicate, faultStoreDelay:
		w.chance[k] = d.pick(0.01, 0.05, 0.15)
	case faultClientGone, faultAnswerLost:
		w.chance[k] = d.pick(0.01, 0.05)
	default:
		w.every[k] = d.spread(50*time.Millisecond, 800*time.Millisecond)
	}
}

// faultCounts counts the faults that were injected, by kind.
type faultCounts [faultKinds]int64

func (c *faultCounts) add(x *faultCounts) {
	for k := range c {
		c[k] += x[k]
	}
}

func (c *faultCounts) total() (n int64) {
	for _, x := range c {
		n += x
	}
	return n
}

func (w *swarm) String() string {
	var on []string
	for k := range faultKinds {
		switch {
		case !w.on[k]:
		case k < firstTimedFault:
			on = append(on, fmt.Sprintf("%s=%g%%", k, 100*w.chance[k]))
		default:
			on = append(on, fmt.Sprintf("%s/%v", k, w.every[k]))
		}
	}
	return fmt.Sprintf("coordinators=%d nodes=%d factors=%v keys=%d clients=%d timeout=%v keyed=%g levels=%v skew=%v drift=%d brutal=%t churn=%v%v queue=%d leaders=%d collect=%v faults=%v",
		w.coordinators, w.nodes, w.tenants, w.keys, w.clients, w.timeout, w.keyed, w.levels[1:], w.skew, w.drift, w.brutal, w.churn, w.changes, w.queue, w.leaders, w.collect, on)
}
