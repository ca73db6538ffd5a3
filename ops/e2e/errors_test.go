package e2e

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Every row of the error table that a running process can be brought to show,
// over a connection, under both names of the service.
func TestErrorTable(t *testing.T) {
	c := startCluster(t, "")
	conn, err := grpc.NewClient(c.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(32<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := c.dial()
	if err := write(t, client, "k", "v", "all"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: "default", Key: "k", Value: []byte("v"), IdempotencyKey: "once"}); err != nil {
		t.Fatal(err)
	}
	spare := startStorage(t, "storage-9", t.TempDir())
	host, port := splitAddress(t, spare.grpc)
	// A migration that has ended.
	resized, err := client.UpdateReplicationFactor(t.Context(), &pb.UpdateReplicationFactorRequest{TenantId: "default", NewReplicationFactor: 2})
	if err != nil {
		t.Fatal(err)
	}
	done := resized.GetMigrationId()
	awaitMigration(t, client, done, "completed")
	if resized, err = client.UpdateReplicationFactor(t.Context(), &pb.UpdateReplicationFactorRequest{TenantId: "default", NewReplicationFactor: 3}); err != nil {
		t.Fatal(err)
	}
	awaitMigration(t, client, resized.GetMigrationId(), "completed")
	w := func(change func(*pb.WriteKeyValueRequest)) *pb.WriteKeyValueRequest {
		req := &pb.WriteKeyValueRequest{TenantId: "default", Key: "k", Value: []byte("v")}
		change(req)
		return req
	}
	const notApplied = "not_applied"
	rows := []struct {
		name    string
		method  string
		request proto.Message
		code    codes.Code
		reason  string
		outcome string
		word    string // in the message
	}{
		{"no tenant", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.TenantId = "" }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "tenant_id"},
		{"long tenant", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.TenantId = strings.Repeat("t", 257) }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "256"},
		{"colon in tenant", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.TenantId = "a:b" }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "':'"},
		{"control character in tenant", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.TenantId = "a\tb" }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "tenant_id"},
		{"NUL in key", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.Key = "a\x00b" }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "key"},
		{"no key", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.Key = "" }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "key"},
		{"unknown consistency", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.Consistency = "two" }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "consistency"},
		{"consistency in capitals", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.Consistency = "QUORUM" }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "consistency"},
		{"long idempotency key", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.IdempotencyKey = strings.Repeat("i", 257) }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "256"},
		{"large value", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.Value = bytes.Repeat([]byte{1}, 10<<20+1) }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "value"},
		{"message beyond the limit", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.Value = bytes.Repeat([]byte{1}, 16<<20) }), codes.ResourceExhausted, "", "", ""},
		{"unknown tenant, write", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.TenantId = "nobody" }), codes.NotFound, "TENANT_NOT_FOUND", notApplied, "tenant"},
		{"unknown tenant, read", "ReadKeyValue", &pb.ReadKeyValueRequest{TenantId: "nobody", Key: "k"}, codes.NotFound, "TENANT_NOT_FOUND", "", "tenant"},
		{"unknown tenant, get", "GetTenant", &pb.GetTenantRequest{TenantId: "nobody"}, codes.NotFound, "TENANT_NOT_FOUND", "", "tenant"},
		{"unknown tenant, delete", "DeleteTenant", &pb.DeleteTenantRequest{TenantId: "nobody"}, codes.NotFound, "TENANT_NOT_FOUND", "", "tenant"},
		{"absent key", "ReadKeyValue", &pb.ReadKeyValueRequest{TenantId: "default", Key: "absent"}, codes.NotFound, "KEY_NOT_FOUND", "", "key not found"},
		{"tenant exists", "CreateTenant", &pb.CreateTenantRequest{TenantId: "default"}, codes.AlreadyExists, "TENANT_EXISTS", "", "tenant"},
		{"replication factor 11", "CreateTenant", &pb.CreateTenantRequest{TenantId: "t", ReplicationFactor: 11}, codes.InvalidArgument, "INVALID_REPLICATION_FACTOR", "", ""},
		{"replication factor above nodes", "CreateTenant", &pb.CreateTenantRequest{TenantId: "t", ReplicationFactor: 4}, codes.InvalidArgument, "INVALID_REPLICATION_FACTOR", "", ""},
		{"replication factor above nodes, change", "UpdateReplicationFactor", &pb.UpdateReplicationFactorRequest{TenantId: "default", NewReplicationFactor: 4}, codes.InvalidArgument, "INVALID_REPLICATION_FACTOR", "", ""},
		{"negative lifetime", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.TtlSeconds = -1 }), codes.InvalidArgument, "INVALID_REQUEST", notApplied, "ttl_seconds"},
		{"idempotency key, other value", "WriteKeyValue", w(func(r *pb.WriteKeyValueRequest) { r.Value, r.IdempotencyKey = []byte("w"), "once" }), codes.AlreadyExists, "IDEMPOTENCY_KEY_CONFLICT", notApplied, "idempotency"},
		{"idempotency key, other operation", "DeleteKeyValue", &pb.DeleteKeyValueRequest{TenantId: "default", Key: "k", IdempotencyKey: "once"}, codes.AlreadyExists, "IDEMPOTENCY_KEY_CONFLICT", notApplied, "idempotency"},
		{"unknown migration", "GetMigrationStatus", &pb.GetMigrationStatusRequest{MigrationId: "m"}, codes.NotFound, "MIGRATION_NOT_FOUND", "", "migration"},
		{"cancel of an unknown migration", "CancelMigration", &pb.CancelMigrationRequest{MigrationId: "m"}, codes.NotFound, "MIGRATION_NOT_FOUND", "", "migration"},
		{"unknown node", "RemoveStorageNode", &pb.RemoveStorageNodeRequest{NodeId: "nobody"}, codes.NotFound, "NODE_NOT_FOUND", "", "node"},
		{"node below the replication factor", "RemoveStorageNode", &pb.RemoveStorageNodeRequest{NodeId: "storage-1"}, codes.FailedPrecondition, "NODE_IN_USE", "", ""},
		{"another node under a known id", "AddStorageNode", &pb.AddStorageNodeRequest{NodeId: "storage-1", Host: host, Port: port}, codes.FailedPrecondition, "NODE_IN_USE", "", ""},
		{"cancel of a migration that is done", "CancelMigration", &pb.CancelMigrationRequest{MigrationId: done}, codes.FailedPrecondition, "MIGRATION_CONFLICT", "", "migration"},
		{"a node that is not there", "AddStorageNode", &pb.AddStorageNodeRequest{NodeId: "storage-8", Host: "127.0.0.1", Port: 1}, codes.Unavailable, "QUORUM_NOT_REACHED", "", "storage-8"},
	}
	check := func(t *testing.T, method string, request proto.Message, code codes.Code, reason, outcome, word string) {
		t.Helper()
		for _, service := range []string{"pairdb.coordinator.v1.CoordinatorService", "proto.CoordinatorService"} {
			err := conn.Invoke(context.WithoutCancel(t.Context()), "/"+service+"/"+method, request, new(pb.WriteKeyValueResponse))
			gotReason, gotOutcome := infoOf(err)
			if status.Code(err) != code || gotReason != reason || gotOutcome != outcome || !strings.Contains(strings.ToLower(status.Convert(err).Message()), strings.ToLower(word)) {
				t.Errorf("%s: %v, reason %q, outcome %q; want %v, %q, %q, and the word %q", service, err, gotReason, gotOutcome, code, reason, outcome, word)
			}
		}
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { check(t, r.method, r.request, r.code, r.reason, r.outcome, r.word) })
	}
	c.storage[0].kill()
	c.storage[1].kill()
	t.Run("no quorum, write", func(t *testing.T) {
		check(t, "WriteKeyValue", w(func(*pb.WriteKeyValueRequest) {}), codes.Unavailable, "QUORUM_NOT_REACHED", notApplied, "storage-1")
	})
	t.Run("no quorum, read", func(t *testing.T) {
		check(t, "ReadKeyValue", &pb.ReadKeyValueRequest{TenantId: "default", Key: "k"}, codes.Unavailable, "QUORUM_NOT_REACHED", "", "storage-2")
	})
}
