package rpc

import (
	"context"
	"strings"
	"time"
	"unsafe"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// service holds the handlers: each checks, calls the engine, and fills the
// answer. Errors pass as they are; route turns them into statuses.
type service struct {
	server       *Server
	engine       Engine
	defaultLevel coord.Level
	maxValue     int
	readTimeout  time.Duration
	writeTimeout time.Duration
	version      string
	imports      chan struct{} // holds a token for each import under way
	exports      chan struct{} // likewise
}

var _ coordinatorpb.CoordinatorServiceServer = (*service)(nil)

// detachAbove is the size in bytes above which a value no longer shares its
// memory with the strings of its request: they may outlive it in a cache.
const detachAbove = 512

// The RPCs of single keys; route serves them by the same means without their
// allocations (direct).

func (s *service) WriteKeyValue(ctx context.Context, req *coordinatorpb.WriteKeyValueRequest) (*coordinatorpb.WriteKeyValueResponse, error) {
	a := new(writeAnswer)
	return &a.WriteKeyValueResponse, s.write(ctx, req, a, time.Now())
}

func (s *service) DeleteKeyValue(ctx context.Context, req *coordinatorpb.DeleteKeyValueRequest) (*coordinatorpb.DeleteKeyValueResponse, error) {
	a := new(deleteAnswer)
	return &a.DeleteKeyValueResponse, s.delete(ctx, req, a, time.Now())
}

func (s *service) ReadKeyValue(ctx context.Context, req *coordinatorpb.ReadKeyValueRequest) (*coordinatorpb.ReadKeyValueResponse, error) {
	a := new(readAnswer)
	return &a.ReadKeyValueResponse, s.read(ctx, req, a, time.Now())
}

func (s *service) write(ctx context.Context, req *coordinatorpb.WriteKeyValueRequest, a *writeAnswer, began time.Time) error {
	level, err := s.checkMutation(req.TenantId, req.Key, req.Consistency, req.IdempotencyKey)
	if err != nil {
		return err
	}
	if err := checkValue(req.Value, s.maxValue); err != nil {
		return err
	}
	ttl, err := checkTTL(req.TtlSeconds)
	if err != nil {
		return err
	}
	if len(req.Value) > detachAbove {
		req.TenantId = strings.Clone(req.TenantId)
		req.Key = strings.Clone(req.Key)
		req.IdempotencyKey = strings.Clone(req.IdempotencyKey)
	}
	trace := s.wantedTrace(ctx, req.TenantId, req.Key, level)
	result, err := s.engine.Write(ctx, coord.WriteRequest{
		Tenant: req.TenantId, Key: req.Key, Value: req.Value, TTL: ttl, Level: level, IdempotencyKey: req.IdempotencyKey,
		Deadline: began.Add(s.writeTimeout), Trace: trace,
	})
	sendTrace(ctx, trace)
	if err == nil {
		a.fill(req.Key, req.IdempotencyKey, &result)
	}
	return err
}

func (s *service) delete(ctx context.Context, req *coordinatorpb.DeleteKeyValueRequest, a *deleteAnswer, began time.Time) error {
	level, err := s.checkMutation(req.TenantId, req.Key, req.Consistency, req.IdempotencyKey)
	if err != nil {
		return err
	}
	trace := s.wantedTrace(ctx, req.TenantId, req.Key, level)
	result, err := s.engine.Write(ctx, coord.WriteRequest{
		Tenant: req.TenantId, Key: req.Key, Delete: true, Level: level, IdempotencyKey: req.IdempotencyKey,
		Deadline: began.Add(s.writeTimeout), Trace: trace,
	})
	sendTrace(ctx, trace)
	if err == nil {
		a.fill(req.Key, req.IdempotencyKey, &result)
	}
	return err
}

func (s *service) read(ctx context.Context, req *coordinatorpb.ReadKeyValueRequest, a *readAnswer, began time.Time) error {
	level, err := s.checkAddress(req.TenantId, req.Key, req.Consistency)
	if err != nil {
		return err
	}
	trace := s.wantedTrace(ctx, req.TenantId, req.Key, level)
	result, err := s.engine.Read(ctx, coord.ReadRequest{
		Tenant: req.TenantId, Key: req.Key, Level: level, Deadline: began.Add(s.readTimeout), Trace: trace,
	})
	sendTrace(ctx, trace)
	if err == nil {
		a.fill(req.Key, &result)
	}
	return err
}

func (s *service) ListKeys(ctx context.Context, req *coordinatorpb.ListKeysRequest) (*coordinatorpb.ListKeysResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	if err := checkText("prefix", req.Prefix, 0, MaxKeyBytes); err != nil {
		return nil, err
	}
	limit, err := checkPageSize(req.PageSize)
	if err != nil {
		return nil, err
	}
	after, err := parseKeysToken(req.TenantId, req.PageToken)
	if err != nil {
		return nil, err
	}
	page, err := s.engine.Keys(ctx, coord.KeysRequest{Tenant: req.TenantId, Prefix: req.Prefix, After: after, Limit: limit})
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.ListKeysResponse{Keys: page.Keys, NextPageToken: keysToken(req.TenantId, page.Next)}, nil
}

func (s *service) checkAddress(tenant, key, consistency string) (coord.Level, error) {
	if err := checkTenant(tenant); err != nil {
		return 0, err
	}
	if err := checkKey(key); err != nil {
		return 0, err
	}
	return checkLevel(consistency, s.defaultLevel)
}

func (s *service) checkMutation(tenant, key, consistency, idempotencyKey string) (coord.Level, error) {
	level, err := s.checkAddress(tenant, key, consistency)
	if err != nil {
		return 0, err
	}
	return level, checkIdempotencyKey(idempotencyKey)
}

// writeAnswer is a response with all that it is made of, so that it is one
// allocation. It must not be copied.
type writeAnswer struct {
	coordinatorpb.WriteKeyValueResponse
	clockAnswer
	made [32]byte // an idempotency key
}

func (a *writeAnswer) fill(key, idempotencyKey string, result *coord.WriteResult) {
	a.Success = true
	a.Key = key
	a.IdempotencyKey = orMade(idempotencyKey, &a.made)
	a.VectorClock = a.set(result.Clock)
	a.ReplicaCount = int32(result.Replicas)
	a.Consistency = result.Level.String()
	a.IsDuplicate = result.Duplicate
}

// deleteAnswer is as writeAnswer.
type deleteAnswer struct {
	coordinatorpb.DeleteKeyValueResponse
	clockAnswer
	made [32]byte // an idempotency key
}

func (a *deleteAnswer) fill(key, idempotencyKey string, result *coord.WriteResult) {
	a.Success = true
	a.Key = key
	a.IdempotencyKey = orMade(idempotencyKey, &a.made)
	a.VectorClock = a.set(result.Clock)
	a.ReplicaCount = int32(result.Replicas)
	a.Consistency = result.Level.String()
	a.IsDuplicate = result.Duplicate
}

// readAnswer is as writeAnswer.
type readAnswer struct {
	coordinatorpb.ReadKeyValueResponse
	clockAnswer
}

func (a *readAnswer) fill(key string, result *coord.ReadResult) {
	a.Success = true
	a.Key = key
	a.Value = result.Value
	a.VectorClock = a.set(result.Clock)
	a.UpdatedAt = result.UpdatedAt.UnixMilli()
}

// orMade is the idempotency key of an answer. One that is made here is told
// to the client but not to the engine: nobody can have sent it before. It lives
// in made.
func orMade(sent string, made *[32]byte) string {
	if sent != "" {
		return sent
	}
	putRandomID(made)
	return unsafe.String(&made[0], len(made))
}

// clockAnswer is a clock as it is sent, with room for its entries: most clocks
// have few. It must not be copied once it is set.
type clockAnswer struct {
	clock    coordinatorpb.VectorClock
	entries  [clockRoom]coordinatorpb.VectorClockEntry
	pointers [clockRoom]*coordinatorpb.VectorClockEntry
}

const clockRoom = 2

// set fills in a clock; the message is valid until the next set.
func (m *clockAnswer) set(clock coord.Clock) *coordinatorpb.VectorClock {
	entries, pointers := m.entries[:], m.pointers[:]
	if len(clock) > clockRoom {
		entries = make([]coordinatorpb.VectorClockEntry, len(clock))
		pointers = make([]*coordinatorpb.VectorClockEntry, len(clock))
	}
	for i := range clock {
		entries[i].CoordinatorNodeId = clock[i].ID
		entries[i].LogicalTimestamp = clock[i].Counter
		pointers[i] = &entries[i]
	}
	m.clock.Entries = pointers[:len(clock)]
	return &m.clock
}
