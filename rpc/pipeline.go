package rpc

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// errNoRoomForValue refuses the value of a read whose answer finds too much waiting.
var errNoRoomForValue = fmt.Errorf("%w: too many bytes of answers wait to be read from this stream", coord.ErrOverloaded)

// maxPipelineTraces bounds the operations of a stream that are under way and
// recorded because the client asked for it, since a recording may be large.
const maxPipelineTraces = 64

// pipeline is the serving side of one Pipeline stream. One goroutine reads
// operations and starts them on the engine, one writes answers; answers leave
// in the order in which operations end.
type pipeline struct {
	flow[*pipelined]
	service *service
	stream  grpc.ServerStream
	caller  *caller
	answers answers

	// meanValue is about how many bytes a read of this stream has found lately,
	// which is what one under way is booked with.
	meanValue atomic.Int64

	traces atomic.Int64 // that the client asked for, until their answers are sent

	naming sync.Once
	name   string // the request id
}

// Pipeline serves many requests on one stream.
func (s *service) Pipeline(stream grpc.BidiStreamingServer[coordinatorpb.PipelineRequest, coordinatorpb.PipelineResponse]) error {
	if s.server.draining.Load() {
		return statusOf(coord.ErrShuttingDown)
	}
	c, err := s.server.authenticate(stream.Context())
	if err != nil {
		return statusOf(err)
	}
	p := newPipeline(s, stream)
	p.caller = c
	s.server.pipelines.Add(1)
	defer func() {
		if s.server.pipelines.Add(-1) == 0 && s.server.draining.Load() {
			s.server.signalIdle()
		}
	}()
	return p.run()
}

func newPipeline(s *service, stream grpc.ServerStream) *pipeline {
	p := &pipeline{service: s, stream: stream}
	p.open(s.server.opts.MaxPipelineOperations, s.server.opts.MaxPipelineBytes)
	return p
}

// run serves the stream until the client or the server ends it. Unless the
// stream breaks, all that was taken is answered then, and nothing else was
// begun: clients are promised so.
func (p *pipeline) run() error {
	server := p.service.server
	age := time.NewTimer(server.opts.MaxPipelineAge)
	defer age.Stop()
	read := make(chan error, 1)
	go func() { read <- p.read() }()
	err := p.serve(p.stream.Context(), endings{
		read: read, stopping: server.stopping, stopped: statusOf(coord.ErrShuttingDown), enough: age.C,
	}, p.send)
	left := p.end()
	for _, f := range left {
		p.release(f.item)
	}
	server.answered(len(left))
	return err
}

// read starts operations until the stream ends. It outlives run by as long as
// gRPC takes to tell it that the stream is gone.
func (p *pipeline) read() error {
	message := coordinatorpb.PipelineRequestFromVTPool()
	defer message.ReturnToVTPool()
	in := codec.Inbound{Message: message}
	defer in.Free()
	tolerant := codec.Tolerant{Message: &in, Check: wireCheck(message)}
	shared := new(names)
	for {
		if err := p.stream.RecvMsg(&tolerant); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if fault := tolerant.Fault; fault != nil {
			return statusOf(fmt.Errorf("%w: %w", errMalformed, fault))
		}
		// A token that has ended ends the stream in good order: none of what
		// came is begun, and a client sends it again on a stream with a new one.
		if p.caller.stillGood() != nil {
			return nil
		}
		now := time.Now()
		mean, bytes := int(p.meanValue.Load()), 0
		for _, op := range message.Operations {
			bytes += booked(op, mean)
		}
		if !p.admit(len(message.Operations), bytes) {
			return nil
		}
		p.service.server.inFlight.Add(int64(len(message.Operations)))
		p.start(message, &in, shared, mean, now)
		message.ResetVT()
		in.Free()
	}
}

// booked is what an operation is expected to keep in memory.
func booked(op *coordinatorpb.PipelineOperation, mean int) int {
	if op.Kind != coordinatorpb.PipelineOperation_KIND_READ {
		return operationOverhead + len(op.Value)
	}
	if op.MaxValueBytes != 0 {
		mean = min(mean, int(op.MaxValueBytes))
	}
	return operationOverhead + mean
}

