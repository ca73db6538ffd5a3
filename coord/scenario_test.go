package coord

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScenarios runs the scripts of testdata/quorum, which read as the
// specification of what quorum operations do. Time in them is virtual. The
// commands:
//
//	replicas n1=5ms n2=20ms n3=down   the key's replicas in order of preference, and how
//	                                  long each takes to answer; "down" is known to be down,
//	                                  "lost" loses what it is sent, "full" refuses writes
//	put c1 KEY VALUE [level=L] [id=K] [timeout=T] [leave=T]   through coordinator c1; its client
//	                                  goes away after leave; [hedge=T] [hedges=N]: after T one more
//	                                  replica is asked, of which the budget allows N
//	delete c1 KEY ..., get c1 KEY ...
//	concurrently                      the commands in its lines, started at one instant;
//	                                  "+5ms put ..." starts later
//	                                  "+5ms crash c1" cuts off what c1 is doing
//	crash c1                          its memory is gone; it comes back in its next incarnation
//	clock c1 +24h                     sets its wall clock off; of replicas too
//	stored KEY                        once all is quiet: what each replica holds
//	forget n2 KEY                     the replica has never had it
//	ring n1 n2 n3                     the key's replicas from the next epoch on: without it,
//	                                  all; "ring n1 n2 n3 to n2 n3 n4" while they change;
//	                                  "lost=n1": it is lost, and the others rebuild what it held
//	learn c1                          c1 knows the newest ring; else it learns of it from a
//	                                  replica that refuses it, and then takes 10ms to get it
//	copy c1 KEY                       c1 copies the key to those that its replicas change to
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "../testdata/quorum", func(t *testing.T, path string) {
		s := newScenario()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.command(t, d)
		})
	})
}

const tenantOfScenarios = "shop"

type scenario struct {
	*world
	claims       *simClaims
	nodes        []*simNode
	behaviour    map[string]string
	rings        []scenarioRing // by epoch
	coordinators map[string]*scenarioCoordinator
	attempts     byte
	out          strings.Builder
}

// scenarioRing is the replicas of every key at an epoch.
type scenarioRing struct {
	old, new []string
	lost     string
}

type scenarioCoordinator struct {
	id          string
	epoch       uint64 // of the ring that it knows
	incarnation uint64
	offset      time.Duration
	issuer      *issuer
	crashed     *bool // of this incarnation
	running     []runningOp
}

type runningOp struct {
	label string
	done  *bool
}

func newScenario() *scenario {
	w := newWorld()
	return &scenario{
		world: w, claims: &simClaims{w, map[ClaimKey]simClaim{}, DefaultIdempotencyTTL},
		behaviour: map[string]string{}, rings: make([]scenarioRing, 1), coordinators: map[string]*scenarioCoordinator{},
	}
}

func (s *scenario) command(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	words := append([]string{d.Cmd}, argumentWords(d)...)
	switch d.Cmd {
	case "replicas":
		s.replicas(t, d)
	case "concurrently":
		s.concurrently(t, d.Input)
	case "ring":
		s.ring(words[1:])
	case "learn":
		s.coordinator(words[1]).epoch = s.epoch()
	case "put", "get", "delete", "copy":
		done := s.operation(t, words)
		if err := s.runUntil(func() bool { return *done }); err != nil {
			t.Fatalf("%s: %v", d.Pos, err)
		}
	case "crash":
		s.crash(words[1])
	case "clock":
		offset := parseDuration(t, words[2])
		if n := s.node(words[1]); n != nil {
			n.offset = offset
		} else {
			s.coordinator(words[1]).offset = offset
		}
	case "stored":
		s.settle()
		for _, n := range s.nodes {
			fmt.Fprintln(&s.out, describeHeld(n, tenantOfScenarios, words[1]))
		}
	case "forget":
		s.settle()
		delete(s.node(words[1]).data, simKey(tenantOfScenarios, words[2]))
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	if s.out.Len() == 0 {
		return "ok"
	}
	return s.out.String()
}

// argumentWords gives datadriven's parsed arguments back as words.
func argumentWords(d *datadriven.TestData) []string {
	var words []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			words = append(words, a.Key)
		} else {
			words = append(words, a.Key+"="+strings.Join(a.Vals, " "))
		}
	}
	return words
}

