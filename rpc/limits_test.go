package rpc

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// An operation beyond its tenant's limits is refused in each way in which it can
// be sent, and never reaches the engine.
func TestRateLimit(t *testing.T) {
	asked := 0
	engine := &script{
		write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
			asked++
			return coord.WriteResult{Level: coord.Quorum}, nil
		},
		limits: func(tenant string) (coord.TenantLimits, bool) {
			return coord.TenantLimits{OperationsPerSecond: 1, BytesPerSecond: coord.NoLimit}, tenant == "small"
		},
	}
	_, conn := start(t, Options{Engine: engine, TenantLimits: coord.TenantLimits{BytesPerSecond: 10}})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	ctx := testContext(t)
	write := func(tenant string, bytes int) error {
		_, err := client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: tenant, Key: "k", Value: make([]byte, bytes)})
		return err
	}
	if err := write("small", 1000); err != nil {
		t.Fatal(err)
	}
	f := failureOf(t, write("small", 0))
	f.want(t, codes.ResourceExhausted, "RATE_LIMIT_EXCEEDED", "not_applied")
	if f.retryIn <= 500*time.Millisecond || f.retryIn > time.Second {
		t.Errorf("retry in %v, want about a second", f.retryIn)
	}
	_, err := client.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "small", Key: "k"})
	failureOf(t, err).want(t, codes.ResourceExhausted, "RATE_LIMIT_EXCEEDED", "not_applied")
	_, err = client.ListKeys(ctx, &coordinatorpb.ListKeysRequest{TenantId: "small"})
	failureOf(t, err).want(t, codes.ResourceExhausted, "RATE_LIMIT_EXCEEDED", "not_applied")

	batch, err := client.BatchWrite(ctx, &coordinatorpb.BatchWriteRequest{TenantId: "small", Items: []*coordinatorpb.BatchWriteItem{{Key: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := client.Pipeline(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&coordinatorpb.PipelineRequest{Operations: []*coordinatorpb.PipelineOperation{
		{Id: 1, Kind: coordinatorpb.PipelineOperation_KIND_WRITE, TenantId: "small", Key: "k"},
	}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]*coordinatorpb.OperationStatus{"batch": batch.Results[0].Status, "pipeline": answer.Answers[0].Status} {
		if s.GetReason() != "RATE_LIMIT_EXCEEDED" || s.GetOutcome() != "not_applied" || s.GetRetryDelayMs() < 1 {
			t.Errorf("%s: %v", what, s)
		}
	}
	if asked != 1 {
		t.Errorf("the engine was asked %d times, want once", asked)
	}

	// The configuration's limit is that of others: bytes, which are owed.
	if err := write("other", 1000); err != nil {
		t.Fatal(err)
	}
	failureOf(t, write("other", 1)).want(t, codes.ResourceExhausted, "RATE_LIMIT_EXCEEDED", "not_applied")
}

func TestOverload(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	engine := &script{write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
		entered <- struct{}{}
		<-leave
		return coord.WriteResult{Level: coord.Quorum}, nil
	}}
	server, conn := start(t, Options{Engine: engine, MaxInFlight: 8})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	ctx := testContext(t)
	done := make(chan error, 8)
	write := func() error {
		_, err := client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k"})
		return err
	}
	for range 7 { // the last place is for other tenants
		go func() { done <- write() }()
		<-entered
	}
	f := failureOf(t, write())
	f.want(t, codes.ResourceExhausted, "OVERLOADED", "not_applied")
	if f.retryIn <= 0 {
		t.Error("it does not say when to try again")
	}
	close(leave)
	for range 7 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all have left", func() bool { return server.Limiter().InFlight() == 0 })
}

func TestSetTenantLimits(t *testing.T) {
	tenant := coord.Tenant{ID: "shop", Limits: coord.TenantLimits{Concurrency: 5}}
	engine := &script{
		tenant: func(string) (coord.Tenant, error) { return tenant, nil },
		setLimits: func(id string, change coord.LimitsChange) (coord.Tenant, error) {
			if id != "shop" || change.BytesPerSecond != nil || change.Concurrency != nil {
				t.Errorf("asked to change %+v of %q", change, id)
			}
			tenant.Limits.OperationsPerSecond = *change.OperationsPerSecond
			return tenant, nil
		},
	}
	_, conn := start(t, Options{Engine: engine, TenantLimits: coord.TenantLimits{BytesPerSecond: 1000, Concurrency: 9}})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	ctx := testContext(t)
	number := func(n int64) *int64 { return &n }
	set, err := client.SetTenantLimits(ctx, &coordinatorpb.SetTenantLimitsRequest{TenantId: "shop", OperationsPerSecond: number(100)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.GetTenantLimits(ctx, &coordinatorpb.GetTenantLimitsRequest{TenantId: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	own := coordinatorpb.TenantLimits{OperationsPerSecond: 100, Concurrency: 5}
	inForce := coordinatorpb.TenantLimits{OperationsPerSecond: 100, BytesPerSecond: 1000, Concurrency: 5}
	for what, a := range map[string]interface {
		GetSuccess() bool
		GetTenantId() string
		GetSet() *coordinatorpb.TenantLimits
		GetInForce() *coordinatorpb.TenantLimits
	}{"set": set, "get": got} {
		if !a.GetSuccess() || a.GetTenantId() != "shop" || a.GetSet().String() != own.String() || a.GetInForce().String() != inForce.String() {
			t.Errorf("%s answered %v", what, a)
		}
	}
	for _, bad := range []*coordinatorpb.SetTenantLimitsRequest{
		{}, {TenantId: "shop", Concurrency: number(-2)}, {TenantId: "shop", BytesPerSecond: number(1<<50 + 1)},
	} {
		_, err := client.SetTenantLimits(ctx, bad)
		failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
	}
}