// start hands each operation to the engine.
func (p *pipeline) start(message *coordinatorpb.PipelineRequest, in *codec.Inbound, shared *names, mean int, now time.Time) {
	s := p.service
	draining := s.server.draining.Load()
	for _, op := range message.Operations {
		t := s.server.pipelined.Get().(*pipelined)
		t.pipeline, t.id, t.kind, t.maxValue, t.started = p, op.Id, op.Kind, int(op.MaxValueBytes), now
		t.cost = booked(op, mean)
		level, ttl, err := s.checkOperation(op)
		if err == nil {
			err = p.caller.mayReach(op.TenantId)
		}
		if err == nil && draining {
			err = coord.ErrShuttingDown
		}
		aliased, value, idempotencyKey := t.keep(op, shared, err == nil)
		if aliased {
			in.Detach()
		}
		op.Value = nil
		if err == nil && (op.Trace || s.server.opts.Tracing != nil) {
			t.follow(op, level)
		}
		timeout := s.writeTimeout
		if t.kind == coordinatorpb.PipelineOperation_KIND_READ {
			timeout = s.readTimeout
		}
		if asked := time.Duration(op.TimeoutMs) * time.Millisecond; asked > 0 {
			timeout = min(timeout, asked)
		}
		switch {
		case err != nil:
			t.finished(err)
		case t.kind == coordinatorpb.PipelineOperation_KIND_READ:
			s.engine.StartRead(coord.ReadRequest{Tenant: t.tenant, Key: t.key, Level: level, Deadline: now.Add(timeout), Trace: t.trace}, t)
		default:
			s.engine.StartWrite(coord.WriteRequest{
				Tenant: t.tenant, Key: t.key, Value: value, Delete: t.kind == coordinatorpb.PipelineOperation_KIND_DELETE,
				TTL: ttl, Level: level, IdempotencyKey: idempotencyKey, Deadline: now.Add(timeout), Trace: t.trace,
			}, t)
		}
	}
}

// checkOperation checks what the handler of the operation's own RPC does.
func (s *service) checkOperation(op *coordinatorpb.PipelineOperation) (level coord.Level, ttl time.Duration, err error) {
	switch op.Kind {
	case coordinatorpb.PipelineOperation_KIND_READ:
		level, err = s.checkAddress(op.TenantId, op.Key, op.Consistency)
		return level, 0, err
	case coordinatorpb.PipelineOperation_KIND_DELETE:
		level, err = s.checkMutation(op.TenantId, op.Key, op.Consistency, op.IdempotencyKey)
		return level, 0, err
	case coordinatorpb.PipelineOperation_KIND_WRITE:
		if level, err = s.checkMutation(op.TenantId, op.Key, op.Consistency, op.IdempotencyKey); err != nil {
			return 0, 0, err
		}
		if err = checkValue(op.Value, s.maxValue); err != nil {
			return 0, 0, err
		}
		ttl, err = checkTTL(op.TtlSeconds)
		return level, ttl, err
	}
	return 0, 0, fmt.Errorf("%w: kind is %d, want write, delete or read", coord.ErrInvalidRequest, op.Kind)
}

// send writes answers to operations, and releases them.
func (p *pipeline) send(items []*pipelined) error {
	p.answers.fill(items)
	err := p.stream.SendMsg(&p.answers.message)
	server := p.service.server
	for i, t := range items {
		p.answers.made[i].clear()
		p.release(t)
	}
	server.answered(len(items))
	return err
}

func (p *pipeline) requestID() string {
	p.naming.Do(func() { p.name = sentRequestID(p.stream.Context()) })
	return p.name
}

// pipelined is one operation of a stream, and the coord.Waiter that is told its
// answer.
type pipelined struct {
	pipeline *pipeline
	id       uint64
	kind     coordinatorpb.PipelineOperation_Kind
	tenant   string
	key      string
	maxValue int // of a read
	cost     int // bytes that the request is booked with
	held     int // bytes of the value found that the limiter knows of
	started  time.Time

	written coord.WriteResult
	found   coord.ReadResult
	omitted bool                           // the value found is not to be sent
	status  *coordinatorpb.OperationStatus // of one that failed

	trace *coord.Trace             // nil: nothing is recorded
	asked bool                     // the client wants to see trace
	end   func(codes.Code, string) // of its span, nil where it has none
}

