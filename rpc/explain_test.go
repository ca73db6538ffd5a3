package rpc

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func TestExplain(t *testing.T) {
	engine := &script{explain: func(tenant, key string, level coord.Level) (coord.Explanation, error) {
		if tenant != "shop" || key != "cart" || level != coord.All {
			t.Errorf("asked for %s, %s at %v", tenant, key, level)
		}
		return coord.Explanation{
			Epoch: 7, Token: 1 << 63, ReplicationFactor: 3, Level: coord.All, HedgeAfter: 2 * time.Millisecond,
			Replicas: []coord.ExplainedReplica{
				{Node: coord.StorageNode{ID: "storage-2", Host: "::1", Port: 7000}, Place: 2, Latency: time.Millisecond, P95: 3 * time.Millisecond, Outstanding: 4},
				{Node: coord.StorageNode{ID: "storage-1"}, Place: 1, Standing: coord.Down, Unavailable: errors.New("refused\xff"),
					Debt: coord.Debt{Hints: 5, OwedRanges: 6}},
			},
			Levels: []coord.ExplainedLevel{{Level: coord.One, Need: 1, Met: true}, {Level: coord.All, Need: 3}},
		}, nil
	}}
	client, ctx := startClient(t, engine), testContext(t)
	got, err := client.Explain(ctx, &coordinatorpb.ExplainRequest{TenantId: "shop", Key: "cart", Consistency: "all"})
	want := &coordinatorpb.ExplainResponse{
		TenantId: "shop", Key: "cart", Epoch: 7, Token: 1 << 63, ReplicationFactor: 3, Consistency: "all", HedgeAfterUs: 2000,
		Replicas: []*coordinatorpb.ExplainedReplica{
			{NodeId: "storage-2", Address: "[::1]:7000", Place: 2, Standing: "preferred", LatencyUs: 1000, P95Us: 3000, Outstanding: 4},
			{NodeId: "storage-1", Address: ":0", Place: 1, Standing: "down", UnavailableReason: "refused\uFFFD", Hints: 5, OwedRanges: 6},
		},
		Levels: []*coordinatorpb.ExplainedLevel{{Consistency: "one", Need: 1, Met: true}, {Consistency: "all", Need: 3}},
	}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
	_, err = client.Explain(ctx, &coordinatorpb.ExplainRequest{TenantId: "shop", Key: ""})
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
	_, err = client.Explain(ctx, &coordinatorpb.ExplainRequest{TenantId: "shop", Key: "cart", Consistency: "most"})
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
}
