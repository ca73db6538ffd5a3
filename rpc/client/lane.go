package client

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const (
	// inlineBytes is the size of the greatest value that travels among others.
	inlineBytes = 256 << 10
	// batchBytes and batchOperations bound a message, so that the first
	// operation in it does not wait long for the last.
	batchBytes      = 256 << 10
	batchOperations = 1024
	// operationWeight is what an operation counts for besides key and value.
	operationWeight = 4 << 10
	// aliasAbove is the size in bytes above which a received value keeps the
	// buffer that it came in, instead of being copied out of it.
	aliasAbove = 64 << 10
	// sweepEvery is how often a lane with calls under way looks for those whose
	// time has ended. One sweep is cheaper than a timer for each call.
	sweepEvery = 20 * time.Millisecond
	// maxMessage leaves room around the greatest value, 10 MiB.
	maxMessage = 32 << 20
)

// unaryFor is for how long a coordinator is taken for one without Pipeline.
const unaryFor = time.Minute

// Pauses between attempts to open a stream.
const (
	reopenMin = 20 * time.Millisecond
	reopenMax = time.Second
)

// These never leave the package.
var (
	// errOmitted: the value is larger than what travels among others.
	errOmitted = &Error{Message: "value omitted"}
	// errNoPipeline: the coordinator is one without Pipeline.
	errNoPipeline = &Error{Message: "no pipeline"}
)

// lane is one connection and the stream on it. A call waits in a slot from
// enqueue until it is finished: by its answer, by the sweep after its deadline,
// by its caller, or by the end of the stream.
//
// Two goroutines serve it: run opens the stream and receives, send writes what
// is queued. The stream is opened when there is something to send, so that a
// connection that nobody uses may be closed.
type lane struct {
	stub   coordinatorpb.CoordinatorServiceClient
	room   *semaphore.Weighted
	size   int64 // of room
	cancel context.CancelFunc
	ctx    context.Context        // of the lane
	ended  chan struct{}          // closed when run has ended
	wake   chan struct{}          // holds a token when send, or run without a stream, has something to do
	down   atomic.Pointer[string] // why there is no stream, nil while there may be one

	// unaryUntil, in Unix nanoseconds, is set where the coordinator has no
	// Pipeline: until then calls travel alone, and then it is asked again.
	unaryUntil atomic.Int64

	// encoding is held while values are read from calls. Who has taken a call
	// that was being sent may hand it back after holding it.
	encoding sync.Mutex

	mu       sync.Mutex
	slots    []slot
	unused   []uint32
	queue    []ticket // calls to be sent, oldest first; those that are finished are skipped
	sending  bool     // send is at work and will look at the queue again
	sweeping bool
	closed   bool
	timer    *time.Timer
}

// ticket names a call under way: its slot, and how many calls that slot has
// held, so that a late answer never meets another call.
type ticket struct{ at, generation uint32 }

func (t ticket) id() uint64 { return uint64(t.generation)<<32 | uint64(t.at) }

func ticketOf(id uint64) ticket { return ticket{uint32(id), uint32(id >> 32)} }

type slot struct {
	call       *call
	generation uint32
	sent       bool
}

func newLane(conn *grpc.ClientConn, maxBytes int) *lane {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lane{
		stub:   coordinatorpb.NewCoordinatorServiceClient(conn),
		size:   int64(maxBytes),
		room:   semaphore.NewWeighted(int64(maxBytes)),
		ctx:    ctx,
		cancel: cancel,
		ended:  make(chan struct{}),
		wake:   make(chan struct{}, 1),
	}
	l.timer = time.AfterFunc(math.MaxInt64, l.sweep)
	l.timer.Stop()
	go l.run()
	return l
}

// alone tells whether calls travel as RPCs of their own.
func (l *lane) alone() bool {
	until := l.unaryUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}

var callOptions = []grpc.CallOption{
	grpc.ForceCodecV2(codec.New()),
	grpc.MaxCallRecvMsgSize(maxMessage),
	grpc.MaxCallSendMsgSize(maxMessage),
}