func (s *scenario) node(id string) *simNode {
	for _, n := range s.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// replicas changes how nodes behave; nodes keep what they hold.
func (s *scenario) replicas(t *testing.T, d *datadriven.TestData) {
	before := s.nodes
	s.nodes = nil
	for _, a := range d.CmdArgs {
		i := slices.IndexFunc(before, func(n *simNode) bool { return n.id == a.Key })
		if i >= 0 {
			s.nodes = append(s.nodes, before[i])
		} else {
			s.nodes = append(s.nodes, &simNode{id: a.Key, data: map[string]Version{}})
		}
		s.behaviour[a.Key] = a.Vals[0]
	}
}

func (s *scenario) epoch() uint64 { return uint64(len(s.rings) - 1) }

// ring takes the next step of the topology. Coordinators of which nothing was
// heard yet know it at once.
func (s *scenario) ring(words []string) {
	var r scenarioRing
	side := &r.old
	for _, word := range words {
		if lost, ok := strings.CutPrefix(word, "lost="); ok {
			r.lost = lost
		} else if word == "to" {
			side = &r.new
		} else {
			*side = append(*side, word)
		}
	}
	s.rings = append(s.rings, r)
	fmt.Fprintf(&s.out, "epoch %d\n", s.epoch())
}

// place gives a subject its replicas by the ring of an epoch, in the order in
// which they are preferred.
func (s *scenario) place(sub *subject, epoch uint64) {
	r := s.rings[epoch]
	sub.epoch, sub.targets, sub.sides, sub.outdated = epoch, nil, [2]side{}, false
	var old, next set
	for _, n := range s.nodes {
		isOld := (len(r.old) == 0 || slices.Contains(r.old, n.id)) && n.id != r.lost
		isNew := slices.Contains(r.new, n.id)
		if !isOld && !isNew {
			continue
		}
		if isOld {
			old = old.with(len(sub.targets))
		}
		if isNew {
			next = next.with(len(sub.targets))
		}
		target := target{node: n.id}
		if s.behaviour[n.id] == "down" {
			target.down = fmt.Errorf("%w: connection refused", ErrReplicaUnavailable)
		}
		sub.targets = append(sub.targets, target)
	}
	if sub.rf = len(r.old); sub.rf == 0 {
		sub.rf = len(s.nodes)
	}
	sub.sides[0] = newSide(old, sub.rf)
	if r.lost != "" {
		sub.sides[0] = sub.sides[0].survivors(len(r.old), sub.rf)
	}
	if len(r.new) > 0 {
		sub.sides[1] = newSide(next, len(r.new))
	}
}

func (s *scenario) newCoordinator(id string, incarnation uint64, offset time.Duration) *scenarioCoordinator {
	c := &scenarioCoordinator{id: id, epoch: s.epoch(), incarnation: incarnation, offset: offset, crashed: new(bool)}
	c.issuer = &issuer{
		writer:    Writer{id, incarnation},
		wall:      func() time.Time { return s.wall(c.offset)() },
		maxOffset: DefaultMaxClockOffset,
	}
	return c
}

func (s *scenario) coordinator(id string) *scenarioCoordinator {
	if s.coordinators[id] == nil {
		s.coordinators[id] = s.newCoordinator(id, 1, 0)
	}
	return s.coordinators[id]
}

func (s *scenario) crash(id string) {
	c := s.coordinator(id)
	*c.crashed = true
	for _, op := range c.running {
		if !*op.done {
			*op.done = true
			fmt.Fprintf(&s.out, "%s: cut off by the crash\n", op.label)
		}
	}
	s.coordinators[id] = s.newCoordinator(id, c.incarnation+1, c.offset)
}

func (s *scenario) concurrently(t *testing.T, input string) {
	var running []*bool
	for line := range strings.Lines(input) {
		words := strings.Fields(line)
		if delay, ok := strings.CutPrefix(words[0], "+"); ok {
			done := new(bool)
			s.after(parseDuration(t, delay), func() {
				if words[1] == "crash" {
					s.crash(words[2])
					*done = true
					return
				}
				inner := s.operation(t, words[1:])
				s.after(0, func() { s.waitFor(inner, done) })
			})
			running = append(running, done)
			continue
		}
		running = append(running, s.operation(t, words))
	}
	for _, done := range running {
		if err := s.runUntil(func() bool { return *done }); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *scenario) waitFor(inner, done *bool) {
	if *inner {
		*done = true
		return
	}
	s.after(time.Millisecond, func() { s.waitFor(inner, done) })
}

// operation starts put, get or delete and returns a flag set when it has answered.
func (s *scenario) operation(t *testing.T, words []string) *bool {
	kind, c, key := words[0], s.coordinator(words[1]), words[2]
	options := map[string]string{"level": "quorum", "timeout": "1s", "id": "", "hedge": "1h", "leave": "", "hedges": "100"}
	var value string
	for _, word := range words[3:] {
		if name, v, ok := strings.Cut(word, "="); ok && slices.Contains(slices.Sorted(maps.Keys(options)), name) {
			options[name] = v
		} else {
			value = word
		}
	}
	level, err := ParseLevel(options["level"])
	if err != nil {
		t.Fatal(err)
	}
	sub := subject{tenant: tenantOfScenarios, key: key, level: level}
	s.place(&sub, c.epoch)
	started := s.now
	deadline := started.add(parseDuration(t, options["timeout"]))
	budget := new(hedgeBudget)
	hedges, err := strconv.Atoi(options["hedges"])
	if err != nil {
		t.Fatal(err)
	}
	budget.credit.Store(int64(hedges) * hedgeCost)
	op := &simOp{world: s.world}
	claimKey := ClaimKey{tenantOfScenarios, key, options["id"]}
	op.place = func() {
		c.epoch = s.epoch()
		s.place(op.subject(), c.epoch)
	}
	if kind == "get" || kind == "copy" {
		op.read = &read{subject: sub, deadline: deadline, hedges: budget, hedge: parseDuration(t, options["hedge"])}
		if kind == "copy" {
			op.read.errand, op.read.awaitRepair = errandCopy, true
		}
	} else {
		s.attempts++
		op.write = &write{
			subject: sub, deadline: deadline, hedges: budget, hedge: parseDuration(t, options["hedge"]),
			issuer: c.issuer, value: []byte(value), delete: kind == "delete",
			keyed: options["id"] != "", attempt: AttemptID{s.attempts},
			print: fingerprint(WriteRequest{Value: []byte(value), Delete: kind == "delete"}),
		}
	}
	crashed := c.crashed
	op.claims = func(step storeStep, done func(Claim, error)) {
		s.after(time.Millisecond, func() {
			if *crashed {
				return
			}
			claim := s.claims.take(step, claimKey, op.write, claimLease)
			s.after(time.Millisecond, func() {
				if !*crashed {
					done(claim, nil)
				}
			})
		})
	}
	op.calls = func(call *Call, target int, done func(Version, error)) {
		if !*crashed {
			s.deliver(t, s.node(op.subject().targets[target].node), call, deadline, func(v Version, err error) {
				if !*crashed {
					done(v, err)
				}
			})
		}
	}
	done := new(bool)
	c.running = append(c.running, runningOp{strings.Join(words[:3], " "), done})
	op.finished = func(op *simOp) {
		if *crashed {
			return
		}
		*done = true
		took := time.Duration(s.now - started)
		fmt.Fprintf(&s.out, "%s after %v\n", s.describe(words, op), took)
	}
	op.start()
	if options["leave"] != "" {
		s.after(parseDuration(t, options["leave"]), func() {
			if *done || op.write == nil {
				return
			}
			*done = true
			outcome := op.write.abandon(ErrDeadlineExceeded, &op.fx)
			op.finished = func(*simOp) {}
			fmt.Fprintf(&s.out, "%s: the client has left: %s\n", strings.Join(words[:3], " "), outcome)
			op.carryOut()
		})
	}
	return done
}

func (s *scenario) deliver(t *testing.T, n *simNode, call *Call, deadline instant, done func(Version, error)) {
	switch how := s.behaviour[n.id]; how {
	case "lost", "down":
		s.at(deadline, func() { done(Version{}, errNoAnswer) })
	case "full":
		s.after(time.Millisecond, func() {
			if call.Kind == CallApply {
				done(Version{}, ErrDiskFull)
				return
			}
			done(n.handle(call, s.wall(0)()))
		})
	default:
		delay := parseDuration(t, how)
		s.after(delay/2, func() {
			held, err := n.handle(call, s.wall(0)())
			s.after(delay-delay/2, func() { done(held, err) })
		})
	}
}

func (s *scenario) describe(words []string, op *simOp) string {
	label := strings.Join(words[:3], " ")
	if op.read != nil {
		r := op.read
		if r.err != nil {
			return fmt.Sprintf("%s: %v", label, r.err)
		}
		return fmt.Sprintf("%s: %q %s", label, r.result.Value, r.result.Clock)
	}
	w := op.write
	if failure := (*WriteError)(nil); errors.As(w.err, &failure) {
		return fmt.Sprintf("%s: %s: %v", label, failure.Outcome, failure)
	}
	duplicate := ""
	if w.result.Duplicate {
		duplicate = " duplicate"
	}
	return fmt.Sprintf("%s: ok %s acks=%d%s", label, w.result.Clock, w.result.Replicas, duplicate)
}

func parseDuration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
