package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// sweepEvery is how often a link with calls under way looks for those whose
// deadline has passed. One sweep is cheaper than a timer for each call.
const sweepEvery = 10 * time.Millisecond

// maxCallTime is the deadline of a call that has none.
const maxCallTime = 30 * time.Second

// linkBounds are the limits of one link.
type linkBounds struct {
	calls     int
	bytes     int
	hungAfter time.Duration
	large     bool // carries large values
}

// link is one connection to a storage node. A call waits
// in a slot from do until it is finished: by its reply, by the sweep after its
// deadline, or by the end of the connection.
//
// Three goroutines serve it: run connects and then receives, send writes what
// is queued, and the sweep is a timer that is armed only while calls wait.
type link struct {
	opts         *StorageOptions
	heard        *nodeTime // what comes in is noted there
	traffic      *traffic  // of the connections to the node
	bounds       linkBounds
	onLargeValue func(*coord.Call) // takes a read whose value the small link does not carry

	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended
	wake   chan struct{} // holds a token when send has something to do

	full error                  // of calls beyond the bounds
	down atomic.Pointer[reason] // why calls are turned down; nil while they are not

	mu       sync.Mutex
	slots    []slot
	unused   []uint32 // slots without a call
	queue    []ticket // calls to be sent, oldest first; those that are finished are skipped
	bytes    int      // cost of all calls
	sending  bool     // send is at work and will look at the queue again
	sweeping bool     // the timer is armed
	closed   bool
	timer    *time.Timer
	owed     int       // operations that were sent on this connection and not answered, even too late
	waiting  time.Time // since when the node owes answers and has given none
	hung     bool
	probing  bool // a probe is under way
}

type reason struct{ err error }

// ticket names a call under way: its slot, and how many calls that slot has
// held, so that a late reply never meets another call.
type ticket struct {
	at         uint32
	generation uint32
}

// id is the ticket as operations and replies carry it.
func (t ticket) id() uint64 { return uint64(t.generation)<<32 | uint64(t.at) }

func ticketOf(id uint64) ticket { return ticket{uint32(id), uint32(id >> 32)} }

// slot holds a call under way.
type slot struct {
	call       *coord.Call
	deadline   time.Time
	cost       int
	generation uint32
	sent       bool
}

// dialLink makes a link that begins to connect at once.
func dialLink(opts *StorageOptions, heard *nodeTime, traffic *traffic, bounds linkBounds, onLargeValue func(*coord.Call)) *link {
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{
		opts:         opts,
		heard:        heard,
		traffic:      traffic,
		bounds:       bounds,
		onLargeValue: onLargeValue,
		cancel:       cancel,
		done:         make(chan struct{}),
		wake:         make(chan struct{}, 1),
		full: unsent("%s: queue is full, %d calls or %d bytes wait for an answer already",
			opts.name(), bounds.calls, bounds.bytes),
	}
	l.down.Store(&reason{unsent("%s: not connected yet", opts.name())})
	l.timer = time.AfterFunc(math.MaxInt64, l.sweep)
	l.timer.Stop()
	go l.run(ctx)
	return l
}

func (l *link) unavailable() error {
	if down := l.down.Load(); down != nil {
		return down.err
	}
	return nil
}

// do queues a call, or finishes it at once.
func (l *link) do(call *coord.Call) {
	if down := l.down.Load(); down != nil {
		call.Finish(down.err)
		return
	}
	if err := l.enqueue(call); err != nil {
		call.Finish(err)
	}
}