// follow begins to record an operation where it is sampled or the client asks.
func (t *pipelined) follow(op *coordinatorpb.PipelineOperation, level coord.Level) {
	p := t.pipeline
	if op.Trace {
		if p.traces.Add(1) <= maxPipelineTraces {
			t.asked, t.trace = true, new(coord.Trace)
		} else {
			p.traces.Add(-1)
		}
	}
	tracing := p.service.server.opts.Tracing
	if tracing == nil {
		return
	}
	sampled, end := tracing.Operation(p.stream.Context(), op.Traceparent, t.method(), t.tenant, t.key, level)
	if sampled != nil {
		t.trace, t.end = sampled, end
	}
}

// release is called when an operation's answer was sent, or never will be.
func (p *pipeline) release(t *pipelined) {
	if t.asked {
		p.traces.Add(-1)
	}
	p.service.server.release(t)
}

func (s *Server) release(t *pipelined) {
	if t.held > 0 {
		s.limiter.Hold(-t.held)
	}
	*t = pipelined{}
	s.pipelined.Put(t)
}

// keep takes over from a message what outlives it. What it keeps then shares no
// memory with the message, but for a large value: aliased tells of one. Of what
// is not valid it keeps no more than the names that logs show.
func (t *pipelined) keep(op *coordinatorpb.PipelineOperation, shared *names, valid bool) (aliased bool, value []byte, idempotencyKey string) {
	if !valid {
		t.tenant, t.key = clip(op.TenantId, MaxTenantBytes), clip(op.Key, MaxKeyBytes)
		return false, nil, ""
	}
	t.tenant = shared.keep(op.TenantId)
	size := len(op.Key)
	if t.kind != coordinatorpb.PipelineOperation_KIND_READ {
		size += len(op.IdempotencyKey)
	}
	// Strings may outlive the operation in a cache, where a large value must
	// not stay with them.
	together := t.kind == coordinatorpb.PipelineOperation_KIND_WRITE && len(op.Value) <= detachAbove
	if together {
		size += len(op.Value)
	}
	kept := make([]byte, 0, size)
	kept = append(kept, op.Key...)
	if t.kind != coordinatorpb.PipelineOperation_KIND_READ {
		kept = append(kept, op.IdempotencyKey...)
	}
	if together {
		kept = append(kept, op.Value...)
	}
	// Nobody changes kept any more: the engine owns its values, and does not.
	text := unsafe.String(unsafe.SliceData(kept), len(kept))
	t.key = text[:len(op.Key)]
	if t.kind == coordinatorpb.PipelineOperation_KIND_READ {
		return false, nil, ""
	}
	at := len(op.Key) + len(op.IdempotencyKey)
	idempotencyKey = text[len(op.Key):at]
	switch {
	case t.kind == coordinatorpb.PipelineOperation_KIND_DELETE:
	case together:
		value = kept[at:len(kept):len(kept)]
	case len(op.Value) > aliasAbove:
		value, aliased = op.Value[:len(op.Value):len(op.Value)], true
	default:
		value = append(make([]byte, 0, len(op.Value)), op.Value...)
	}
	return aliased, value, idempotencyKey
}

// clip copies the beginning of s.
func clip(s string, most int) string { return strings.Clone(s[:min(len(s), most)]) }

// Written takes the answer to a write or delete.
func (t *pipelined) Written(r coord.WriteResult, err error) {
	t.written = r
	t.finished(err)
}

// Found takes the answer to a read.
func (t *pipelined) Found(r coord.ReadResult, err error) {
	if err == nil {
		// Two answers at once may lose one step of the mean, which matters little.
		mean := t.pipeline.meanValue.Load()
		t.pipeline.meanValue.Store(mean + (int64(len(r.Value))-mean)/8)
		if t.maxValue != 0 && len(r.Value) > t.maxValue {
			r.Value, t.omitted = nil, true
		}
		if limiter := t.pipeline.service.server.limiter; !limiter.HasRoom(len(r.Value)) {
			r, err = coord.ReadResult{}, errNoRoomForAnswer
		} else if t.held = len(r.Value); t.held > 0 {
			limiter.Hold(t.held)
		}
	}
	t.found = r
	t.finished(err)
}

