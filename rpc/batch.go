package rpc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// A batch read has few reads under way before it knows what they find: values
// may be large.
const (
	firstBatchReads = 8
	mostBatchReads  = 64
)

var errBatchFull = fmt.Errorf("%w: the answer holds %d bytes of values at most, ask for the rest again",
	coord.ErrOverloaded, MaxBatchBytes)

// BatchWrite starts all writes at once and waits for all of them.
func (s *service) BatchWrite(ctx context.Context, req *coordinatorpb.BatchWriteRequest) (*coordinatorpb.BatchWriteResponse, error) {
	level, err := s.checkBatch(req.TenantId, req.Consistency, len(req.Items))
	if err != nil {
		return nil, err
	}
	size := 0
	for _, item := range req.Items {
		size += len(item.Value)
	}
	if size > MaxBatchBytes {
		return nil, fmt.Errorf("%w: values are %d bytes in all, want at most %d", coord.ErrInvalidRequest, size, MaxBatchBytes)
	}
	// What outlives the request must not keep its values in memory.
	tenant := strings.Clone(req.TenantId)
	b := newBatch(s, ctx, tenant, len(req.Items))
	due := b.started.Add(s.writeTimeout)
	for i, item := range req.Items {
		t := &b.items[i]
		t.batch, t.key, t.method = b, strings.Clone(item.Key), methodWrite
		if item.Delete {
			t.method = methodDelete
		}
		ttl, err := s.checkItem(item)
		if err != nil {
			t.finished(err)
			continue
		}
		s.engine.StartWrite(coord.WriteRequest{
			Tenant: tenant, Key: t.key, Value: item.Value, Delete: item.Delete, TTL: ttl,
			Level: level, IdempotencyKey: strings.Clone(item.IdempotencyKey), Deadline: due, Trace: t.follow(level),
		}, t)
	}
	if err := b.wait(ctx); err != nil {
		return nil, err
	}
	resp := &coordinatorpb.BatchWriteResponse{Results: make([]*coordinatorpb.BatchWriteResult, len(req.Items))}
	results := make([]coordinatorpb.BatchWriteResult, len(req.Items))
	for i, item := range req.Items {
		t := &b.items[i]
		resp.Results[i] = &results[i]
		if results[i].Status = t.close(); results[i].Status == nil {
			answer := new(writeAnswer)
			answer.fill(item.Key, item.IdempotencyKey, &t.written)
			results[i].Response = &answer.WriteKeyValueResponse
		}
	}
	return resp, nil
}

// BatchRead reads as many keys at once as their values seem to allow.
func (s *service) BatchRead(ctx context.Context, req *coordinatorpb.BatchReadRequest) (*coordinatorpb.BatchReadResponse, error) {
	level, err := s.checkBatch(req.TenantId, req.Consistency, len(req.Keys))
	if err != nil {
		return nil, err
	}
	b := newBatch(s, ctx, req.TenantId, len(req.Keys))
	due := b.started.Add(s.readTimeout)
	for i, key := range req.Keys {
		t := &b.items[i]
		t.batch, t.key, t.method = b, key, methodRead
		if err := checkKey(key); err != nil {
			t.finished(err)
			continue
		}
		full, err := b.waitForRoom(ctx)
		switch {
		case err != nil:
			return nil, err
		case full:
			t.finished(errBatchFull)
		default:
			s.engine.StartRead(coord.ReadRequest{Tenant: req.TenantId, Key: key, Level: level, Deadline: due, Trace: t.follow(level)}, t)
		}
	}
	if err := b.wait(ctx); err != nil {
		return nil, err
	}
	resp := &coordinatorpb.BatchReadResponse{Results: make([]*coordinatorpb.BatchReadResult, len(req.Keys))}
	results := make([]coordinatorpb.BatchReadResult, len(req.Keys))
	size := 0
	for i := range req.Keys {
		t := &b.items[i]
		if size += len(t.found.Value); size > MaxBatchBytes && t.err == nil {
			t.err, t.found = errBatchFull, coord.ReadResult{}
		}
		resp.Results[i] = &results[i]
		if results[i].Status = t.close(); results[i].Status == nil {
			answer := new(readAnswer)
			answer.fill(t.key, &t.found)
			results[i].Response = &answer.ReadKeyValueResponse
		}
	}
	return resp, nil
}