func (l *link) enqueue(call *coord.Call) error {
	cost := operationOverhead + len(call.Tenant) + len(call.Key) + len(call.Version.Value)
	l.mu.Lock()
	// The link may have gone down since do looked, and a call that is queued
	// then would wait for its deadline.
	if down := l.down.Load(); down != nil && call.Caller != (*prober)(l) {
		l.mu.Unlock()
		return down.err
	}
	calls := len(l.slots) - len(l.unused)
	if calls >= l.bounds.calls || calls > 0 && l.bytes+cost > l.bounds.bytes {
		l.mu.Unlock()
		return l.full
	}
	var at uint32
	if n := len(l.unused); n > 0 {
		at, l.unused = l.unused[n-1], l.unused[:n-1]
	} else {
		at = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	s := &l.slots[at]
	s.call, s.cost, s.sent, s.deadline = call, cost, false, call.Deadline
	s.generation++
	if s.deadline.IsZero() {
		s.deadline = time.Now().Add(maxCallTime)
	}
	l.bytes += cost
	l.queue = append(l.queue, ticket{at, s.generation})
	if !l.sweeping {
		l.sweeping = true
		l.timer.Reset(sweepEvery)
	}
	wake := !l.sending
	l.sending = true
	l.mu.Unlock()
	if wake {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// take empties a slot and returns its call, which from then on is the caller's
// to finish. The lock is held.
func (l *link) take(at uint32) *coord.Call {
	s := &l.slots[at]
	call := s.call
	s.call = nil
	l.bytes -= s.cost
	l.unused = append(l.unused, at)
	return call
}

// find is the slot of a call, nil where it has ended. The lock is held.
func (l *link) find(t ticket) *slot {
	if uint64(t.at) >= uint64(len(l.slots)) {
		return nil
	}
	if s := &l.slots[t.at]; s.call != nil && s.generation == t.generation {
		return s
	}
	return nil
}

// run keeps the link connected until ctx ends.
func (l *link) run(ctx context.Context) {
	defer close(l.done)
	for pause := retryMin; ; {
		lasted, err := l.session(ctx)
		l.disconnected(err)
		if ctx.Err() != nil {
			return
		}
		if lasted {
			pause = retryMin
		}
		select {
		case <-time.After(pause + rand.N(pause/4)):
		case <-ctx.Done():
		}
		pause = min(2*pause, retryMax)
	}
}

// session connects, checks who answers and serves the connection until it
// breaks. It tells whether the connection lasted for a while, and why it ended.
func (l *link) session(ctx context.Context) (lasted bool, err error) {
	f, hello, err := dialFrames(ctx, l.opts, l.traffic)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	closing := context.AfterFunc(ctx, func() { _ = f.conn.Close() })
	defer func() {
		cancel()
		if closing() {
			_ = f.conn.Close()
		}
	}()
	switch {
	case l.opts.NodeID != "" && hello.Id != l.opts.NodeID:
		return false, fmt.Errorf("node %q answers there, want %q", hello.Id, l.opts.NodeID)
	case l.opts.UUID != "" && hello.Uuid != l.opts.UUID:
		return false, fmt.Errorf("the data directory there is %s, want %s", hello.Uuid, l.opts.UUID)
	}
	l.connected(hello)
	began := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if l.send(ctx, f) != nil {
			cancel() // receive knows, or finds out, why
		}
	}()
	err = l.receive(f)
	cancel()
	<-sent
	return time.Since(began) > retryMax, err
}

func (l *link) connected(hello *storagepb.Hello) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard.hear(hello.Boot, hello.Clock)
	if !l.closed {
		l.down.Store(nil)
	}
}

// disconnected turns new calls down and finishes those under way.
func (l *link) disconnected(cause error) {
	l.mu.Lock()
	var never, lost []*coord.Call
	for at := range l.slots {
		if l.slots[at].call == nil {
			continue
		}
		if l.slots[at].sent {
			lost = append(lost, l.take(uint32(at)))
		} else {
			never = append(never, l.take(uint32(at)))
		}
	}
	l.queue = l.queue[:0]
	l.owed = 0
	l.hung, l.sending = false, false
	down := unsent("%s: not connected: %v", l.opts.name(), cause)
	if l.closed {
		down = unsent("%s: the connection was closed here", l.opts.name())
	}
	l.down.Store(&reason{down})
	l.mu.Unlock()

	for _, call := range never {
		call.Finish(down)
	}
	if len(lost) > 0 {
		err := unanswered("%s: the connection ended before the answer: %v", l.opts.name(), cause)
		for _, call := range lost {
			call.Finish(err)
		}
	}
}

// send writes what is queued, as much at a time as has gathered, and now and
// then asks for a sign of life.
func (l *link) send(ctx context.Context, f *frames) error {
	m := new(outgoing)
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-l.wake:
		case <-ping.C:
			if err := f.sendText(framePing, ""); err != nil {
				return err
			}
			continue
		case <-ctx.Done():
			return nil
		}
		for {
			// Whoever else is ready to run may have calls for the same message.
			runtime.Gosched()
			if !l.gather(m) {
				break
			}
			l.opts.Messages.add(m.len())
			err := f.sendOperations(&m.batch)
			m.clear()
			if err != nil {
				return err
			}
		}
	}
}