// do sends a call, and waits for its answer or for the end of ctx.
func (l *lane) do(ctx context.Context, call *call) *Error {
	if err := ctx.Err(); err != nil {
		return overdue(call.mutates(), false, err)
	}
	weight := min(call.weight(), l.size)
	if !l.room.TryAcquire(weight) {
		limited, cancel := context.WithDeadline(ctx, call.due)
		err := l.room.Acquire(limited, weight)
		cancel()
		if err != nil {
			return overdue(call.mutates(), false, err)
		}
	}
	defer l.room.Release(weight)
	t, err := l.enqueue(call)
	if err != nil {
		return err
	}
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
	}
	sent, mine := l.withdraw(t)
	if !mine {
		<-call.done // it was finished meanwhile
		return call.err
	}
	return overdue(call.mutates(), sent, ctx.Err())
}

func (l *lane) enqueue(call *call) (ticket, *Error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ticket{}, closed(call.mutates(), false)
	}
	if down := l.down.Load(); down != nil {
		l.mu.Unlock()
		return ticket{}, lost(call.mutates(), false, *down)
	}
	var at uint32
	if n := len(l.unused); n > 0 {
		at, l.unused = l.unused[n-1], l.unused[:n-1]
	} else {
		at = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	s := &l.slots[at]
	s.call, s.sent = call, false
	s.generation++
	t := ticket{at, s.generation}
	l.queue = append(l.queue, t)
	if !l.sweeping {
		l.sweeping = true
		l.timer.Reset(sweepEvery)
	}
	wake := !l.sending
	l.sending = true
	l.mu.Unlock()
	if wake {
		l.signal()
	}
	return t, nil
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// find is the slot of a call, nil where it has ended. The lock is held.
func (l *lane) find(t ticket) *slot {
	if uint64(t.at) >= uint64(len(l.slots)) {
		return nil
	}
	if s := &l.slots[t.at]; s.call != nil && s.generation == t.generation {
		return s
	}
	return nil
}

// take empties a slot and returns its call, which from then on is the caller's
// to finish. The lock is held.
func (l *lane) take(at uint32) *call {
	s := &l.slots[at]
	call := s.call
	s.call = nil
	l.unused = append(l.unused, at)
	return call
}

// withdraw takes a call back; mine is false where it was finished already.
func (l *lane) withdraw(t ticket) (sent, mine bool) {
	l.mu.Lock()
	if s := l.find(t); s != nil {
		sent, mine = s.sent, true
		l.take(t.at)
	}
	l.mu.Unlock()
	if sent {
		l.awaitEncoding()
	}
	return sent, mine
}

// awaitEncoding waits until nobody reads the values of calls that were taken.
func (l *lane) awaitEncoding() {
	l.encoding.Lock()
	defer l.encoding.Unlock()
}

// run keeps a stream open while there is something to send.
func (l *lane) run() {
	defer close(l.ended)
	for pause := reopenMin; ; {
		select {
		case <-l.wake:
		case <-l.ctx.Done():
		}
		if l.ctx.Err() != nil {
			l.abandon(func(c *call, sent bool) *Error { return closed(c.mutates(), sent) })
			return
		}
		if !l.pending() {
			continue
		}
		l.signal() // for send
		err := l.session()
		switch {
		case l.ctx.Err() != nil:
		case err == nil:
			pause = reopenMin
			l.abandon(func(c *call, _ bool) *Error {
				return lost(c.mutates(), false, "the coordinator has ended the stream")
			})
		case status.Code(err) == codes.Unimplemented:
			l.unaryUntil.Store(time.Now().Add(unaryFor).UnixNano())
			l.abandon(func(*call, bool) *Error { return errNoPipeline })
		default:
			e := callError(err, false)
			l.fail(e)
			l.idle(pause/2 + rand.N(pause/2))
			pause = min(2*pause, reopenMax)
			l.down.Store(nil)
		}
	}
}

// pending tells whether there is anything to send.
func (l *lane) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sending = len(l.queue) > 0
	return l.sending
}

