package main

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// transport is a way to bring requests to a system, shared by all workers.
type transport interface {
	// lane makes the way of one worker, who sends one request after another.
	lane(worker int, tenant string) lane
	close()
}

// lane is one worker's way to a system. Each method sends a request and waits
// for its answer.
type lane interface {
	write(ctx context.Context, key, idempotencyKey string, value []byte) error
	read(ctx context.Context, key string) error
}

// unary sends each request as a call of its own.
type unary struct{ conns []*grpc.ClientConn }

func dialUnary(address string, connections int) (*unary, error) {
	u := new(unary)
	for range connections {
		conn, err := dial(address)
		if err != nil {
			u.close()
			return nil, err
		}
		u.conns = append(u.conns, conn)
	}
	return u, nil
}

func (u *unary) close() {
	for _, conn := range u.conns {
		_ = conn.Close() // it says only whether it was closed before
	}
}

func (u *unary) lane(worker int, tenant string) lane {
	return &unaryLane{
		conn:     u.conns[worker%len(u.conns)],
		writeReq: pb.WriteKeyValueRequest{TenantId: tenant},
		readReq:  pb.ReadKeyValueRequest{TenantId: tenant},
	}
}

// unaryLane reuses its messages, so that the load generator costs little. What
// a request names no level for is done at the coordinator's default: quorum.
type unaryLane struct {
	conn     *grpc.ClientConn
	writeReq pb.WriteKeyValueRequest
	written  pb.WriteKeyValueResponse
	readReq  pb.ReadKeyValueRequest
	held     pb.ReadKeyValueResponse
}

func (l *unaryLane) write(ctx context.Context, key, idempotencyKey string, value []byte) error {
	l.writeReq.Key, l.writeReq.IdempotencyKey, l.writeReq.Value = key, idempotencyKey, value
	l.written.Reset()
	return l.conn.Invoke(ctx, pb.CoordinatorService_WriteKeyValue_FullMethodName, &l.writeReq, &l.written)
}

func (l *unaryLane) read(ctx context.Context, key string) error {
	l.readReq.Key = key
	l.held.Reset()
	return l.conn.Invoke(ctx, pb.CoordinatorService_ReadKeyValue_FullMethodName, &l.readReq, &l.held)
}