// gather fills m with the oldest queued calls, and tells whether there are any.
// It reads calls only under the lock, since a finished one belongs to its owner
// again; the values that m points to are never changed by anyone.
func (l *link) gather(m *outgoing) bool {
	now := time.Now()
	l.mu.Lock()
	size, used := 0, 0
	for _, t := range l.queue {
		if s := l.find(t); s != nil {
			// Calls that are too late to send stay in their slots for the sweep.
			if left := s.deadline.Sub(now); left > 0 {
				if m.len() > 0 && (size+s.cost > batchBytes || m.len() == batchOperations) {
					break
				}
				m.add(t.id(), s.call, left, l.bounds.large)
				s.sent = true
				size += s.cost
			}
		}
		used++
	}
	l.queue = append(l.queue[:0], l.queue[used:]...)
	if l.owed == 0 {
		l.waiting = now
	}
	l.owed += m.len()
	l.sending = m.len() > 0
	l.mu.Unlock()
	return m.len() > 0
}

// receive finishes calls as their replies come, until the connection ends.
func (l *link) receive(f *frames) error {
	replies := storagepb.BatchReplyFromVTPool()
	defer replies.ReturnToVTPool()
	shared := new(names)
	var calls []*coord.Call
	var pong storagepb.Hello
	for {
		kind, payload, err := f.next()
		switch {
		case err == io.EOF:
			return errors.New("the node closed the connection")
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("the node was silent for %v", maxSilence)
		case err != nil:
			return err
		}
		switch kind {
		case framePong:
			if err := pong.UnmarshalVTUnsafe(payload); err != nil {
				return fmt.Errorf("%w: %w", errCorruptFrame, err)
			}
			l.heard.hear(pong.Boot, pong.Clock)
			pong.Reset()
			continue
		case frameBye:
			return &byeError{text(payload)}
		case frameReplies:
			err = replies.UnmarshalVTUnsafe(payload)
		default:
			if f.skips(kind) {
				continue
			}
			err = fmt.Errorf("kind %d", kind)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errCorruptFrame, err)
		}
		l.heard.hear(replies.Boot, replies.Clock)
		calls = l.answered(replies, calls[:0])
		for i, call := range calls {
			if call == nil {
				continue
			}
			l.finish(f, shared, call, replies.Replies[i])
			calls[i] = nil
		}
		replies.ResetVT()
	}
}

// answered appends the call of each reply to calls, nil for one that is late.
func (l *link) answered(replies *storagepb.BatchReply, calls []*coord.Call) []*coord.Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range replies.Replies {
		var call *coord.Call
		t := ticketOf(r.Id)
		if s := l.find(t); s != nil && s.sent {
			call = l.take(t.at)
		}
		calls = append(calls, call)
	}
	l.owed = max(l.owed-len(replies.Replies), 0)
	l.waiting = time.Now()
	if l.hung {
		l.hung = false
		l.down.Store(nil)
	}
	return calls
}

// finish hands a reply to its call.
func (l *link) finish(f *frames, shared *names, call *coord.Call, r *storagepb.Reply) {
	if r.Code == storagepb.Code_CODE_LARGE_VALUE {
		if l.onLargeValue != nil {
			l.onLargeValue(call)
			return
		}
		call.Finish(unanswered("%s: the node keeps back a large value on the link for large ones", l.opts.name()))
		return
	}
	err := errorOf(r)
	call.Held, call.Floor = coord.Version{}, r.Floor
	if err == nil && r.Held != nil {
		aliased, faulty := shared.version(&call.Held, r.Held)
		if aliased {
			f.keep()
		}
		r.Held.Value = nil
		if faulty != nil {
			err = &callError{
				text:  fmt.Sprintf("%s: answer: %v", l.opts.name(), faulty),
				kinds: []error{coord.ErrReplicaUnavailable, coord.ErrCorrupt},
			}
		}
	}
	call.Finish(err)
}

