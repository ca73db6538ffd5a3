package coord

import (
	"fmt"
	"strconv"

	"github.com/pairdb/coordinator/ring"
)

// sim is one simulated cluster with its clients: several coordinators and
// replicas of the real engine in one event loop, driven by one seed.
type sim struct {
	world
	dice
	seed  uint64
	swarm swarm
	keys  []*simEntry

	nodes          []*simReplica
	coordinators   []*simCoordinator
	claims         simClaims
	storeDownUntil instant
	hints          []*simHint // in the metadata store
	metadata       simMetadata
	epochs         []*simEpoch // by epoch
	placement      placement   // scratch
	replacements   int         // data directories beyond those at the start
	migrations     int
	entries        map[Position]*simEntry
	byPosition     []*simEntry
	holder         *simCoordinator // of the lease
	clients        []*simClient
	idle           int // clients that have stopped
	healed         bool

	asked    int   // attempts that clients have made
	attempts int   // attempts that have reached a coordinator
	tick     int64 // orders calls and returns of requests
	requests []*simRequest

	figures   simFigures
	violation *violation
	predicate string    // where it is set, no other is checked
	trace     *simTrace // nil: not traced

	freeCalls    []*simCall
	freeAttempts []*simAttempt
}

// simFigures say how much a run has shown.
type simFigures struct {
	operations   int64 // attempts that clients made
	succeeded    int64
	checked      int64 // requests in histories
	unknown      int64 // histories that porcupine gave up on
	events       int64
	faults       faultCounts
	steps        int64 // of topology changes
	collected    int64 // versions that replicas forgot
	expiredHints int64
}

func (f *simFigures) add(x *simFigures) {
	f.operations += x.operations
	f.succeeded += x.succeeded
	f.checked += x.checked
	f.unknown += x.unknown
	f.events += x.events
	f.faults.add(&x.faults)
	f.steps += x.steps
	f.collected += x.collected
	f.expiredHints += x.expiredHints
}

// newSim makes the cluster of a seed. A directed run changes the swarm that the
// seed has drawn.
func newSim(seed uint64, operations int, direct func(*swarm, dice)) *sim {
	s := &sim{world: *newWorld(), dice: newDice(seed), seed: seed}
	s.swarm = newSwarm(s.dice, operations)
	if direct != nil {
		direct(&s.swarm, s.dice)
	}
	w := &s.swarm
	s.claims = simClaims{&s.world, map[ClaimKey]simClaim{}, w.claimLifetime}
	s.metadata.checkpoints = map[string]MigrationProgress{}
	t := Topology{Version: 1, Epoch: 1}
	for i := range w.nodes {
		id := "n" + strconv.Itoa(i+1)
		t.Nodes = append(t.Nodes, StorageNode{ID: id, UUID: id, Host: id, VirtualNodes: simVirtualNodes, Status: NodeActive})
		s.addNode(id, id)
	}
	for i, rf := range w.tenants {
		id := "t" + strconv.Itoa(i)
		s.metadata.tenants = append(s.metadata.tenants, Tenant{ID: id, Space: id, ReplicationFactor: rf, Since: 1})
	}
	s.metadata.topology = t
	s.epochs = make([]*simEpoch, 1)
	s.newEpoch()
	s.entries = make(map[Position]*simEntry, w.keys)
	for i := range w.keys {
		tenant := i % len(w.tenants)
		k := &simEntry{
			index: i, tenant: s.metadata.tenants[tenant].ID, tenantIndex: tenant,
			key:     "k" + strconv.Itoa(i/len(w.tenants)), // tenants use the same keys
			records: map[identity]*record{}, owned: make([]bool, maxSimNodes),
		}
		k.name = k.tenant + "/" + k.key
		k.token = ring.KeyToken(k.tenant, k.key)
		s.keys = append(s.keys, k)
		s.entries[k.position()] = k
	}
	s.sortKeys()
	for i := range w.coordinators {
		c := &simCoordinator{s: s, id: "c" + strconv.Itoa(i+1), index: i, clock: s.newClock()}
		c.boot()
		s.coordinators = append(s.coordinators, c)
	}
	for i := range w.clients {
		c := &simClient{s: s, id: i}
		s.clients = append(s.clients, c)
		c.next(nil)
	}
	s.replayHints()
	s.operate()
	s.keepHouse()
	s.collect()
	for k := firstTimedFault; k < faultKinds; k++ {
		s.haunt(k)
	}
	return s
}

const (
	simVirtualNodes = 4
	// maxSimNodes bounds the data directories of a run.
	maxSimNodes = 16
)

// addNode makes a storage node with an empty data directory.
func (s *sim) addNode(id, uuid string) *simReplica {
	n := &simReplica{
		s: s, id: id, uuid: uuid, index: len(s.nodes), data: make([]simHeld, s.swarm.keys), dropped: make([]int64, s.swarm.keys), clock: s.newClock(),
	}
	n.rate = n.clock.drift
	s.nodes = append(s.nodes, n)
	for _, c := range s.coordinators {
		c.connect()
	}
	n.start()
	return n
}

func (k *simEntry) position() Position { return Position{k.token, k.tenant, k.key} }

func (s *sim) newClock() simClock {
	c := simClock{skew: s.around(s.swarm.skew)}
	if s.swarm.drift > 0 {
		c.drift = s.Int64N(2*s.swarm.drift+1) - s.swarm.drift
	}
	return c
}

func (s *sim) newRequest(k *simEntry, c *simClient) *simRequest {
	r := &simRequest{s: s, id: len(s.requests) + 1, client: c, key: k}
	s.requests = append(s.requests, r)
	return r
}

// maxSimEvents is far more than any run takes; one that takes more goes in circles.
const maxSimEvents = 5_000_000

// run runs the seed to its end or to the first violation.
func (s *sim) run() {
	for s.violation == nil && s.idle < len(s.clients) {
		if !s.step() {
			s.violate(nil, "engine", "nothing is left to happen, but %d clients wait", len(s.clients)-s.idle)
		}
		if s.figures.events++; s.figures.events > maxSimEvents {
			s.violate(nil, "engine", "the run does not end")
		}
	}
	s.figures.operations = int64(s.asked)
	if s.violation == nil {
		s.converge()
	}
	if s.violation == nil {
		s.checkHistories()
	}
}

// invalid tells why a run without a violation shows nothing, "" if it does: too
// little has succeeded, or faults it was to have did not happen.
func (s *sim) invalid() string {
	f := &s.figures
	if f.succeeded < f.operations/4 {
		return fmt.Sprintf("%d of %d operations succeeded", f.succeeded, f.operations)
	}
	kinds := int64(0)
	for _, on := range s.swarm.on {
		if on {
			kinds++
		}
	}
	if total := f.faults.total(); total < 4*kinds {
		return fmt.Sprintf("%d faults of %d kinds", total, kinds)
	}
	return ""
}