// fail turns calls down while there is no stream, and finishes those under way.
func (l *lane) fail(e *Error) {
	text := "no stream to the coordinator: " + e.Message
	if e.Code != codes.Unavailable {
		text = "no stream to the coordinator: " + e.Code.String() + ": " + e.Message
	}
	l.down.Store(&text)
	stopped := e.Reason == "SHUTTING_DOWN"
	l.abandon(func(c *call, sent bool) *Error {
		// A coordinator that shuts down has answered all that it has begun.
		if !sent || stopped {
			failed := lost(c.mutates(), false, text)
			failed.Reason = e.Reason
			if !e.passing() {
				failed.Code, failed.kind = e.Code, nil
			}
			return failed
		}
		return lost(c.mutates(), true, "the stream ended before the answer: "+e.Message)
	})
}

// idle waits before the next attempt.
func (l *lane) idle(pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
}

// abandon finishes all calls under way; why tells each its error, sent or not.
func (l *lane) abandon(why func(c *call, sent bool) *Error) {
	type left struct {
		call *call
		sent bool
	}
	l.mu.Lock()
	var all []left
	for at := range l.slots {
		if l.slots[at].call != nil {
			sent := l.slots[at].sent
			all = append(all, left{l.take(uint32(at)), sent})
		}
	}
	l.queue = l.queue[:0]
	l.sending = false
	l.mu.Unlock()
	for _, a := range all {
		a.call.finish(why(a.call, a.sent))
	}
}

// session opens a stream and serves it until it ends. It returns nil where the
// coordinator has ended it in good order.
func (l *lane) session() error {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	stream, err := l.stub.Pipeline(ctx, callOptions...)
	if err != nil {
		return err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// A send fails with io.EOF where the stream ended; receive knows why.
		if err := l.send(ctx, stream); err != nil && !errors.Is(err, io.EOF) {
			cancel()
		}
	}()
	err = l.receive(stream)
	cancel()
	<-sent
	return err
}

// send writes what is queued, as much at a time as has gathered.
func (l *lane) send(ctx context.Context, stream grpc.ClientStream) error {
	var m outgoing
	var encoded codec.Encoded
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil
		}
		for {
			// Whoever else is ready to run may have calls for the same message.
			runtime.Gosched()
			l.encoding.Lock()
			some := l.gather(&m)
			var err error
			if some {
				err = encoded.Encode(&m.message)
				m.clear()
			}
			l.encoding.Unlock()
			if err != nil {
				return err
			}
			if !some {
				break
			}
			if err := stream.SendMsg(&encoded); err != nil {
				return err
			}
		}
	}
}

// gather fills m with the oldest queued calls, and tells whether there are any.
func (l *lane) gather(m *outgoing) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	size, used := 0, 0
	for _, t := range l.queue {
		if s := l.find(t); s != nil {
			// Calls that are too late to send stay in their slots for the sweep.
			if left := s.call.due.Sub(now); left > 0 {
				cost := len(s.call.key) + len(s.call.value)
				if m.len() > 0 && (size+cost > batchBytes || m.len() == batchOperations) {
					break
				}
				m.add(t.id(), s.call, left)
				s.sent = true
				size += cost
			}
		}
		used++
	}
	l.queue = append(l.queue[:0], l.queue[used:]...)
	l.sending = m.len() > 0
	return m.len() > 0
}