// sweep finishes calls whose deadline has passed, and finds out a node that
// has fallen silent.
func (l *link) sweep() {
	now := time.Now()
	var late, never []*coord.Call
	l.mu.Lock()
	for at := range l.slots {
		s := &l.slots[at]
		if s.call == nil || now.Before(s.deadline) {
			continue
		}
		if s.sent {
			late = append(late, l.take(uint32(at)))
		} else {
			never = append(never, l.take(uint32(at)))
		}
	}
	l.compact()
	if l.owed > 0 && !l.hung && now.Sub(l.waiting) >= l.bounds.hungAfter {
		l.hung = true
		l.down.Store(&reason{unsent("%s: connected, but silent for %v while calls wait",
			l.opts.name(), now.Sub(l.waiting).Round(time.Millisecond))})
	}
	probe := l.hung && !l.probing
	l.probing = l.probing || probe
	l.sweeping = !l.closed && (l.hung || l.owed > 0 || len(l.unused) < len(l.slots))
	if l.sweeping {
		l.timer.Reset(sweepEvery)
	}
	l.mu.Unlock()

	for _, call := range late {
		call.Finish(errLate)
	}
	for _, call := range never {
		call.Finish(errTooLate)
	}
	if probe {
		l.probe()
	}
}

var (
	errLate    = unanswered("no answer before the deadline")
	errTooLate = unsent("deadline passed before the call was sent")
)

// compact drops finished calls from the queue, which otherwise grows
// while the node takes nothing. The lock is held.
func (l *link) compact() {
	kept := l.queue[:0]
	for _, t := range l.queue {
		if l.find(t) != nil {
			kept = append(kept, t)
		}
	}
	l.queue = kept
}

// prober receives the end of probes; it is the link itself under another name.
type prober link

func (p *prober) Done(*coord.Call) {
	p.mu.Lock()
	p.probing = false
	p.mu.Unlock()
}

// probe asks a silent node for a key that nobody has. Whatever it answers, it
// lives; only one probe is under way at a time.
func (l *link) probe() {
	call := &coord.Call{Kind: coord.CallHead, Deadline: time.Now().Add(time.Second), Caller: (*prober)(l)}
	if err := l.enqueue(call); err != nil {
		call.Finish(err)
	}
}

// close ends the link for good.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	<-l.done
	l.timer.Stop()
}

// outgoing is a batch being made, reused from one to the next.
type outgoing struct {
	batch      storagepb.Batch
	operations []*storagepb.Operation
	versions   []*outbound
}

func (m *outgoing) len() int { return len(m.batch.Operations) }

func (m *outgoing) add(id uint64, call *coord.Call, left time.Duration, acceptLarge bool) {
	n := m.len()
	if n == len(m.operations) {
		m.operations = append(m.operations, new(storagepb.Operation))
		m.versions = append(m.versions, new(outbound))
	}
	op := m.operations[n]
	op.Id = id
	op.Kind = storagepb.Kind(call.Kind)
	op.Tenant = call.Tenant
	op.Key = call.Key
	op.Token = uint64(call.Token)
	op.Epoch = call.Epoch
	op.Intent = storagepb.Intent(call.Intent)
	op.TimeoutMs = uint32(min(max(left.Milliseconds(), 1), maxCallTime.Milliseconds()))
	op.AcceptLarge = acceptLarge
	op.Version = nil
	op.Boot, op.Heard = 0, 0
	op.TraceHigh, op.TraceLow, op.TraceSpan = call.Trace.High, call.Trace.Low, call.Trace.Span
	switch call.Kind {
	case coord.CallApply:
		op.Version = m.versions[n].set(&call.Version.Head, call.Version.Value)
	case coord.CallDrop:
		op.Version = m.versions[n].set(&call.Version.Head, nil)
	}
	if op.Version != nil {
		op.Boot, op.Heard = call.Boot, uint64(call.Heard)
	}
	m.batch.Operations = m.operations[:n+1]
}

func (m *outgoing) clear() {
	for i := range m.batch.Operations {
		m.versions[i].clear()
	}
	m.batch.Operations = m.operations[:0]
}