// finished tells the observer, and hands the answer to the stream.
func (t *pipelined) finished(err error) {
	p := t.pipeline
	server := p.service.server
	if err != nil {
		t.fail(err)
	} else {
		if server.opts.Observe != nil {
			server.opts.Observe(t.call(nil, verdict{}))
		}
		if t.end != nil {
			t.end(codes.OK, "")
		}
	}
	if !p.done(t, t.cost, operationOverhead+len(t.found.Value), (*pipelined).refuse) {
		p.release(t)
		server.answered(1)
	}
}

// refuse answers that there is no room for the answer.
func (t *pipelined) refuse() {
	t.found = coord.ReadResult{}
	t.status = judge(errNoRoomForValue).answer(errNoRoomForValue, false, "").operation()
}

// fail notes an error as its own RPC would tell it.
func (t *pipelined) fail(err error) {
	v := judge(err)
	call := t.call(err, v)
	mutation := t.kind != coordinatorpb.PipelineOperation_KIND_READ
	requestID := ""
	if v.code == codes.Internal {
		requestID = call.RequestID()
	}
	if v.kind == coord.ErrKeyNotFound && !mutation {
		t.status = notFoundOperation
	} else {
		t.status = v.answer(err, mutation, requestID).operation()
	}
	if observe := t.pipeline.service.server.opts.Observe; observe != nil {
		observe(call)
	}
	if t.end != nil {
		t.end(v.code, v.reason)
	}
}

// method is the RPC that does the same alone.
func (t *pipelined) method() string {
	switch t.kind {
	case coordinatorpb.PipelineOperation_KIND_DELETE:
		return methodDelete
	case coordinatorpb.PipelineOperation_KIND_READ:
		return methodRead
	}
	return methodWrite
}

// call is the operation as an RPC of its own.
func (t *pipelined) call(err error, v verdict) Call {
	method := t.method()
	return Call{
		Method: method, Operation: operationOf(method), Tenant: t.tenant, Key: t.key,
		Code: v.code, Reason: v.reason, Took: time.Since(t.started), Err: err,
		stream: t.pipeline, nth: t.id,
	}
}

// answers is a message being made, reused from one to the next.
type answers struct {
	message coordinatorpb.PipelineResponse
	made    []*pipelineAnswer
	filled  []*coordinatorpb.PipelineAnswer
}

// pipelineAnswer is an answer with room for its clock.
type pipelineAnswer struct {
	coordinatorpb.PipelineAnswer
	clockAnswer
}

func (m *answers) fill(items []*pipelined) {
	for len(m.made) < len(items) {
		a := new(pipelineAnswer)
		m.made = append(m.made, a)
		m.filled = append(m.filled, &a.PipelineAnswer)
	}
	for i, t := range items {
		m.made[i].fill(t)
	}
	m.message.Answers = m.filled[:len(items)]
}

func (a *pipelineAnswer) fill(t *pipelined) {
	a.Id = t.id
	a.Status = t.status
	if t.asked {
		a.Trace = TraceMessage(t.trace)
		shorten(a.Trace)
	}
	a.Value, a.VectorClock, a.UpdatedAt, a.ValueOmitted = nil, nil, 0, false
	a.ReplicaCount, a.Consistency, a.IsDuplicate = 0, "", false
	switch {
	case t.status != nil:
	case t.kind == coordinatorpb.PipelineOperation_KIND_READ:
		a.Value = t.found.Value
		a.ValueOmitted = t.omitted
		a.VectorClock = a.set(t.found.Clock)
		a.UpdatedAt = t.found.UpdatedAt.UnixMilli()
	default:
		a.VectorClock = a.set(t.written.Clock)
		a.ReplicaCount = int32(t.written.Replicas)
		a.Consistency = t.written.Level.String()
		a.IsDuplicate = t.written.Duplicate
	}
}

// clear drops what would stay in memory.
func (a *pipelineAnswer) clear() { a.Value, a.Status, a.Trace = nil, nil, nil }

var _ coord.Waiter = (*pipelined)(nil)
