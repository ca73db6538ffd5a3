package client

import (
	"context"
	"time"

	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// invoke carries a call out as an RPC of its own.
func (l *lane) invoke(ctx context.Context, c *call) *Error {
	ctx, cancel := context.WithDeadline(ctx, c.due)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	err := l.rpc(ctx, c)
	if err == nil {
		return nil
	}
	if l.ctx.Err() != nil {
		return closed(c.mutates(), true)
	}
	return callError(err, c.mutates())
}

func (l *lane) rpc(ctx context.Context, c *call) error {
	switch c.kind {
	case coordinatorpb.PipelineOperation_KIND_READ:
		r, err := l.stub.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{
			TenantId: c.tenant, Key: c.key, Consistency: string(c.level),
		}, callOptions...)
		if err != nil {
			return err
		}
		c.found = ReadResult{Value: r.Value, UpdatedAt: time.UnixMilli(r.UpdatedAt)}
		if c.found.Value == nil {
			c.found.Value = []byte{}
		}
		if c.full {
			c.found.Clock = make(names).clock(r.VectorClock)
		}
	case coordinatorpb.PipelineOperation_KIND_DELETE:
		r, err := l.stub.DeleteKeyValue(ctx, &coordinatorpb.DeleteKeyValueRequest{
			TenantId: c.tenant, Key: c.key, Consistency: string(c.level), IdempotencyKey: c.idempotencyKey,
		}, callOptions...)
		if err != nil {
			return err
		}
		c.wrote(r.VectorClock, r.ReplicaCount, r.Consistency, r.IsDuplicate)
	default:
		r, err := l.stub.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{
			TenantId: c.tenant, Key: c.key, Value: c.value, Consistency: string(c.level), IdempotencyKey: c.idempotencyKey,
		}, callOptions...)
		if err != nil {
			return err
		}
		c.wrote(r.VectorClock, r.ReplicaCount, r.Consistency, r.IsDuplicate)
	}
	return nil
}

func (c *call) wrote(clock *coordinatorpb.VectorClock, replicas int32, level string, duplicate bool) {
	if c.full {
		c.written = WriteResult{
			Clock: make(names).clock(clock), Replicas: int(replicas), Level: Level(clone(level)), Duplicate: duplicate,
		}
	}
}
