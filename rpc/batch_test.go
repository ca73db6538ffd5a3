package rpc

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func TestBatches(t *testing.T) {
	_, conn := start(t, Options{Engine: &script{
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			if r.Key == "fails" {
				return coord.WriteResult{}, &coord.WriteError{Outcome: coord.InDoubt, Err: coord.ErrNoQuorum}
			}
			if r.Tenant != "acme" || r.Level != coord.All || r.Delete != (r.Key == "gone") || !r.Delete && string(r.Value) != "value of "+r.Key ||
				time.Until(r.Deadline) > 10*time.Second {
				return coord.WriteResult{}, fmt.Errorf("asked for %+v", r)
			}
			return coord.WriteResult{Clock: clockOf("c1"), Replicas: 3, Level: r.Level, Duplicate: r.IdempotencyKey != ""}, nil
		},
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			if r.Key == "absent" {
				return coord.ReadResult{}, coord.ErrKeyNotFound
			}
			if r.Tenant != "acme" || r.Level != coord.One {
				return coord.ReadResult{}, fmt.Errorf("asked for %+v", r)
			}
			return coord.ReadResult{Value: []byte("value of " + r.Key), Clock: clockOf("c1"), UpdatedAt: time.UnixMilli(5)}, nil
		},
	}})
	client, ctx := pb.NewCoordinatorServiceClient(conn), testContext(t)
	req := &pb.BatchWriteRequest{TenantId: "acme", Consistency: "all", Items: []*pb.BatchWriteItem{
		{Key: "a", Value: []byte("value of a"), IdempotencyKey: "i"},
		{Key: "gone", Delete: true},
		{Key: "", Value: []byte("x")},
		{Key: "fails"},
		{Key: "i", IdempotencyKey: strings.Repeat("i", MaxIdempotencyKeyBytes+1)},
	}}
	for i := range 500 {
		key := fmt.Sprint("k", i)
		req.Items = append(req.Items, &pb.BatchWriteItem{Key: key, Value: []byte("value of " + key)})
	}
	w, err := client.BatchWrite(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Results) != len(req.Items) {
		t.Fatalf("%d results, want %d", len(w.Results), len(req.Items))
	}
	for i, r := range w.Results {
		item := req.Items[i]
		reason := map[int]string{2: "INVALID_REQUEST", 3: "QUORUM_NOT_REACHED", 4: "INVALID_REQUEST"}[i]
		if r.Status.GetReason() != reason || (r.Response == nil) != (reason != "") {
			t.Errorf("item %d: %v", i, r)
			continue
		}
		if a := r.Response; a != nil && (!a.Success || a.Key != item.Key || a.ReplicaCount != 3 || a.Consistency != "all" ||
			a.IsDuplicate != (i == 0) || len(a.VectorClock.Entries) != 1 ||
			item.IdempotencyKey != "" && a.IdempotencyKey != item.IdempotencyKey || item.IdempotencyKey == "" && len(a.IdempotencyKey) != 32) {
			t.Errorf("item %d: %v", i, a)
		}
	}

	ask := &pb.BatchReadRequest{TenantId: "acme", Consistency: "one", Keys: []string{"absent", "", "a"}}
	for i := range 500 {
		ask.Keys = append(ask.Keys, fmt.Sprint("k", i))
	}
	r, err := client.BatchRead(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	for i, result := range r.Results {
		reason := map[int]string{0: "KEY_NOT_FOUND", 1: "INVALID_REQUEST"}[i]
		if result.Status.GetReason() != reason || (result.Response == nil) != (reason != "") {
			t.Errorf("key %d: %v", i, result)
			continue
		}
		if a := result.Response; a != nil && (!a.Success || a.Key != ask.Keys[i] || string(a.Value) != "value of "+a.Key || a.UpdatedAt != 5) {
			t.Errorf("key %d: %v", i, a)
		}
	}
}

func TestInvalidBatches(t *testing.T) {
	client, ctx := startClient(t, &script{}), testContext(t)
	items := func(n, size int) (all []*pb.BatchWriteItem) {
		for i := range n {
			all = append(all, &pb.BatchWriteItem{Key: fmt.Sprint(i), Value: make([]byte, size)})
		}
		return all
	}
	for name, req := range map[string]*pb.BatchWriteRequest{
		"no tenant":      {Items: items(1, 0)},
		"level":          {TenantId: "t", Consistency: "most", Items: items(1, 0)},
		"empty":          {TenantId: "t"},
		"too many":       {TenantId: "t", Items: items(MaxBatchItems+1, 0)},
		"too many bytes": {TenantId: "t", Items: items(6, 1_800_000)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.BatchWrite(ctx, req)
			failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "not_applied")
			if len(req.Items) == 6 {
				return
			}
			read := &pb.BatchReadRequest{TenantId: req.TenantId, Consistency: req.Consistency}
			for _, item := range req.Items {
				read.Keys = append(read.Keys, item.Key)
			}
			_, err = client.BatchRead(ctx, read)
			failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
		})
	}
}

// The answer of a batch read is bounded, and so is what it holds on the way.
func TestBatchReadOfLargeValues(t *testing.T) {
	value := bytes.Repeat([]byte("v"), 3<<20)
	var underWay, most atomic.Int64
	_, conn := start(t, Options{Engine: &script{read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
		for n := underWay.Add(1); ; {
			if seen := most.Load(); n <= seen || most.CompareAndSwap(seen, n) {
				break
			}
		}
		defer underWay.Add(-1)
		return coord.ReadResult{Value: value}, nil
	}}})
	req := &pb.BatchReadRequest{TenantId: "t"}
	for i := range 200 {
		req.Keys = append(req.Keys, fmt.Sprint(i))
	}
	resp, err := pb.NewCoordinatorServiceClient(conn).BatchRead(testContext(t), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range resp.Results {
		if ok := i < 3; ok != (r.Status == nil) || ok && len(r.Response.Value) != len(value) ||
			!ok && (r.Status.Reason != "OVERLOADED" || r.Status.RetryDelayMs == 0) {
			t.Errorf("key %d: %d bytes, %v", i, len(r.GetResponse().GetValue()), r.Status)
		}
	}
	if n := most.Load(); n > 2*firstBatchReads {
		t.Errorf("%d reads were under way at once", n)
	}
}

func TestBatchOfAClientThatGoesAway(t *testing.T) {
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	server, conn := start(t, Options{Engine: &script{read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
		entered <- struct{}{}
		<-leave
		return coord.ReadResult{}, nil
	}}})
	defer close(leave)
	ctx, cancel := context.WithCancel(testContext(t))
	go func() {
		<-entered
		cancel()
	}()
	if _, err := pb.NewCoordinatorServiceClient(conn).BatchRead(ctx, &pb.BatchReadRequest{TenantId: "t", Keys: []string{"k"}}); err == nil {
		t.Error("the batch succeeded")
	}
	eventually(t, "nothing is in flight", func() bool { return server.InFlight() == 0 })
}
