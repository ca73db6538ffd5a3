package coord

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Trace records what one operation does, step by step, for whoever asked for
// it: it is handed in with the request, empty, and read when the answer is
// there. The operation may go on behind its answer; what it does then is
// recorded, too. Requests without a trace pay a comparison with nil a step.
//
// Context and Ended are set before the trace is handed in, and not changed after.
type Trace struct {
	// Context is the span that the operation is in a system of traces, which
	// its calls then carry to replicas, each with a span of its own. Zero: none.
	Context TraceContext
	// Ended, unless it is nil, is called when the operation and all its calls
	// have ended, once, by whoever brought the last answer. It must not block.
	// An operation that never began, for want of a tenant for instance, does
	// not end either.
	Ended func(*Trace)

	mu      sync.Mutex
	began   time.Time
	steps   []TraceStep
	left    int // steps beyond maxTraceSteps
	winner  Head
	settled bool // winner is known
}

// TraceContext names a span of a trace as the W3C trace context does: by the
// halves of the trace's id, and the span's. A span of 0 is none.
type TraceContext struct {
	High, Low, Span uint64
}

// child is a new span of the same trace, none where there is no trace.
func (c TraceContext) child() TraceContext {
	if c.Span != 0 {
		c.Span = rand.Uint64() | 1 // never 0
	}
	return c
}

// maxTraceSteps bounds a trace.
const maxTraceSteps = 128

// TraceKind is what a step is.
type TraceKind uint8

const (
	// TraceSkip: a replica is not asked, since it is known to be down.
	TraceSkip TraceKind = iota
	// TraceSend and TraceReply: a call on a replica begins, and has ended.
	TraceSend
	TraceReply
	// TraceClaim and TraceClaimed: a step on the idempotency claim begins, and has ended.
	TraceClaim
	TraceClaimed
	// TraceHint: a version that a replica missed is to be hinted.
	TraceHint
	// TraceAnswer: the result is known.
	TraceAnswer
)

func (k TraceKind) String() string {
	return [...]string{"skip", "send", "reply", "claim", "claimed", "hint", "answer"}[k]
}

// TraceStep is one thing that happened.
type TraceStep struct {
	At   time.Duration // since the operation began
	Kind TraceKind
	Node string // of a skip, send, reply or hint
	// What names the part of the operation: clocks, send, read, fetch or
	// repair of a call; reserve, mint, complete or release of a claim.
	What  string
	Hedge bool          // of a send: one more than is needed, since the first is slow
	Took  time.Duration // of a reply
	Held  Head          // of a reply without Err: what the replica holds
	Err   error         // of a skip, reply or claimed
	Span  uint64        // of a send or reply: the call's, where the trace has a context
	// Relation is how Held stands to the version that won: Equal, Before
	// (dominated) or Concurrent (a conflict).
	Relation Relation
}

// Steps are what was recorded until now, in order, how many more there were,
// and the version that the operation wrote or found: the zero Head where there
// is none. The slice is the caller's.
func (t *Trace) Steps() (steps []TraceStep, left int, winner Head) {
	t.mu.Lock()
	defer t.mu.Unlock()
	steps = slices.Clone(t.steps)
	for i := range steps {
		s := &steps[i]
		if s.Kind != TraceReply || s.Err != nil || !t.settled {
			continue
		}
		if s.Relation = s.Held.Clock.Compare(t.winner.Clock); s.Relation == After {
			// Pruning may have cost the winner's clock an entry.
			s.Relation = Concurrent
		}
	}
	return steps, t.left, t.winner
}

// Began is when the operation did, by the wall clock. It is zero before.
func (t *Trace) Began() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.began
}

func (t *Trace) add(s TraceStep) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) == maxTraceSteps {
		t.left++
		return
	}
	t.steps = append(t.steps, s)
}

// follow begins to record the operation, whose replicas are chosen.
func (o *operation) follow(t *Trace) {
	o.trace = t
	if t == nil {
		return
	}
	t.mu.Lock()
	t.began = o.began
	t.mu.Unlock()
	for _, target := range o.subject().targets {
		if target.down != nil {
			t.add(TraceStep{Kind: TraceSkip, Node: target.node, Err: target.down})
		}
	}
}

// sent, replied and carried are called with the operation locked.

func (t *Trace) sent(o *operation, out *outCall) {
	t.add(TraceStep{At: time.Duration(out.sentAt - o.started), Kind: TraceSend, Node: out.peer.node.ID, What: out.phase.String(), Hedge: out.hedge, Span: out.Trace.Span})
}

func (t *Trace) replied(o *operation, out *outCall, now instant) {
	s := TraceStep{At: time.Duration(now - o.started), Kind: TraceReply, Node: out.peer.node.ID, What: out.phase.String(),
		Took: time.Duration(now - out.sentAt), Err: out.Err, Span: out.Trace.Span}
	if out.Err == nil {
		s.Held = out.Held.Head
	}
	t.add(s)
}

// carried records what an event made the operation do besides calls.
func (t *Trace) carried(o *operation, fx *effects) {
	at := time.Duration(o.c.now() - o.started)
	if fx.store != noStep {
		t.add(TraceStep{At: at, Kind: TraceClaim, What: fx.store.String()})
	}
	for i := range o.peers {
		if fx.missed.has(i) {
			t.add(TraceStep{At: at, Kind: TraceHint, Node: o.peers[i].node.ID})
		}
	}
	if !fx.answer {
		return
	}
	t.add(TraceStep{At: at, Kind: TraceAnswer})
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settled, t.winner = true, o.read.best.Head
	if o.kind == opWrite {
		t.winner = o.write.version.Head
	}
}

func (t *Trace) claimed(o *operation, step storeStep, err error) {
	t.add(TraceStep{At: time.Duration(o.c.now() - o.started), Kind: TraceClaimed, What: step.String(), Err: err})
}

func (p phase) String() string {
	return [...]string{"none", "clocks", "send", "read", "fetch", "repair"}[p]
}

func (s storeStep) String() string {
	return [...]string{"none", "reserve", "mint", "complete", "release"}[s]
}