func (s *service) checkBatch(tenant, consistency string, items int) (coord.Level, error) {
	if err := checkTenant(tenant); err != nil {
		return 0, err
	}
	if items == 0 {
		return 0, fmt.Errorf("%w: the batch is empty, want 1 to %d items", coord.ErrInvalidRequest, MaxBatchItems)
	}
	return checkLevel(consistency, s.defaultLevel)
}

func (s *service) checkItem(item *coordinatorpb.BatchWriteItem) (time.Duration, error) {
	if err := checkKey(item.Key); err != nil {
		return 0, err
	}
	if err := checkIdempotencyKey(item.IdempotencyKey); err != nil {
		return 0, err
	}
	if item.Delete {
		return 0, nil
	}
	if err := checkValue(item.Value, s.maxValue); err != nil {
		return 0, err
	}
	return checkTTL(item.TtlSeconds)
}

// batch is the operations of one request.
type batch struct {
	service *service
	ctx     context.Context
	tenant  string
	started time.Time
	items   []batched
	left    atomic.Int64
	done    chan struct{} // closed after the last

	mu       sync.Mutex
	underWay int
	answered int
	bytes    int           // of values that were found
	room     chan struct{} // holds a token when a read has ended
}

func newBatch(s *service, ctx context.Context, tenant string, items int) *batch {
	b := &batch{
		service: s, ctx: ctx, tenant: tenant, started: time.Now(), items: make([]batched, items),
		done: make(chan struct{}), room: make(chan struct{}, 1),
	}
	b.left.Store(int64(items))
	return b
}

// wait waits for the last answer, which comes by the deadline, or for the
// client to go away.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitForRoom waits until one more read may start, and books it; full tells
// that enough was found already.
func (b *batch) waitForRoom(ctx context.Context) (full bool, err error) {
	for {
		b.mu.Lock()
		full := b.bytes >= MaxBatchBytes
		ok := b.underWay < min(firstBatchReads+b.answered, mostBatchReads)
		if ok && !full {
			b.underWay++
		}
		b.mu.Unlock()
		if ok || full {
			return full, nil
		}
		select {
		case <-b.room:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// batched is one operation of a batch, and the coord.Waiter that is told its
// answer.
type batched struct {
	batch   *batch
	method  string
	key     string
	written coord.WriteResult
	found   coord.ReadResult
	err     error
	took    time.Duration
	end     func(codes.Code, string) // of its span, nil where it has none
}

// follow begins to record the operation where the RPC is sampled.
func (t *batched) follow(level coord.Level) (trace *coord.Trace) {
	if tracing := t.batch.service.server.opts.Tracing; tracing != nil {
		trace, t.end = tracing.Operation(t.batch.ctx, "", t.method, t.batch.tenant, t.key, level)
	}
	return trace
}

var _ coord.Waiter = (*batched)(nil)

// Written takes the answer to a write or delete.
func (t *batched) Written(r coord.WriteResult, err error) {
	t.written = r
	t.finished(err)
}

// Found takes the answer to a read.
func (t *batched) Found(r coord.ReadResult, err error) {
	t.found = r
	b := t.batch
	b.mu.Lock()
	b.underWay--
	b.answered++
	b.bytes += len(r.Value)
	b.mu.Unlock()
	select {
	case b.room <- struct{}{}:
	default:
	}
	t.finished(err)
}

func (t *batched) finished(err error) {
	t.err, t.took = err, time.Since(t.batch.started)
	if t.end != nil {
		v := verdict{}
		if err != nil {
			v = judge(err)
		}
		t.end(v.code, v.reason)
	}
	if t.batch.left.Add(-1) == 0 {
		close(t.batch.done)
	}
}

// close tells the observer of the operation, as of an RPC of its own, and
// returns its status, nil where it succeeded.
func (t *batched) close() *coordinatorpb.OperationStatus {
	b := t.batch
	call := Call{
		Method: t.method, Operation: operationOf(t.method), Tenant: b.tenant, Key: t.key,
		Took: t.took, Err: t.err, ctx: b.ctx,
	}
	var status *coordinatorpb.OperationStatus
	if t.err != nil {
		v := judge(t.err)
		call.Code, call.Reason = v.code, v.reason
		requestID := ""
		if v.code == codes.Internal {
			requestID = call.RequestID()
		}
		status = v.answer(t.err, t.method != methodRead, requestID).operation()
	}
	if observe := b.service.server.opts.Observe; observe != nil {
		observe(call)
	}
	return status
}