// receive finishes calls as their answers come, until the stream ends.
func (l *lane) receive(stream grpc.ClientStream) error {
	response := coordinatorpb.PipelineResponseFromVTPool()
	defer response.ReturnToVTPool()
	in := codec.Inbound{Message: response}
	defer in.Free()
	known := make(names)
	var calls []*call
	for {
		if err := stream.RecvMsg(&in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		calls = l.answered(response, calls[:0])
		for i, call := range calls {
			if call != nil {
				call.finish(call.answer(response.Answers[i], &in, known))
			}
			response.Answers[i].Value = nil
		}
		clear(calls)
		response.ResetVT()
		in.Free()
	}
}

// answered appends the call of each answer to calls, nil for one that is late.
func (l *lane) answered(response *coordinatorpb.PipelineResponse, calls []*call) []*call {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range response.Answers {
		var call *call
		t := ticketOf(a.Id)
		if s := l.find(t); s != nil && s.sent {
			call = l.take(t.at)
		}
		calls = append(calls, call)
	}
	return calls
}

// answer takes what the call's caller wants of an answer.
func (c *call) answer(a *coordinatorpb.PipelineAnswer, in *codec.Inbound, known names) *Error {
	switch {
	case a.Status != nil:
		return operationError(a.Status)
	case a.ValueOmitted:
		return errOmitted
	}
	if c.full {
		clock := known.clock(a.VectorClock)
		if c.mutates() {
			c.written = WriteResult{
				Clock: clock, Replicas: int(a.ReplicaCount), Level: Level(known.keep(a.Consistency)), Duplicate: a.IsDuplicate,
			}
		} else {
			c.found.Clock, c.found.UpdatedAt = clock, time.UnixMilli(a.UpdatedAt)
		}
	}
	if !c.mutates() {
		if len(a.Value) > aliasAbove {
			in.Detach()
			c.found.Value = a.Value[:len(a.Value):len(a.Value)]
		} else {
			c.found.Value = append(make([]byte, 0, len(a.Value)), a.Value...)
		}
	}
	return nil
}

// sweep finishes calls whose time has ended.
func (l *lane) sweep() {
	now := time.Now()
	var late, never []*call
	l.mu.Lock()
	for at := range l.slots {
		s := &l.slots[at]
		if s.call == nil || now.Before(s.call.due) {
			continue
		}
		if s.sent {
			late = append(late, l.take(uint32(at)))
		} else {
			never = append(never, l.take(uint32(at)))
		}
	}
	if len(never) > 0 {
		l.compact()
	}
	l.sweeping = !l.closed && len(l.unused) < len(l.slots)
	if l.sweeping {
		l.timer.Reset(sweepEvery)
	}
	l.mu.Unlock()
	for _, call := range never {
		call.finish(overdue(call.mutates(), false, context.DeadlineExceeded))
	}
	if len(late) > 0 {
		l.awaitEncoding()
	}
	for _, call := range late {
		call.finish(overdue(call.mutates(), true, context.DeadlineExceeded))
	}
}

// compact drops finished calls from the queue, which otherwise grows while
// nothing is sent. The lock is held.
func (l *lane) compact() {
	kept := l.queue[:0]
	for _, t := range l.queue {
		if l.find(t) != nil {
			kept = append(kept, t)
		}
	}
	l.queue = kept
}

// close ends the lane and what is under way on it.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	<-l.ended
	l.timer.Stop()
}

// outgoing is a message being made, reused from one to the next.
type outgoing struct {
	message    coordinatorpb.PipelineRequest
	operations []*coordinatorpb.PipelineOperation
}

func (m *outgoing) len() int { return len(m.message.Operations) }

func (m *outgoing) add(id uint64, c *call, left time.Duration) {
	n := m.len()
	if n == len(m.operations) {
		m.operations = append(m.operations, new(coordinatorpb.PipelineOperation))
	}
	op := m.operations[n]
	op.Id = id
	op.Kind = c.kind
	op.TenantId = c.tenant
	op.Key = c.key
	op.Value = c.value
	op.Consistency = string(c.level)
	op.IdempotencyKey = c.idempotencyKey
	op.TimeoutMs = uint32(min(max(left.Milliseconds(), 1), math.MaxUint32))
	op.MaxValueBytes = inlineBytes
	m.message.Operations = m.operations[:n+1]
}

// clear drops what would stay in memory.
func (m *outgoing) clear() {
	for _, op := range m.message.Operations {
		op.Value = nil
	}
	m.message.Operations = m.operations[:0]
}

// names turns received bytes that repeat themselves into shared strings. One
// goroutine uses it.
type names map[string]string

// maxNames bounds the strings that are remembered.
const maxNames = 1024

func (n names) keep(s string) string {
	if known, ok := n[s]; ok {
		return known
	}
	if len(n) >= maxNames {
		clear(n)
	}
	s = clone(s)
	n[s] = s
	return s
}

func (n names) clock(m *coordinatorpb.VectorClock) []ClockEntry {
	entries := m.GetEntries()
	if len(entries) == 0 {
		return nil
	}
	clock := make([]ClockEntry, len(entries))
	for i, e := range entries {
		clock[i] = ClockEntry{n.keep(e.CoordinatorNodeId), e.LogicalTimestamp}
	}
	return clock
}
