package coord

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

type requestKind uint8

const (
	requestPut requestKind = iota
	requestDelete
	requestGet
)

// simRequest is what a client wants done once: one write, delete or read,
// however many attempts it makes at it.
type simRequest struct {
	s              *sim
	id             int
	client         *simClient // nil for the simulator's own
	key            *simEntry
	kind           requestKind
	level          Level
	value          []byte
	idempotencyKey string
	print          Fingerprint
	group          *effect
	ttl            time.Duration
	errand         errand      // of the simulator's own reads
	view           *view       // that an errand begins with
	tenant         Tenant      // likewise
	done           func(error) // is told the end of an errand

	called   int64 // in ticks, as all times of histories
	returned int64
	attempts int // made
	running  int // not ended
	ok       bool
	inDoubt  bool // an attempt may have taken effect
	ended    bool // for the client
	err      error
	late     bool    // a write at one that missed what was acknowledged before it
	saw      *record // by a read; nil where it saw nothing
	observed int64   // when the first quorum read that saw it returned; 0: none
}

func (r *simRequest) String() string {
	what := "read"
	switch r.kind {
	case requestPut:
		what = fmt.Sprintf("put %s", r.value)
	case requestDelete:
		what = fmt.Sprintf("delete #%d", r.id)
	}
	if r.idempotencyKey != "" {
		what += " id=" + r.idempotencyKey
	}
	return fmt.Sprintf("%s %s at %s", r.key.name, what, r.level)
}

// attempt sends the request to a coordinator. It is called again for retries.
func (r *simRequest) attempt(c *simCoordinator, level Level) {
	s := r.s
	r.attempts++
	r.running++
	s.asked++
	if !c.up {
		r.attemptFailed(NotApplied, false)
		return
	}
	if c.pausedUntil > s.now {
		life := c.life
		s.at(c.pausedUntil, func() {
			if c.life != life || !c.up {
				r.cutOff()
				return
			}
			r.arrive(c, level, s.now)
		})
		return
	}
	r.arrive(c, level, s.now)
}

func (r *simRequest) arrive(c *simCoordinator, level Level, sent instant) {
	s := r.s
	if r.forgotten() {
		r.cutOff()
		return
	}
	if !c.ready(r.key) {
		// The coordinator gets the tenant, or a newer ring, first.
		c.parked = append(c.parked, r)
		c.load(r.key.tenantIndex, func(err error) {
			at := slices.Index(c.parked, r)
			c.parked = slices.Delete(c.parked, at, at+1)
			if err != nil || s.now > sent.add(s.swarm.timeout) {
				r.err = errSimMetadata
				r.attemptFailed(NotApplied, false)
				return
			}
			r.arrive(c, level, sent)
		})
		return
	}
	a, gen := s.begin(c, r, level)
	if s.strikes(faultClientGone) {
		s.at(s.now.add(s.spread(100*time.Microsecond, s.swarm.timeout)), func() {
			if a.gen == gen {
				a.abandon()
			}
		})
	}
}

// forgotten tells whether the request's idempotency key is, or soon will be,
// one that nobody remembers: its client may not repeat it any more.
func (r *simRequest) forgotten() bool {
	s := r.s
	return r.idempotencyKey != "" && s.now.add(s.swarm.timeout) > r.group.since.add(s.claims.ttl)
}

// attemptEnded takes an attempt's answer.
func (r *simRequest) attemptEnded(a *simAttempt) {
	if a.reading {
		if a.read.err != nil && !errors.Is(a.read.err, ErrKeyNotFound) {
			r.err = a.read.err
			r.attemptFailed(NotApplied, false)
			return
		}
		r.saw = a.record
		r.attemptOK()
		return
	}
	if a.write.err == nil {
		r.attemptOK()
		return
	}
	r.err = a.write.err
	failure := (*WriteError)(nil)
	if !errors.As(a.write.err, &failure) {
		r.s.violate(r.key, "engine", "a failed write has no outcome: %v", a.write.err)
		return
	}
	r.attemptFailed(failure.Outcome, errors.Is(failure, ErrIdempotencyConflict))
}

func (r *simRequest) attemptOK() {
	r.running--
	if !r.ended { // else it stays in doubt: this success came too late for the client
		r.ok = true
		r.end()
	}
}

// cutOff ends an attempt of which the client learns nothing.
func (r *simRequest) cutOff() { r.attemptFailed(InDoubt, false) }

func (r *simRequest) attemptFailed(outcome Outcome, final bool) {
	s := r.s
	r.running--
	r.inDoubt = r.inDoubt || outcome == InDoubt
	if s.traced(r.key) {
		s.note(r.key, "request #%d: an attempt ended %s", r.id, outcome)
	}
	if r.ended || r.client == nil {
		if r.running == 0 {
			r.ended = true
		}
		return
	}
	if r.idempotencyKey != "" && !final && r.attempts < maxSimAttempts && s.chance(s.swarm.retry) {
		s.after(s.spread(time.Millisecond, 500*time.Millisecond), func() {
			if !r.ended {
				r.attempt(r.client.coordinator(), r.level)
			}
		})
		return
	}
	if r.running == 0 {
		r.end()
	}
}

// maxSimAttempts bounds the attempts at one request.
const maxSimAttempts = 5

