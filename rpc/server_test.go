package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func clockOf(ids ...string) coord.Clock {
	var c coord.Clock
	for i, id := range ids {
		c = c.With(id, int64(i+1), int64(i+1))
	}
	return c
}

func TestWriteDeleteRead(t *testing.T) {
	updated := time.Unix(1_700_000_000, 123_456_789)
	var asked []coord.WriteRequest
	client := startClient(t, &script{
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			r.Deadline = time.Time{}
			asked = append(asked, r)
			return coord.WriteResult{Clock: clockOf("c2", "c1"), Replicas: 2, Level: coord.Quorum, Duplicate: r.Delete}, nil
		},
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			r.Deadline = time.Time{}
			if r != (coord.ReadRequest{Tenant: "acme", Key: "k", Level: coord.All}) {
				return coord.ReadResult{}, fmt.Errorf("asked for %+v", r)
			}
			return coord.ReadResult{Value: []byte{0, 0xff}, Clock: clockOf("c1"), UpdatedAt: updated}, nil
		},
	})
	ctx := testContext(t)

	w, err := client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: "acme", Key: "k", Value: []byte("v"), IdempotencyKey: "once"})
	if err != nil {
		t.Fatal(err)
	}
	if !w.Success || w.Key != "k" || w.IdempotencyKey != "once" || w.ReplicaCount != 2 || w.Consistency != "quorum" ||
		w.IsDuplicate || w.ErrorMessage != "" {
		t.Errorf("write answered %v", w)
	}
	ids := []string{}
	for _, e := range w.VectorClock.Entries {
		ids = append(ids, fmt.Sprint(e.CoordinatorNodeId, "=", e.LogicalTimestamp))
	}
	if !slices.Equal(ids, []string{"c1=2", "c2=1"}) {
		t.Errorf("vector clock %v, want its entries sorted by id", ids)
	}

	d, err := client.DeleteKeyValue(ctx, &coordinatorpb.DeleteKeyValueRequest{TenantId: "acme", Key: "k", Consistency: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Success || len(d.IdempotencyKey) != 32 || !d.IsDuplicate {
		t.Errorf("delete answered %v, want a key made by the server", d)
	}
	want := []coord.WriteRequest{
		{Tenant: "acme", Key: "k", Value: []byte("v"), IdempotencyKey: "once"},
		{Tenant: "acme", Key: "k", Delete: true, Level: coord.One},
	}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("the engine was asked for\n%+v, want\n%+v", asked, want)
	}

	r, err := client.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "acme", Key: "k", Consistency: "all"})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Success || r.Key != "k" || !bytes.Equal(r.Value, []byte{0, 0xff}) || r.UpdatedAt != 1_700_000_000_123 {
		t.Errorf("read answered %v", r)
	}
}

func TestDefaultLevel(t *testing.T) {
	var level coord.Level
	_, conn := start(t, Options{DefaultLevel: coord.All, Engine: &script{
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			level = r.Level
			return coord.ReadResult{}, nil
		},
	}})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	for name, want := range map[string]coord.Level{"": coord.All, "one": coord.One} {
		if _, err := client.ReadKeyValue(testContext(t), &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k", Consistency: name}); err != nil {
			t.Fatal(err)
		}
		if level != want {
			t.Errorf("consistency %q: the engine was asked at %v, want %v", name, level, want)
		}
	}
}

