package rpc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func TestErrorsOverTheWire(t *testing.T) {
	var fails error
	client := startClient(t, &script{
		write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
			return coord.WriteResult{}, fails
		},
		read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) { return coord.ReadResult{}, fails },
	})
	ctx := testContext(t)
	quorum := &coord.QuorumError{Phase: "write", Level: coord.Quorum, Need: 2, Have: 1,
		Replicas: []coord.ReplicaError{{Node: "storage-2", Err: coord.ErrReplicaUnavailable}}}
	for _, c := range []struct {
		err    error
		code   codes.Code
		reason string
		says   string
	}{
		{fmt.Errorf("%w: value", coord.ErrInvalidRequest), codes.InvalidArgument, "INVALID_REQUEST", "invalid"},
		{fmt.Errorf("%w: 5 with 3 nodes", coord.ErrInvalidReplicationFactor), codes.InvalidArgument, "INVALID_REPLICATION_FACTOR", "5 with 3"},
		{fmt.Errorf("%w: acme", coord.ErrTenantNotFound), codes.NotFound, "TENANT_NOT_FOUND", "tenant"},
		{fmt.Errorf("%w: acme", coord.ErrTenantExists), codes.AlreadyExists, "TENANT_EXISTS", "tenant"},
		{coord.ErrNodeNotFound, codes.NotFound, "NODE_NOT_FOUND", "node"},
		{coord.ErrNodeInUse, codes.FailedPrecondition, "NODE_IN_USE", "node"},
		{coord.ErrMigrationNotFound, codes.NotFound, "MIGRATION_NOT_FOUND", "migration"},
		{coord.ErrMigrationConflict, codes.FailedPrecondition, "MIGRATION_CONFLICT", "topology"},
		{fmt.Errorf("read acme/k: %w", coord.ErrKeyNotFound), codes.NotFound, "KEY_NOT_FOUND", "key not found"},
		{coord.ErrIdempotencyConflict, codes.AlreadyExists, "IDEMPOTENCY_KEY_CONFLICT", "idempotency"},
		{quorum, codes.Unavailable, "QUORUM_NOT_REACHED", "1 of 2 required replicas answered: storage-2: replica unavailable"},
		{coord.ErrOverloaded, codes.ResourceExhausted, "OVERLOADED", ""},
		{coord.ErrShuttingDown, codes.Unavailable, "SHUTTING_DOWN", ""},
		{coord.ErrDeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED", ""},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED", ""},
		{fmt.Errorf("%w: %w", coord.ErrIdempotencyUnavailable, context.DeadlineExceeded), codes.Unavailable, "IDEMPOTENCY_UNAVAILABLE", ""},
		{fmt.Errorf("%w: dial", coord.ErrMetadataUnavailable), codes.Unavailable, "METADATA_UNAVAILABLE", ""},
		{coord.ErrReplicaUnavailable, codes.Unavailable, "QUORUM_NOT_REACHED", "node"},
		{errUnexpected, codes.Internal, "INTERNAL", "internal error"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			fails = c.err
			_, err := client.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "acme", Key: "k"})
			f := failureOf(t, err)
			outcome := ""
			if c.code == codes.ResourceExhausted {
				outcome = "not_applied"
				if f.retryIn <= 0 {
					t.Error("no RetryInfo")
				}
			}
			f.want(t, c.code, c.reason, outcome)
			if !strings.Contains(f.message, c.says) {
				t.Errorf("message %q, want one with %q", f.message, c.says)
			}
			for _, o := range []coord.Outcome{coord.InDoubt, coord.NotApplied} {
				fails = &coord.WriteError{Outcome: o, Err: c.err}
				_, err := client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: "acme", Key: "k"})
				failureOf(t, err).want(t, c.code, c.reason, o.String())
				_, err = client.DeleteKeyValue(ctx, &coordinatorpb.DeleteKeyValueRequest{TenantId: "acme", Key: "k"})
				failureOf(t, err).want(t, c.code, c.reason, o.String())
			}
		})
	}
}

func TestKeyNotFoundSaysNothingElse(t *testing.T) {
	client := startClient(t, &script{read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
		return coord.ReadResult{}, fmt.Errorf("tenant acme: %w", coord.ErrKeyNotFound)
	}})
	_, err := client.ReadKeyValue(testContext(t), &coordinatorpb.ReadKeyValueRequest{TenantId: "acme", Key: "k"})
	if f := failureOf(t, err); f.message != "key not found" {
		t.Errorf("message %q, want %q", f.message, "key not found")
	}
}

func TestInternalErrorsStayInside(t *testing.T) {
	var mu sync.Mutex
	var seen []Call
	_, conn := start(t, Options{
		Engine: &script{read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			if r.Key == "panic" {
				panic("a secret")
			}
			return coord.ReadResult{}, errUnexpected
		}},
		Observe: func(c Call) {
			mu.Lock()
			defer mu.Unlock()
			c.RequestID()
			seen = append(seen, c)
		},
	})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(testContext(t), "x-request-id", "req-17")
	for _, key := range []string{"error", "panic"} {
		_, err := client.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "acme", Key: key})
		f := failureOf(t, err)
		f.want(t, codes.Internal, "INTERNAL", "")
		if !strings.Contains(f.message, "req-17") || f.metadata["request_id"] != "req-17" {
			t.Errorf("%s: message %q, metadata %v, want the request id in both", key, f.message, f.metadata)
		}
		if strings.Contains(f.message, "secret") || strings.Contains(f.message, "tongues") {
			t.Errorf("%s: message %q tells what only the log may", key, f.message)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 2 || seen[0].RequestID() != "req-17" || seen[0].Err == nil ||
		!strings.Contains(seen[1].Err.Error(), "a secret") || seen[1].Method != "ReadKeyValue" ||
		seen[1].Tenant != "acme" || seen[1].Key != "panic" || seen[1].Operation != "read" || seen[1].Code != codes.Internal {
		t.Errorf("observed %+v", seen)
	}
}

// Clients are not told where stores are.
func TestStoresThatAreOutKeepTheirAddress(t *testing.T) {
	for _, kind := range []error{coord.ErrMetadataUnavailable, coord.ErrIdempotencyUnavailable} {
		err := fmt.Errorf("read tenant: %w: dial user=coordinator host=db.internal", kind)
		got := judge(err).message(err, "")
		if !strings.Contains(got, kind.Error()) || strings.Contains(got, "internal") || strings.Contains(got, "user") {
			t.Errorf("told %q", got)
		}
	}
}

func TestVerdictsHoldTheirWord(t *testing.T) {
	for _, v := range verdicts {
		err := fmt.Errorf("%w", &bare{v.kind})
		if got := judge(err); got.reason != v.reason || !strings.Contains(got.message(err, ""), v.word) {
			t.Errorf("%v: got %s with message %q, want %s with the word %q", v.kind, got.reason, got.message(err, ""), v.reason, v.word)
		}
	}
}

// bare is of a kind without saying so.
type bare struct{ kind error }

func (b *bare) Error() string { return "it failed" }
func (b *bare) Unwrap() error { return b.kind }
