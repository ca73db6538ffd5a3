package rpc

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// badRequest is a request and what its sender must be told. None reaches the engine.
type badRequest struct {
	name   string
	method string
	send   any // a message, or the bytes of one
	reason string
}

// The names that a request's fields may be given, and why they are bad.
var (
	badTexts = map[string]string{"NUL": "a\x00b", "no UTF-8": "a\xffb", "half a character": "a\xe2\x82"}
	badNames = map[string]string{
		"empty": "", "too long": strings.Repeat("n", 257), "NUL": "a\x00b", "no UTF-8": "a\xff", "line feed": "a\nb",
		"delete": "a\x7f", "C1 control": "a\u0085",
	}
	badTenants = with(badNames, "colon", "a:b")
	badKeys    = with(with(badTexts, "empty", ""), "too long", strings.Repeat("k", 1025))
	badClaims  = with(badTexts, "too long", strings.Repeat("i", 257))
	badLevels  = map[string]string{
		"unknown": "two", "capitals": "QUORUM", "space": " one", "NUL": "one\x00", "no UTF-8": "\xff",
		"long": strings.Repeat("all", 1000), "number": "1",
	}
	badHosts = map[string]string{
		"empty": "", "space": "a b", "URL": "http://a", "port": "a:1", "brackets": "[::1]", "empty label": "a..b",
		"long label": strings.Repeat("a", 64), "too long": strings.Repeat("a.", 127) + "a", "NUL": "a\x00", "no UTF-8": "\xff", "slash": "a/b",
	}
	badTokens = map[string]string{"no base64": "%%%", "of nothing": "AAAA", "text": "next", "long": strings.Repeat("A", 5000), "no UTF-8": "\xff"}
	// Bytes that are no message of any kind.
	badBytes = map[string][]byte{
		"truncated field": {0x0a, 0x05, 'a'}, "endless number": {0x80, 0x80, 0x80}, "group without end": {0x0b},
		"wire type 7": {0x0f, 0x01}, "field 0": {0x02, 0x00}, "overlong length": {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
	}
)

func with(texts map[string]string, name, text string) map[string]string {
	more := map[string]string{name: text}
	for n, s := range texts {
		more[n] = s
	}
	return more
}

// goodRequests are one request of each RPC, which tests spoil.
func goodRequests() map[string]proto.Message {
	op := func(kind coordinatorpb.PipelineOperation_Kind) *coordinatorpb.PipelineRequest {
		return &coordinatorpb.PipelineRequest{Operations: []*coordinatorpb.PipelineOperation{{Kind: kind, TenantId: "t", Key: "k"}}}
	}
	return map[string]proto.Message{
		"WriteKeyValue":           &coordinatorpb.WriteKeyValueRequest{TenantId: "t", Key: "k"},
		"ReadKeyValue":            &coordinatorpb.ReadKeyValueRequest{TenantId: "t", Key: "k"},
		"DeleteKeyValue":          &coordinatorpb.DeleteKeyValueRequest{TenantId: "t", Key: "k"},
		"Pipeline":                op(coordinatorpb.PipelineOperation_KIND_WRITE),
		"Pipeline/read":           op(coordinatorpb.PipelineOperation_KIND_READ),
		"Pipeline/delete":         op(coordinatorpb.PipelineOperation_KIND_DELETE),
		"BatchWrite":              &coordinatorpb.BatchWriteRequest{TenantId: "t", Items: []*coordinatorpb.BatchWriteItem{{Key: "k"}}},
		"BatchRead":               &coordinatorpb.BatchReadRequest{TenantId: "t", Keys: []string{"k"}},
		"ListKeys":                &coordinatorpb.ListKeysRequest{TenantId: "t"},
		"Explain":                 &coordinatorpb.ExplainRequest{TenantId: "t", Key: "k"},
		"ScanKeys":                &coordinatorpb.ScanKeysRequest{TenantId: "t"},
		"PlanNodeChange":          &coordinatorpb.PlanNodeChangeRequest{Remove: &coordinatorpb.RemoveStorageNodeRequest{NodeId: "n"}},
		"RepairReplicas":          &coordinatorpb.RepairReplicasRequest{TenantId: "t"},
		"CreateTenant":            &coordinatorpb.CreateTenantRequest{TenantId: "t"},
		"UpdateReplicationFactor": &coordinatorpb.UpdateReplicationFactorRequest{TenantId: "t", NewReplicationFactor: 3},
		"GetTenant":               &coordinatorpb.GetTenantRequest{TenantId: "t"},
		"ListTenants":             &coordinatorpb.ListTenantsRequest{},
		"DeleteTenant":            &coordinatorpb.DeleteTenantRequest{TenantId: "t"},
		"GetTenantLimits":         &coordinatorpb.GetTenantLimitsRequest{TenantId: "t"},
		"SetTenantLimits":         &coordinatorpb.SetTenantLimitsRequest{TenantId: "t"},
		"AddStorageNode":          &coordinatorpb.AddStorageNodeRequest{NodeId: "n", Host: "h", Port: 1},
		"RemoveStorageNode":       &coordinatorpb.RemoveStorageNodeRequest{NodeId: "n"},
		"ListStorageNodes":        &coordinatorpb.ListStorageNodesRequest{},
		"GetMigrationStatus":      &coordinatorpb.GetMigrationStatusRequest{MigrationId: "m"},
		"ListMigrations":          &coordinatorpb.ListMigrationsRequest{},
		"CancelMigration":         &coordinatorpb.CancelMigrationRequest{MigrationId: "m"},
		"GetStatus":               &coordinatorpb.GetStatusRequest{},
		"ExportVersions":          &coordinatorpb.ExportVersionsRequest{TenantId: "t"},
		"ImportVersions":          &coordinatorpb.ImportVersionsRequest{TenantId: "t", Versions: []*coordinatorpb.StoredVersion{storedExample()}},
	}
}

func storedExample() *coordinatorpb.StoredVersion {
	head := coord.Head{Timestamp: 5, Writer: coord.Writer{ID: "c", Incarnation: 1}, Clock: clockOf("c")}
	return &coordinatorpb.StoredVersion{Key: "k", Head: coord.AppendHead(nil, &head), Value: []byte("v")}
}

func badRequests() []badRequest {
	var all []badRequest
	const invalid = "INVALID_REQUEST"
	add := func(name, method string, reason string, change func(proto.Message)) {
		m := proto.Clone(goodRequests()[method])
		change(m)
		all = append(all, badRequest{method + ": " + name, method, m, reason})
	}
	// Each field of every request that has it, given each bad text.
	spoil := func(field string, texts map[string]string) {
		for method, m := range goodRequests() {
			for name, text := range texts {
				if method == "RepairReplicas" && field == "tenant_id" && text == "" {
					continue // it means all of them
				}
				if spoiled := proto.Clone(m); setText(spoiled, field, text) {
					all = append(all, badRequest{method + ": " + field + " " + name, method, spoiled, invalid})
				}
			}
		}
	}
	spoil("tenant_id", badTenants)
	spoil("key", badKeys)
	spoil("consistency", badLevels)
	spoil("idempotency_key", badClaims)
	spoil("node_id", badNames)
	spoil("migration_id", badNames)
	spoil("host", badHosts)
	spoil("page_token", badTokens)
	spoil("resume_token", badTokens)
	spoil("prefix", with(badTexts, "too long", strings.Repeat("p", 1025)))
	for method, m := range goodRequests() {
		for name, raw := range badBytes {
			all = append(all, badRequest{method + ": " + name, method, raw, invalid})
			whole, err := proto.Marshal(m)
			if err != nil {
				panic(err)
			}
			all = append(all, badRequest{method + ": " + name + " behind a good request", method, append(whole, raw...), invalid})
		}
	}
	for _, rf := range []int32{-1, 11, math.MaxInt32, math.MinInt32} {
		add(fmt.Sprint("replication factor ", rf), "CreateTenant", "INVALID_REPLICATION_FACTOR", func(m proto.Message) {
			m.(*coordinatorpb.CreateTenantRequest).ReplicationFactor = rf
		})
		add(fmt.Sprint("replication factor ", rf), "UpdateReplicationFactor", "INVALID_REPLICATION_FACTOR", func(m proto.Message) {
			m.(*coordinatorpb.UpdateReplicationFactorRequest).NewReplicationFactor = rf
		})
	}
	add("replication factor 0", "UpdateReplicationFactor", "INVALID_REPLICATION_FACTOR", func(m proto.Message) {
		m.(*coordinatorpb.UpdateReplicationFactorRequest).NewReplicationFactor = 0
	})
	for _, n := range []int32{-1, math.MinInt32} {
		add(fmt.Sprint("page size ", n), "ListKeys", invalid, func(m proto.Message) { m.(*coordinatorpb.ListKeysRequest).PageSize = n })
		add(fmt.Sprint("page size ", n), "ListTenants", invalid, func(m proto.Message) { m.(*coordinatorpb.ListTenantsRequest).PageSize = n })
	}
	for _, n := range []int32{0, -1, 65536, math.MinInt32} {
		add(fmt.Sprint("port ", n), "AddStorageNode", invalid, func(m proto.Message) { m.(*coordinatorpb.AddStorageNodeRequest).Port = n })
	}
	for _, n := range []int32{-1, 4097, math.MaxInt32} {
		add(fmt.Sprint("virtual nodes ", n), "AddStorageNode", invalid, func(m proto.Message) { m.(*coordinatorpb.AddStorageNodeRequest).VirtualNodes = n })
	}
	for _, n := range []int64{-2, maxLimit + 1, math.MinInt64, math.MaxInt64} {
		add(fmt.Sprint("operations ", n), "SetTenantLimits", invalid, func(m proto.Message) { m.(*coordinatorpb.SetTenantLimitsRequest).OperationsPerSecond = &n })
		add(fmt.Sprint("bytes ", n), "SetTenantLimits", invalid, func(m proto.Message) { m.(*coordinatorpb.SetTenantLimitsRequest).BytesPerSecond = &n })
		add(fmt.Sprint("concurrency ", n), "SetTenantLimits", invalid, func(m proto.Message) { m.(*coordinatorpb.SetTenantLimitsRequest).Concurrency = &n })
	}
	large := make([]byte, MaxValueBytes+1)
	add("value too large", "WriteKeyValue", invalid, func(m proto.Message) { m.(*coordinatorpb.WriteKeyValueRequest).Value = large })
	add("value too large", "Pipeline", invalid, func(m proto.Message) { m.(*coordinatorpb.PipelineRequest).Operations[0].Value = large })
	add("values too large", "BatchWrite", invalid, func(m proto.Message) { m.(*coordinatorpb.BatchWriteRequest).Items[0].Value = large })
	add("no items", "BatchWrite", invalid, func(m proto.Message) { m.(*coordinatorpb.BatchWriteRequest).Items = nil })
	add("no keys", "BatchRead", invalid, func(m proto.Message) { m.(*coordinatorpb.BatchReadRequest).Keys = nil })
	add("too many items", "BatchWrite", invalid, func(m proto.Message) {
		m.(*coordinatorpb.BatchWriteRequest).Items = make([]*coordinatorpb.BatchWriteItem, MaxBatchItems+1)
	})
	add("too many keys", "BatchRead", invalid, func(m proto.Message) {
		m.(*coordinatorpb.BatchReadRequest).Keys = make([]string, MaxBatchItems+1)
	})
	add("too many operations", "Pipeline", invalid, func(m proto.Message) {
		m.(*coordinatorpb.PipelineRequest).Operations = make([]*coordinatorpb.PipelineOperation, MaxPipelineMessage+1)
	})
	for name, change := range map[string]func(*coordinatorpb.ImportVersionsRequest){
		"too many versions": func(m *coordinatorpb.ImportVersionsRequest) {
			m.Versions = make([]*coordinatorpb.StoredVersion, MaxBatchItems+1)
		},
		"value too large":       func(m *coordinatorpb.ImportVersionsRequest) { m.Versions[0].Value = large },
		"no head":               func(m *coordinatorpb.ImportVersionsRequest) { m.Versions[0].Head = nil },
		"head of another form":  func(m *coordinatorpb.ImportVersionsRequest) { m.Versions[0].Head[0]++ },
		"bytes behind the head": func(m *coordinatorpb.ImportVersionsRequest) { m.Versions[0].Head = append(m.Versions[0].Head, 0) },
		"deletion with a value": func(m *coordinatorpb.ImportVersionsRequest) {
			m.Versions[0].Head = coord.AppendHead(nil, &coord.Head{Timestamp: 1, Writer: coord.Writer{ID: "c"}, Tombstone: true})
		},
		"second version without a key": func(m *coordinatorpb.ImportVersionsRequest) {
			m.Versions = append(m.Versions, &coordinatorpb.StoredVersion{Head: m.Versions[0].Head})
		},
	} {
		add(name, "ImportVersions", invalid, func(m proto.Message) { change(m.(*coordinatorpb.ImportVersionsRequest)) })
	}
	for _, kind := range []coordinatorpb.PipelineOperation_Kind{0, 4, -1} {
		add(fmt.Sprint("kind ", kind), "Pipeline", invalid, func(m proto.Message) { m.(*coordinatorpb.PipelineRequest).Operations[0].Kind = kind })
	}
	return all
}

// setText sets a field by its name, in the request or in the only operation that
// it holds, and tells whether there is one that is used.
func setText(m proto.Message, field, text string) bool {
	switch r := m.(type) {
	case *coordinatorpb.PipelineRequest:
		if r.Operations[0].Kind == coordinatorpb.PipelineOperation_KIND_READ && field == "idempotency_key" {
			return false
		}
		return setText(r.Operations[0], field, text)
	case *coordinatorpb.BatchWriteRequest:
		if field == "key" || field == "idempotency_key" {
			return setText(r.Items[0], field, text)
		}
	case *coordinatorpb.ImportVersionsRequest:
		if field == "key" {
			return setText(r.Versions[0], field, text)
		}
	case *coordinatorpb.BatchReadRequest:
		if field == "key" {
			r.Keys[0] = text
			return true
		}
	}
	d := m.ProtoReflect().Descriptor().Fields().ByTextName(field)
	if d == nil || d.IsList() {
		return false
	}
	m.ProtoReflect().Set(d, protoreflect.ValueOfString(text))
	return true
}

// anyBytes sends bytes as they are, and everything else as a Codec does.
type anyBytes struct{ encoding.CodecV2 }

func (c anyBytes) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// ask sends a request of any kind, and returns how it failed; of a batch or
// stream how its only operation did.
func ask(t *testing.T, ctx context.Context, conn *grpc.ClientConn, method string, send any) failure {
	t.Helper()
	status, err := deliver(ctx, conn, method, send)
	if status != nil {
		return failure{code: codes.Code(status.Code), reason: status.Reason, outcome: status.Outcome, message: status.Message, domain: errorDomain}
	}
	return failureOf(t, err)
}

// deliver sends a request of any kind. Of a batch or stream it returns the
// status of the first operation.
func deliver(ctx context.Context, conn *grpc.ClientConn, method string, send any) (*coordinatorpb.OperationStatus, error) {
	method, _, _ = strings.Cut(method, "/")
	full := "/" + coordinatorpb.CoordinatorService_ServiceDesc.ServiceName + "/" + method
	force := grpc.ForceCodecV2(anyBytes{codec.New()})
	switch method {
	case "Pipeline":
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full, force)
		if err != nil {
			return nil, err
		}
		answer := new(coordinatorpb.PipelineResponse)
		_ = stream.SendMsg(send) // what went wrong shows in the answer
		_ = stream.CloseSend()
		if err := stream.RecvMsg(answer); err != nil {
			return nil, err
		}
		return answer.Answers[0].Status, nil
	case "BatchWrite":
		answer := new(coordinatorpb.BatchWriteResponse)
		if err := conn.Invoke(ctx, full, send, answer, force); err != nil {
			return nil, err
		}
		return answer.Results[0].Status, nil
	case "BatchRead":
		answer := new(coordinatorpb.BatchReadResponse)
		if err := conn.Invoke(ctx, full, send, answer, force); err != nil {
			return nil, err
		}
		return answer.Results[0].Status, nil
	}
	return nil, conn.Invoke(ctx, full, send, new(coordinatorpb.GetStatusRequest), force)
}

func TestBadRequests(t *testing.T) {
	_, conn := start(t, Options{Engine: &script{}})
	ctx := testContext(t)
	all := badRequests()
	for _, b := range all {
		f := ask(t, ctx, conn, b.method, b.send)
		if f.code != codes.InvalidArgument || f.reason != b.reason || f.domain != errorDomain {
			t.Errorf("%s: %v %s of %s (%s), want %v %s", b.name, f.code, f.reason, f.domain, f.message, codes.InvalidArgument, b.reason)
		}
		mutation := strings.HasPrefix(b.method, "WriteKey") || strings.HasPrefix(b.method, "DeleteKey")
		if mutation && f.outcome != "not_applied" {
			t.Errorf("%s: outcome %q, want not_applied", b.name, f.outcome)
		}
		if len(f.message) > 500 || strings.Contains(f.message, "\x00") {
			t.Errorf("%s: the message repeats what was sent: %q", b.name, f.message)
		}
	}
	t.Logf("%d bad requests", len(all))
	if len(all) < 300 {
		t.Errorf("only %d bad requests, want 300", len(all))
	}
	for method := range accessRules {
		if goodRequests()[method] == nil {
			t.Errorf("no request of %s is tried", method)
		}
	}
}