func TestInvalidRequests(t *testing.T) {
	client := startClient(t, &script{})
	ctx := testContext(t)
	kv := func(tenant, key, level, idempotency string, value int) error {
		_, err := client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{
			TenantId: tenant, Key: key, Value: make([]byte, value), Consistency: level, IdempotencyKey: idempotency})
		return err
	}
	for name, err := range map[string]error{
		"no tenant":   kv("", "k", "", "", 0),
		"colon":       kv("a:b", "k", "", "", 0),
		"no key":      kv("t", "", "", "", 0),
		"long key":    kv("t", strings.Repeat("k", 1025), "", "", 0),
		"level":       kv("t", "k", "most", "", 0),
		"idempotency": kv("t", "k", "", strings.Repeat("k", 257), 0),
		"value":       kv("t", "k", "", "", 10<<20+1),
	} {
		t.Run(name, func(t *testing.T) { failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "not_applied") })
	}
	t.Run("message", func(t *testing.T) {
		if f := failureOf(t, kv("t", "k", "", "", 12<<20)); f.code != codes.ResourceExhausted || f.reason != "" {
			t.Errorf("above the message limit: got %+v, want gRPC's own RESOURCE_EXHAUSTED", f)
		}
	})
	t.Run("nodes", func(t *testing.T) {
		for _, req := range []*coordinatorpb.AddStorageNodeRequest{
			{Host: "h", Port: 1},
			{NodeId: "n", Port: 1},
			{NodeId: "n", Host: "h"},
			{NodeId: "n", Host: "h", Port: 1, VirtualNodes: -1},
		} {
			_, err := client.AddStorageNode(ctx, req)
			failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
		}
	})
	t.Run("replication factor", func(t *testing.T) {
		_, err := client.CreateTenant(ctx, &coordinatorpb.CreateTenantRequest{TenantId: "t", ReplicationFactor: 11})
		failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REPLICATION_FACTOR", "")
		_, err = client.UpdateReplicationFactor(ctx, &coordinatorpb.UpdateReplicationFactorRequest{TenantId: "t"})
		failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REPLICATION_FACTOR", "")
	})
}

// rawCodec sends bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func TestWhatTheCodecLetsThrough(t *testing.T) {
	_, conn := start(t, Options{Engine: &script{}})
	for name, message := range map[string][]byte{
		"invalid UTF-8":     {0x0a, 1, 0xff, 0x12, 1, 'k'},
		"a broken message":  {0x0a, 200, 'x'},
		"a wrong wire type": {0x08, 1},
	} {
		err := conn.Invoke(testContext(t), "/pairdb.coordinator.v1.CoordinatorService/WriteKeyValue", message, nil, grpc.ForceCodecV2(rawCodec{}))
		t.Run(name, func(t *testing.T) { failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "not_applied") })
	}
}