// end gives the request's result to the client.
func (r *simRequest) end() {
	r.s.tick++
	r.returned = r.s.tick
	r.ended = true
	if r.ok && r.kind == requestGet {
		r.s.observe(r)
	}
	if r.s.traced(r.key) {
		r.s.note(r.key, "request #%d ended: %s", r.id, r.result())
	}
	if r.client != nil {
		r.client.next(r)
	}
}

func (r *simRequest) result() string {
	switch {
	case !r.ok && r.inDoubt && r.kind != requestGet:
		return "in doubt"
	case !r.ok:
		return "failed"
	case r.kind == requestGet && r.saw == nil:
		return "ok, saw nothing"
	case r.kind == requestGet:
		return "ok, saw " + r.s.name(&r.saw.version.Head)
	}
	return "ok"
}

// simClient makes one request after the other.
type simClient struct {
	s        *sim
	id       int
	at       *simCoordinator // where it sends, if it is sticky
	failures int             // since its last success
	recent   []*simRequest   // keyed ones
}

// coordinator chooses where the next attempt goes.
func (c *simClient) coordinator() *simCoordinator {
	s := c.s
	if s.swarm.sticky && c.at != nil && c.at.up && c.failures == 0 {
		return c.at
	}
	c.at = s.coordinators[s.IntN(len(s.coordinators))]
	for range s.coordinators {
		if c.at.up {
			break
		}
		c.at = s.coordinators[(c.at.index+1)%len(s.coordinators)]
	}
	return c.at
}

// next follows a request that has ended; nil for the first.
func (c *simClient) next(last *simRequest) {
	s := c.s
	pause := s.upTo(s.swarm.think)
	if last != nil {
		if last.ok {
			c.failures = 0
		} else {
			c.failures = min(c.failures+1, 8)
		}
		pause += time.Duration(c.failures) * 10 * time.Millisecond
	}
	s.after(pause, c.request)
}

// request makes the next request.
func (c *simClient) request() {
	s := c.s
	if s.asked >= s.swarm.operations || len(s.requests) >= maxSimRequests {
		s.idle++
		return
	}
	at := c.coordinator()
	if !at.up {
		s.after(s.spread(time.Millisecond, 20*time.Millisecond), c.request)
		return
	}
	if len(c.recent) > 0 && s.chance(s.swarm.keyed*s.swarm.replay) {
		c.replay(at)
		return
	}
	k := s.keys[s.IntN(len(s.keys))]
	r := s.newRequest(k, c)
	r.level = s.level()
	switch {
	case s.chance(s.swarm.reads):
		r.kind = requestGet
	case s.chance(s.swarm.deletes):
		r.kind = requestDelete
	default:
		r.kind = requestPut
	}
	if r.kind != requestGet {
		c.prepareWrite(r)
	}
	s.tick++
	r.called = s.tick
	r.attempt(at, r.level)
	if r.idempotencyKey != "" && s.chance(s.swarm.impatient) {
		for range 1 + s.IntN(3) {
			s.after(s.spread(time.Microsecond, 20*time.Millisecond), func() {
				if !r.ended {
					r.attempt(s.coordinators[s.IntN(len(s.coordinators))], r.level)
				}
			})
		}
	}
}

func (c *simClient) prepareWrite(r *simRequest) {
	s := c.s
	if r.kind == requestPut {
		r.value = append(strconv.AppendInt(append(r.value, '#'), int64(r.id), 10), "="+r.key.name...)
	}
	if s.swarm.ttls > 0 && r.kind == requestPut && s.chance(s.swarm.ttls) {
		r.ttl = s.spread(10*time.Millisecond, 2*s.swarm.hintLifetime)
	}
	if !s.chance(s.swarm.keyed) {
		return
	}
	if len(c.recent) > 0 && r.kind == requestPut && s.chance(s.swarm.reuse) {
		other := c.recent[s.IntN(len(c.recent))]
		r.key, r.idempotencyKey, r.group = other.key, other.idempotencyKey, other.group
		r.group.mixed = true
	} else {
		r.idempotencyKey = "k" + strconv.Itoa(r.id)
		r.group = &effect{since: s.now}
	}
	r.print = fingerprint(WriteRequest{Value: r.value, Delete: r.kind == requestDelete, TTL: r.ttl})
	if len(c.recent) < 8 {
		c.recent = append(c.recent, r)
	} else {
		c.recent[s.IntN(len(c.recent))] = r
	}
}

// replay sends a keyed request again that has long ended, perhaps at another
// level. If it failed then, it may take effect now.
func (c *simClient) replay(at *simCoordinator) {
	s := c.s
	r := c.recent[s.IntN(len(c.recent))]
	if r.forgotten() {
		s.after(s.upTo(s.swarm.think), c.request)
		c.recent = slices.DeleteFunc(c.recent, (*simRequest).forgotten)
		return
	}
	if !r.ok {
		r.inDoubt = true
	}
	r.attempt(at, s.level())
	s.after(s.upTo(s.swarm.think), c.request)
}

func (s *sim) level() Level {
	total := 0.0
	for _, weight := range s.swarm.levels {
		total += weight
	}
	at := s.Float64() * total
	for level, weight := range s.swarm.levels {
		if at -= weight; at < 0 {
			return Level(level)
		}
	}
	return Quorum
}
