package rpc

import (
	"context"
	"strings"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// service holds the handlers: each checks, calls the engine, and fills the
// answer. Errors pass as they are; route turns them into statuses.
type service struct {
	engine       Engine
	defaultLevel coord.Level
	maxValue     int
	version      string
}

var _ coordinatorpb.CoordinatorServiceServer = (*service)(nil)

// detachAbove is the size in bytes above which a value no longer shares its
// memory with the strings of its request: they may outlive it in a cache.
const detachAbove = 512

func (s *service) WriteKeyValue(ctx context.Context, req *coordinatorpb.WriteKeyValueRequest) (*coordinatorpb.WriteKeyValueResponse, error) {
	level, err := s.checkMutation(req.TenantId, req.Key, req.Consistency, req.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	if err := checkValue(req.Value, s.maxValue); err != nil {
		return nil, err
	}
	if len(req.Value) > detachAbove {
		req.TenantId = strings.Clone(req.TenantId)
		req.Key = strings.Clone(req.Key)
		req.IdempotencyKey = strings.Clone(req.IdempotencyKey)
	}
	result, err := s.engine.Write(ctx, coord.WriteRequest{
		Tenant: req.TenantId, Key: req.Key, Value: req.Value, Level: level, IdempotencyKey: req.IdempotencyKey,
	})
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.WriteKeyValueResponse{
		Success:        true,
		Key:            req.Key,
		IdempotencyKey: orMade(req.IdempotencyKey),
		VectorClock:    clockMessage(result.Clock),
		ReplicaCount:   int32(result.Replicas),
		Consistency:    result.Level.String(),
		IsDuplicate:    result.Duplicate,
	}, nil
}

func (s *service) DeleteKeyValue(ctx context.Context, req *coordinatorpb.DeleteKeyValueRequest) (*coordinatorpb.DeleteKeyValueResponse, error) {
	level, err := s.checkMutation(req.TenantId, req.Key, req.Consistency, req.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	result, err := s.engine.Write(ctx, coord.WriteRequest{
		Tenant: req.TenantId, Key: req.Key, Delete: true, Level: level, IdempotencyKey: req.IdempotencyKey,
	})
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.DeleteKeyValueResponse{
		Success:        true,
		Key:            req.Key,
		IdempotencyKey: orMade(req.IdempotencyKey),
		VectorClock:    clockMessage(result.Clock),
		ReplicaCount:   int32(result.Replicas),
		Consistency:    result.Level.String(),
		IsDuplicate:    result.Duplicate,
	}, nil
}

func (s *service) ReadKeyValue(ctx context.Context, req *coordinatorpb.ReadKeyValueRequest) (*coordinatorpb.ReadKeyValueResponse, error) {
	level, err := s.checkAddress(req.TenantId, req.Key, req.Consistency)
	if err != nil {
		return nil, err
	}
	result, err := s.engine.Read(ctx, coord.ReadRequest{Tenant: req.TenantId, Key: req.Key, Level: level})
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.ReadKeyValueResponse{
		Success:     true,
		Key:         req.Key,
		Value:       result.Value,
		VectorClock: clockMessage(result.Clock),
		UpdatedAt:   result.UpdatedAt.UnixMilli(),
	}, nil
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

// orMade is the idempotency key of an answer. One that was made here is told
// to the client but not to the engine: nobody can have sent it before.
func orMade(sent string) string {
	if sent != "" {
		return sent
	}
	return randomID()
}

func clockMessage(clock coord.Clock) *coordinatorpb.VectorClock {
	entries := make([]coordinatorpb.VectorClockEntry, len(clock))
	pointers := make([]*coordinatorpb.VectorClockEntry, len(clock))
	for i := range clock {
		entries[i].CoordinatorNodeId = clock[i].ID
		entries[i].LogicalTimestamp = clock[i].Counter
		pointers[i] = &entries[i]
	}
	return &coordinatorpb.VectorClock{Entries: pointers}
}