func TestValueOf10MiBOverTCP(t *testing.T) {
	var got []byte
	server, err := NewServer(Options{Engine: &script{
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			got = r.Value
			return coord.WriteResult{Level: coord.Quorum}, nil
		},
		read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
			return coord.ReadResult{Value: got}, nil
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t)
	go server.Serve(lis)
	defer server.Stop(testContext(t))
	client := coordinatorpb.NewCoordinatorServiceClient(dial(t, lis.Addr().String()))
	value := bytes.Repeat([]byte("0123456789abcdef"), 10<<16)
	if _, err := client.WriteKeyValue(testContext(t), &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k", Value: value}); err != nil {
		t.Fatal(err)
	}
	r, err := client.ReadKeyValue(testContext(t), &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, value) || !bytes.Equal(r.Value, value) {
		t.Error("the value came or went changed")
	}
	_, err = client.WriteKeyValue(testContext(t), &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k", Value: append(value, 0)})
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "not_applied")
}

func TestListKeys(t *testing.T) {
	var asked []coord.KeysRequest
	client := startClient(t, &script{keys: func(r coord.KeysRequest) (coord.KeysPage, error) {
		asked = append(asked, r)
		if r.After == nil {
			return coord.KeysPage{Keys: []string{"a", "b"}, Next: &coord.Position{Token: 9, Tenant: "t", Key: "b"}}, nil
		}
		return coord.KeysPage{Keys: []string{"c"}}, nil
	}})
	first, err := client.ListKeys(testContext(t), &coordinatorpb.ListKeysRequest{TenantId: "t", Prefix: "p", PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.ListKeys(testContext(t), &coordinatorpb.ListKeysRequest{TenantId: "t", Prefix: "p", PageToken: first.NextPageToken})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(first.Keys, []string{"a", "b"}) || !slices.Equal(second.Keys, []string{"c"}) || second.NextPageToken != "" {
		t.Errorf("pages %v and %v", first, second)
	}
	if asked[0].Limit != 2 || asked[0].Prefix != "p" || asked[1].Limit != DefaultPageSize ||
		*asked[1].After != (coord.Position{Token: 9, Tenant: "t", Key: "b"}) {
		t.Errorf("the engine was asked for %+v", asked)
	}
}

func TestTenants(t *testing.T) {
	created, updated := time.Unix(1_700_000_000, 0), time.Unix(1_700_000_100, 0)
	acme := coord.Tenant{ID: "acme", ReplicationFactor: 3, CreatedAt: created, UpdatedAt: updated}
	all := []coord.Tenant{acme, {ID: "beta", ReplicationFactor: 1}, {ID: "gamma", ReplicationFactor: 1}}
	client := startClient(t, &script{
		create: func(id string, rf int) (coord.Tenant, error) {
			if id != "acme" || rf != 3 {
				return coord.Tenant{}, fmt.Errorf("asked for %s %d", id, rf)
			}
			return acme, nil
		},
		tenant: func(string) (coord.Tenant, error) { return acme, nil },
		setRF: func(string, int) (coord.Tenant, coord.Migration, error) {
			return acme, coord.Migration{ID: "m7"}, nil
		},
		drop: func(string) error { return nil },
		tenants: func(after string, limit int) ([]coord.Tenant, error) {
			rest := all
			for len(rest) > 0 && rest[0].ID <= after {
				rest = rest[1:]
			}
			return rest[:min(limit, len(rest))], nil
		},
	})
	ctx := testContext(t)
	c, err := client.CreateTenant(ctx, &coordinatorpb.CreateTenantRequest{TenantId: "acme"})
	if err != nil || !c.Success || c.TenantId != "acme" || c.ReplicationFactor != 3 || c.CreatedAt != created.Unix() {
		t.Errorf("create: %v, %v", c, err)
	}
	g, err := client.GetTenant(ctx, &coordinatorpb.GetTenantRequest{TenantId: "acme"})
	if err != nil || !g.Success || g.ReplicationFactor != 3 || g.CreatedAt != created.Unix() || g.UpdatedAt != updated.Unix() {
		t.Errorf("get: %v, %v", g, err)
	}
	u, err := client.UpdateReplicationFactor(ctx, &coordinatorpb.UpdateReplicationFactorRequest{TenantId: "acme", NewReplicationFactor: 5})
	if err != nil || !u.Success || u.OldReplicationFactor != 3 || u.NewReplicationFactor != 5 || u.UpdatedAt != updated.Unix() || u.MigrationId != "m7" {
		t.Errorf("update: %v, %v", u, err)
	}
	if d, err := client.DeleteTenant(ctx, &coordinatorpb.DeleteTenantRequest{TenantId: "acme"}); err != nil || !d.Success {
		t.Errorf("delete: %v, %v", d, err)
	}
	var ids []string
	for token, pages := "", 0; ; pages++ {
		l, err := client.ListTenants(ctx, &coordinatorpb.ListTenantsRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range l.Tenants {
			ids = append(ids, m.TenantId)
		}
		if token = l.NextPageToken; token == "" {
			if pages != 1 {
				t.Errorf("%d pages came before the last, want 1", pages)
			}
			break
		}
	}
	if !slices.Equal(ids, []string{"acme", "beta", "gamma"}) {
		t.Errorf("listed %v", ids)
	}
	_, err = client.ListTenants(ctx, &coordinatorpb.ListTenantsRequest{PageToken: "?"})
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
}

func TestNodesAndStatus(t *testing.T) {
	var added coord.StorageNode
	state := coord.NodeState{
		StorageNode: coord.StorageNode{ID: "s1", Host: "::1", Port: 7, VirtualNodes: 150, Status: coord.NodeActive},
		Keys:        5, DiskUsedFraction: 0.25, Unavailable: errors.New("down"), Latency: 1500 * time.Microsecond,
	}
	_, conn := start(t, Options{Version: "v1.2.3", Engine: &script{
		addNode: func(n coord.StorageNode) (coord.Migration, error) {
			added = n
			return coord.Migration{ID: "m8", Kind: coord.MigrationAdd}, nil
		},
		removeNode: func(id string, how coord.Removal) (coord.Migration, error) {
			return coord.Migration{}, fmt.Errorf("%w: %s %t", coord.ErrNodeInUse, id, how.Force)
		},
		nodes: func() ([]coord.NodeState, error) { return []coord.NodeState{state}, nil },
		status: coord.Status{NodeID: "c1", Incarnation: 4, Epoch: 2, StartedAt: time.Unix(1_700_000_000, 0), InFlight: 3,
			Nodes: []coord.NodeState{state}},
	}})
	client, ctx := coordinatorpb.NewCoordinatorServiceClient(conn), testContext(t)
	a, err := client.AddStorageNode(ctx, &coordinatorpb.AddStorageNodeRequest{NodeId: "s1", Host: "::1", Port: 7})
	if err != nil || !a.Success || a.NodeId != "s1" || a.MigrationId != "m8" {
		t.Errorf("add: %v, %v", a, err)
	}
	if added.ID != "s1" || added.VirtualNodes != ring.DefaultVirtualNodes || added.Address() != "[::1]:7" {
		t.Errorf("the engine was asked to add %+v", added)
	}
	_, err = client.RemoveStorageNode(ctx, &coordinatorpb.RemoveStorageNodeRequest{NodeId: "s1", Force: true})
	failureOf(t, err).want(t, codes.FailedPrecondition, "NODE_IN_USE", "")

	l, err := client.ListStorageNodes(ctx, &coordinatorpb.ListStorageNodesRequest{})
	if err != nil || len(l.Nodes) != 1 {
		t.Fatalf("list: %v, %v", l, err)
	}
	if n := l.Nodes[0]; n.NodeId != "s1" || n.Status != "active" || n.KeysCount != 5 || n.DiskUsagePercent != 25 || n.VirtualNodes != 150 {
		t.Errorf("listed %v", n)
	}
	s, err := client.GetStatus(ctx, &coordinatorpb.GetStatusRequest{})
	if err != nil || s.NodeId != "c1" || s.Version != "v1.2.3" || s.Incarnation != 4 || s.Epoch != 2 || s.InFlight != 3 || s.StartedAt != 1_700_000_000 {
		t.Fatalf("status: %v, %v", s, err)
	}
	if n := s.Nodes[0]; n.Reachable || n.UnavailableReason != "down" || n.LatencyUs != 1500 || n.Node.Host != "::1" {
		t.Errorf("status of the node: %v", n)
	}
}

func TestMigrations(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(1_700_000_000+s, 0) }
	engine := &script{
		migrations: []coord.MigrationState{
			{Migration: coord.Migration{ID: "m1", Kind: coord.MigrationRemove, Node: "s2", Status: coord.MigrationCompleted, CreatedAt: at(0), StartedAt: at(1), EndedAt: at(3)},
				MigrationProgress: coord.MigrationProgress{Keys: 10, Total: 10, Bytes: 99, Part: 1}, Ends: at(3)},
			{Migration: coord.Migration{ID: "m2", Kind: coord.MigrationResize, Tenant: "acme", Status: coord.MigrationInProgress, CreatedAt: at(0), StartedAt: at(4)},
				MigrationProgress: coord.MigrationProgress{Keys: 5, Total: 20, Part: 0.25, Waiting: "nobody answers"}},
		},
		cancel: func(id string) error { return fmt.Errorf("%w: %s has ended", coord.ErrMigrationConflict, id) },
	}
	client, ctx := startClient(t, engine), testContext(t)
	_, err := client.GetMigrationStatus(ctx, &coordinatorpb.GetMigrationStatusRequest{MigrationId: "m3"})
	failureOf(t, err).want(t, codes.NotFound, "MIGRATION_NOT_FOUND", "")
	_, err = client.CancelMigration(ctx, &coordinatorpb.CancelMigrationRequest{MigrationId: "m1"})
	failureOf(t, err).want(t, codes.FailedPrecondition, "MIGRATION_CONFLICT", "")
	_, err = client.CancelMigration(ctx, &coordinatorpb.CancelMigrationRequest{})
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
	m, err := client.GetMigrationStatus(ctx, &coordinatorpb.GetMigrationStatusRequest{MigrationId: "m2"})
	if err != nil || m.Type != "replication_change" || m.Status != "in_progress" || m.TenantId != "acme" || m.ErrorMessage != "nobody answers" ||
		m.Progress.KeysMigrated != 5 || m.Progress.TotalKeys != 20 || m.Progress.Percentage != 25 || m.StartedAt != at(4).Unix() || m.EstimatedCompletion != 0 {
		t.Errorf("m2: %v, %v", m, err)
	}
	l, err := client.ListMigrations(ctx, &coordinatorpb.ListMigrationsRequest{})
	if err != nil || len(l.Migrations) != 2 {
		t.Fatalf("list: %v, %v", l, err)
	}
	if m := l.Migrations[0]; m.Type != "node_deletion" || m.NodeId != "s2" || m.EndedAt != at(3).Unix() || m.EstimatedCompletion != at(3).Unix() || m.BytesRead != 99 {
		t.Errorf("m1: %v", m)
	}
}

func TestPlanAndRepair(t *testing.T) {
	var asked coord.PlanRequest
	var repaired coord.RepairRequest
	engine := &script{
		plan: func(r coord.PlanRequest) (coord.Plan, error) {
			asked = r
			return coord.Plan{Ranges: 3, Keys: 30, Bytes: 300,
				Moves: []coord.PlanMove{{From: "s1", To: "s4", Ranges: 3, Keys: 30, Bytes: 300}},
				Nodes: []coord.PlanNode{{ID: "s4", KeysAfter: 30, ShareAfter: 0.25}}}, nil
		},
		repair: func(_ context.Context, r coord.RepairRequest, tell func(coord.RepairProgress)) error {
			repaired = r
			tell(coord.RepairProgress{Spans: 2, Compared: 1})
			tell(coord.RepairProgress{Spans: 2, Compared: 2, Differed: 1, Keys: 7, Bytes: 70})
			return nil
		},
	}
	client, ctx := startClient(t, engine), testContext(t)
	p, err := client.PlanNodeChange(ctx, &coordinatorpb.PlanNodeChangeRequest{Add: &coordinatorpb.AddStorageNodeRequest{NodeId: "s4", Host: "h", Port: 1}})
	if err != nil || p.Ranges != 3 || p.Keys != 30 || p.Bytes != 300 || len(p.Moves) != 1 || p.Nodes[0].ShareAfter != 0.25 || asked.Add == nil || asked.Add.ID != "s4" {
		t.Errorf("plan: %v, %v, asked %+v", p, err, asked)
	}
	for _, bad := range []*coordinatorpb.PlanNodeChangeRequest{
		{},
		{Add: &coordinatorpb.AddStorageNodeRequest{NodeId: "s4"}},
		{Remove: &coordinatorpb.RemoveStorageNodeRequest{NodeId: "s4", AcceptDataLoss: true}},
		{Add: &coordinatorpb.AddStorageNodeRequest{NodeId: "s4", Host: "h", Port: 1}, Remove: &coordinatorpb.RemoveStorageNodeRequest{NodeId: "s4"}},
	} {
		_, err := client.PlanNodeChange(ctx, bad)
		failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
	}
	stream, err := client.RepairReplicas(ctx, &coordinatorpb.RepairReplicasRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var last *coordinatorpb.RepairReplicasResponse
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = m
	}
	if !last.GetDone() || last.Compared != 2 || last.KeysRepaired != 7 || repaired.Span != ring.Everything() {
		t.Errorf("repair: %v, asked %+v", last, repaired)
	}
	stream, err = client.RepairReplicas(ctx, &coordinatorpb.RepairReplicasRequest{FirstToken: 2, LastToken: 1})
	if err == nil {
		_, err = stream.Recv()
	}
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
}

func TestScanKeys(t *testing.T) {
	pages := []coord.KeysPage{
		{Keys: []string{"a", "b"}, Next: &coord.Position{Token: 5, Tenant: "acme", Key: "b"}},
		{Next: &coord.Position{Token: 9, Tenant: "other", Key: "x"}}, // nothing of the tenant's
		{Keys: []string{"c"}},
	}
	engine := &script{keys: func(r coord.KeysRequest) (coord.KeysPage, error) {
		switch {
		case r.After == nil:
			return pages[0], nil
		case r.After.Token == 5:
			return pages[1], nil
		}
		return pages[2], nil
	}}
	client, ctx := startClient(t, engine), testContext(t)
	scan := func(token string) (keys []string, tokens []string) {
		stream, err := client.ScanKeys(ctx, &coordinatorpb.ScanKeysRequest{TenantId: "acme", ResumeToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return keys, tokens
			}
			if err != nil {
				t.Fatal(err)
			}
			keys, tokens = append(keys, m.Keys...), append(tokens, m.ResumeToken)
		}
	}
	keys, tokens := scan("")
	if !slices.Equal(keys, []string{"a", "b", "c"}) || len(tokens) != 2 || tokens[1] != "" {
		t.Fatalf("scanned %v, tokens %q", keys, tokens)
	}
	if keys, _ := scan(tokens[0]); !slices.Equal(keys, []string{"c"}) {
		t.Errorf("resumed: %v", keys)
	}
	stream, err := client.ScanKeys(ctx, &coordinatorpb.ScanKeysRequest{TenantId: "acme", ResumeToken: "?"})
	if err == nil {
		_, err = stream.Recv()
	}
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
}

func TestBothServiceNames(t *testing.T) {
	_, conn := start(t, Options{Engine: &script{
		read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
			return coord.ReadResult{Value: []byte("v")}, nil
		},
	}})
	for _, service := range []string{"pairdb.coordinator.v1.CoordinatorService", "proto.CoordinatorService"} {
		var resp coordinatorpb.ReadKeyValueResponse
		req := &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k"}
		if err := conn.Invoke(testContext(t), "/"+service+"/ReadKeyValue", req, &resp); err != nil || string(resp.Value) != "v" {
			t.Errorf("%s: %v, %v", service, &resp, err)
		}
		health, err := grpc_health_v1.NewHealthClient(conn).Check(testContext(t), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || health.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %s: %v, %v", service, health, err)
		}
	}
}

func TestReflection(t *testing.T) {
	_, conn := start(t, Options{Engine: &script{}})
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(req *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	var names []string
	for _, s := range ask(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	for _, want := range []string{"pairdb.coordinator.v1.CoordinatorService", "proto.CoordinatorService", "grpc.health.v1.Health"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, without %s", names, want)
		}
		resp := ask(&grpc_reflection_v1.ServerReflectionRequest{
			MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: want},
		})
		if len(resp.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("reflection does not describe %s: %v", want, resp)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestTimeoutsBoundTheWholeRequest(t *testing.T) {
	const readTime, writeTime = 30 * time.Millisecond, time.Minute
	_, conn := start(t, Options{ReadTimeout: readTime, WriteTimeout: writeTime, Engine: &script{
		read: func(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
			if left := time.Until(r.Deadline); left > readTime {
				return coord.ReadResult{}, fmt.Errorf("deadline in %v", left)
			}
			return coord.ReadResult{}, coord.ErrDeadlineExceeded
		},
		write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			if left := time.Until(r.Deadline); left > writeTime || left < writeTime-10*time.Second {
				return coord.WriteResult{}, fmt.Errorf("deadline in %v", left)
			}
			return coord.WriteResult{Level: coord.One}, nil
		},
	}})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	_, err := client.ReadKeyValue(testContext(t), &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k"})
	failureOf(t, err).want(t, codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "")
	if _, err := client.WriteKeyValue(context.Background(), &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k"}); err != nil {
		t.Error(err)
	}
}

func TestStopDrains(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	server, conn := start(t, Options{Engine: &script{
		read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
			close(entered)
			<-leave
			return coord.ReadResult{Value: []byte("v")}, nil
		},
	}})
	client, ctx := coordinatorpb.NewCoordinatorServiceClient(conn), testContext(t)
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := watch.Recv(); err != nil || s.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("health before the stop: %v, %v", s, err)
	}
	type answer struct {
		resp *coordinatorpb.ReadKeyValueResponse
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		r, err := client.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k"})
		answers <- answer{r, err}
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- server.Stop(ctx) }()
	if s, err := watch.Recv(); err != nil || s.Status != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health during the stop: %v, %v", s, err)
	}
	eventually(t, "new requests are turned away", func() bool { return server.draining.Load() })
	_, err = client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k"})
	failureOf(t, err).want(t, codes.Unavailable, "SHUTTING_DOWN", "not_applied")
	close(leave)
	if a := <-answers; a.err != nil || string(a.resp.Value) != "v" {
		t.Errorf("the request that was under way: %v, %v", a.resp, a.err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStopIsBounded(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	server, conn := start(t, Options{Engine: &script{
		read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
			close(entered)
			<-leave
			return coord.ReadResult{}, nil
		},
	}})
	defer close(leave)
	go coordinatorpb.NewCoordinatorServiceClient(conn).ReadKeyValue(testContext(t), &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k"})
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := server.Stop(ctx); err == nil || !strings.Contains(err.Error(), "1 requests were cut off") {
		t.Errorf("got %v, want an error that says what was cut off", err)
	}
}

func TestConnectionsBeyondTheLimitAreClosed(t *testing.T) {
	server, err := NewServer(Options{Engine: &script{}, MaxConnections: 2})
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t)
	go server.Serve(lis)
	defer server.Stop(testContext(t))
	open := func() net.Conn {
		c, err := net.Dial("tcp", lis.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, second := open(), open()
	defer second.Close()
	eventually(t, "two connections are open", func() bool { return server.Connections() == 2 })
	third := open()
	third.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.ReadAll(third); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") || len(n) > 0 {
		t.Errorf("the third connection read %q, %v; want it closed", n, err)
	}
	third.Close()
	if server.RefusedConnections() != 1 {
		t.Errorf("%d connections were refused, want 1", server.RefusedConnections())
	}
	first.Close()
	eventually(t, "the closed connection is not counted", func() bool { return server.Connections() == 1 })
}

// TestKeepalivePings sends pings as a client does, without any stream, at the
// pace that the server must accept and faster.
func TestKeepalivePings(t *testing.T) {
	server, err := NewServer(Options{Engine: &script{}})
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t)
	go server.Serve(lis)
	defer server.Stop(testContext(t))
	conn, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.WriteSettings()
	ping := func() (answered bool) {
		framer.WritePing(false, [8]byte{7})
		for {
			f, err := framer.ReadFrame()
			if err != nil {
				return false
			}
			switch f := f.(type) {
			case *http2.PingFrame:
				return f.IsAck()
			case *http2.GoAwayFrame:
				return false
			case *http2.SettingsFrame:
				if !f.IsAck() {
					framer.WriteSettingsAck()
				}
			}
		}
	}
	if !ping() {
		t.Fatal("the first ping was not answered")
	}
	abused := false
	for range 10 {
		if !ping() {
			abused = true
			break
		}
	}
	if !abused {
		t.Error("a flood of pings was answered")
	}
}

func TestCallsAreObserved(t *testing.T) {
	var mu sync.Mutex
	var calls []Call
	_, conn := start(t, Options{
		Engine: &script{write: func(_ context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
			return coord.WriteResult{Level: coord.Quorum}, nil
		}},
		Observe: func(c Call) {
			mu.Lock()
			calls = append(calls, c)
			mu.Unlock()
		},
	})
	client, ctx := coordinatorpb.NewCoordinatorServiceClient(conn), testContext(t)
	client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k"})
	client.DeleteKeyValue(ctx, &coordinatorpb.DeleteKeyValueRequest{TenantId: "t"})
	conn.Invoke(ctx, "/proto.CoordinatorService/ListMigrations", &coordinatorpb.ListMigrationsRequest{}, &coordinatorpb.ListMigrationsResponse{})
	mu.Lock()
	defer mu.Unlock()
	var got []string
	for _, c := range calls {
		got = append(got, fmt.Sprintf("%s %s %q %q %v %s", c.Method, c.Operation, c.Tenant, c.Key, c.Code, c.Reason))
		if c.Took <= 0 || len(c.RequestID()) != 32 {
			t.Errorf("%s took %v, request id %q", c.Method, c.Took, c.RequestID())
		}
	}
	want := []string{
		`WriteKeyValue write "t" "k" OK `,
		`DeleteKeyValue delete "t" "" InvalidArgument INVALID_REQUEST`,
		`ListMigrations admin "" "" OK `,
	}
	if !slices.Equal(got, want) {
		t.Errorf("observed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestFaultyOptions(t *testing.T) {
	_, err := NewServer(Options{MaxValue: 11 << 20, MaxConnections: -1, ReadTimeout: -1})
	for _, want := range []string{"no engine", "largest value", "connections", "negative duration"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}

// BenchmarkWrite measures what the edge costs: a client, a connection in
// memory and the server, with an engine that does nothing.
func BenchmarkWrite(b *testing.B) {
	_, conn := start(b, Options{Engine: &script{
		write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
			return coord.WriteResult{Clock: coord.Clock{{ID: "c1", Counter: 1}}, Replicas: 2, Level: coord.Quorum}, nil
		},
	}})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	value := make([]byte, 100)
	b.ReportAllocs()
	b.SetParallelism(32 / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		req := &coordinatorpb.WriteKeyValueRequest{TenantId: "tenant", Key: "some-key-0001", Value: value, IdempotencyKey: "i"}
		for pb.Next() {
			if _, err := client.WriteKeyValue(context.Background(), req); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
