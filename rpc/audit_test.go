package rpc

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/auth"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const tokenSecret = "0123456789abcdef0123456789abcdef"

// testVerifier trusts tokens of withToken.
func testVerifier(t testing.TB) *auth.Verifier {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(tokenSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := auth.New(auth.Options{Keys: []auth.Key{{ID: "k", Algorithm: "HS256", File: file}}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func withToken(t testing.TB, ctx context.Context, ends time.Duration, claims jwt.MapClaims) context.Context {
	t.Helper()
	claims["exp"] = time.Now().Add(ends).Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	token.Header["kid"] = "k"
	text, err := token.SignedString([]byte(tokenSecret))
	if err != nil {
		t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+text)
}

// Who reads of a request in one log finds it in the other.
func TestBothLogsNameARequestAlike(t *testing.T) {
	var observed, audited string
	engine := &script{create: func(id string, rf int) (coord.Tenant, error) { return coord.Tenant{}, coord.ErrMetadataUnavailable }}
	_, conn := start(t, Options{Engine: engine, Observe: func(c Call) { observed = c.RequestID() }, Audit: func(a *Admin) { audited = a.RequestID() }})
	_, err := coordinatorpb.NewCoordinatorServiceClient(conn).CreateTenant(testContext(t), &coordinatorpb.CreateTenantRequest{TenantId: "shop"})
	if err == nil || observed == "" || observed != audited {
		t.Errorf("observed as %q, audited as %q, %v", observed, audited, err)
	}
}

func TestAudit(t *testing.T) {
	var got []string
	engine := &script{
		drop:    func(string) error { return coord.ErrTenantNotFound },
		create:  func(id string, rf int) (coord.Tenant, error) { return coord.Tenant{ID: id, ReplicationFactor: rf}, nil },
		addNode: func(coord.StorageNode) (coord.Migration, error) { panic("out of order") },
		cancel:  func(string) error { return coord.ErrMigrationNotFound },
		tenants: func(string, int) ([]coord.Tenant, error) { return nil, nil },
		imports: func(string, []coord.KeyVersion) (coord.ImportResult, error) { return coord.ImportResult{}, nil },
	}
	_, conn := start(t, Options{Engine: engine, Auth: testVerifier(t), Audit: func(a *Admin) {
		got = append(got, fmt.Sprint(a.Subject, " ", a.KeyID, " ", a.Method, " ", a.Target, " ", a.Outcome()))
		if a.RequestID() != "mine" || a.Peer == "" {
			t.Errorf("request id %q from %q", a.RequestID(), a.Peer)
		}
	}})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(testContext(t), "x-request-id", "mine")
	admin := withToken(t, ctx, time.Hour, jwt.MapClaims{"sub": "root", "roles": "admin"})
	user := withToken(t, ctx, time.Hour, jwt.MapClaims{"sub": "joe", "tenant_id": "shop"})
	client.CreateTenant(admin, &coordinatorpb.CreateTenantRequest{TenantId: "shop"})
	client.DeleteTenant(admin, &coordinatorpb.DeleteTenantRequest{TenantId: "none"})
	client.AddStorageNode(admin, &coordinatorpb.AddStorageNodeRequest{NodeId: "n", Host: "h", Port: 1})
	client.CancelMigration(admin, &coordinatorpb.CancelMigrationRequest{MigrationId: "m"})
	client.ListTenants(admin, &coordinatorpb.ListTenantsRequest{})                 // changes nothing
	client.CreateTenant(ctx, &coordinatorpb.CreateTenantRequest{TenantId: "shop"}) // a stranger
	imports := 0
	for began := time.Now(); time.Since(began) < 500*time.Millisecond && imports < 20; imports++ {
		if _, err := client.ImportVersions(admin, &coordinatorpb.ImportVersionsRequest{TenantId: "shop"}); err != nil {
			t.Error(err)
		}
	}
	told := len(got)
	got = slices.DeleteFunc(got, func(line string) bool { return line == "root k ImportVersions shop ok" })
	if n := told - len(got); n < 1 || n > 2*importsPerSecond {
		t.Errorf("told of %d imports of %d, want %d a second", n, imports, importsPerSecond)
	}
	for range 2 * forbiddenPerSecond {
		client.DeleteTenant(user, &coordinatorpb.DeleteTenantRequest{TenantId: "shop"})
	}
	want := []string{
		"root k CreateTenant shop ok", "root k DeleteTenant none TENANT_NOT_FOUND", "root k AddStorageNode n INTERNAL",
		"root k CancelMigration m MIGRATION_NOT_FOUND",
	}
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Fatalf("told of\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	refusals := got[len(want):]
	for _, line := range refusals {
		if line != "joe k DeleteTenant shop FORBIDDEN" {
			t.Errorf("told of %q", line)
		}
	}
	if n := len(refusals); n < forbiddenPerSecond || n == 2*forbiddenPerSecond {
		t.Errorf("told of %d refusals, want %d a second", n, forbiddenPerSecond)
	}
}

// RPCs that answer by a stream are told of like others.
func TestStreamsOfAnswersAreToldOf(t *testing.T) {
	var mu sync.Mutex
	var audited, observed []string
	engine := &script{
		repair: func(context.Context, coord.RepairRequest, func(coord.RepairProgress)) error { panic("out of order") },
		keys:   func(coord.KeysRequest) (coord.KeysPage, error) { return coord.KeysPage{Keys: []string{"k"}}, nil },
	}
	var detail error
	_, conn := start(t, Options{Engine: engine, Auth: testVerifier(t),
		Audit: func(a *Admin) {
			mu.Lock()
			defer mu.Unlock()
			audited = append(audited, fmt.Sprint(a.Subject, " ", a.Method, " ", a.Target, " ", a.Outcome()))
		},
		Observe: func(c Call) {
			mu.Lock()
			defer mu.Unlock()
			observed = append(observed, fmt.Sprint(c.Method, " ", c.Operation, " ", c.Tenant, " ", c.Code, " ", c.Reason))
			if c.Code == codes.Internal {
				detail = fmt.Errorf("%s: %w", c.RequestID(), c.Err)
			}
		},
	})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	ctx := testContext(t)
	admin := withToken(t, ctx, time.Hour, jwt.MapClaims{"sub": "root", "roles": "admin"})
	user := withToken(t, ctx, time.Hour, jwt.MapClaims{"sub": "joe", "tenant_id": "shop"})
	var said string
	for _, c := range []context.Context{admin, user, ctx} {
		repair, err := client.RepairReplicas(c, &coordinatorpb.RepairReplicasRequest{TenantId: "shop"})
		if err == nil {
			_, err = repair.Recv()
		}
		if status.Code(err) == codes.Internal {
			said = status.Convert(err).Message()
		}
	}
	for _, tenant := range []string{"shop", "bank"} {
		scan, err := client.ScanKeys(user, &coordinatorpb.ScanKeysRequest{TenantId: tenant})
		for err == nil {
			_, err = scan.Recv()
		}
	}
	want := []string{"root RepairReplicas shop INTERNAL", "joe RepairReplicas shop FORBIDDEN"}
	wantSeen := []string{
		"RepairReplicas admin shop Internal INTERNAL", "RepairReplicas admin shop PermissionDenied FORBIDDEN",
		"RepairReplicas admin  Unauthenticated UNAUTHENTICATED",
		"ScanKeys read shop OK ", "ScanKeys read bank PermissionDenied FORBIDDEN",
	}
	eventually(t, "all are told of", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(observed) >= len(wantSeen) && len(audited) >= len(want)
	})
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(audited, want) || !slices.Equal(observed, wantSeen) {
		t.Errorf("the audit is told of %q, want %q;\nthe observer of %q, want %q", audited, want, observed, wantSeen)
	}
	if id, _, ok := strings.Cut(fmt.Sprint(detail), ": panic: out of order"); !ok || !strings.HasSuffix(said, id) {
		t.Errorf("the client is told %q, the observer %v", said, detail)
	}
}

// A long answer ends with the token of who asked for it.
func TestScanEndsWithItsToken(t *testing.T) {
	engine := &script{keys: func(coord.KeysRequest) (coord.KeysPage, error) {
		time.Sleep(10 * time.Millisecond)
		return coord.KeysPage{Keys: []string{"k"}, Next: &coord.Position{Token: 1, Tenant: "shop", Key: "k"}}, nil
	}}
	_, conn := start(t, Options{Engine: engine, Auth: testVerifier(t)})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	scan, err := coordinatorpb.NewCoordinatorServiceClient(conn).ScanKeys(
		withToken(t, ctx, 2*time.Second, jwt.MapClaims{"tenant_id": "shop"}), &coordinatorpb.ScanKeysRequest{TenantId: "shop"})
	for err == nil {
		_, err = scan.Recv()
	}
	failureOf(t, err).want(t, codes.Unauthenticated, "UNAUTHENTICATED", "")
}

// A stream whose token ends is ended in good order, before what comes then is begun.
func TestPipelineEndsWithItsToken(t *testing.T) {
	var wrote atomic.Int64
	engine := &script{write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
		wrote.Add(1)
		return coord.WriteResult{Level: coord.Quorum}, nil
	}}
	_, conn := start(t, Options{Engine: engine, Auth: testVerifier(t)})
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	ctx := testContext(t)
	stream, err := client.Pipeline(withToken(t, ctx, 2*time.Second, jwt.MapClaims{"tenant_id": "shop"}))
	if err != nil {
		t.Fatal(err)
	}
	send := func(id uint64, tenant, key string) {
		t.Helper()
		if err := stream.Send(&coordinatorpb.PipelineRequest{Operations: []*coordinatorpb.PipelineOperation{
			{Id: id, Kind: coordinatorpb.PipelineOperation_KIND_WRITE, TenantId: tenant, Key: key},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	send(1, "shop", "first")
	if a, err := stream.Recv(); err != nil || a.Answers[0].Status != nil {
		t.Fatalf("%v, %v", a, err)
	}
	send(2, "other", "forbidden")
	if a, err := stream.Recv(); err != nil || a.Answers[0].Status.GetReason() != "FORBIDDEN" || a.Answers[0].Status.GetOutcome() != "not_applied" {
		t.Fatalf("another tenant: %v, %v", a, err)
	}
	answered := 1
	for id := uint64(3); ; id++ {
		// One that comes when the token has ended is not answered, nor begun.
		if err := stream.Send(&coordinatorpb.PipelineRequest{Operations: []*coordinatorpb.PipelineOperation{
			{Id: id, Kind: coordinatorpb.PipelineOperation_KIND_WRITE, TenantId: "shop", Key: "k"},
		}}); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		a, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil || a.Answers[0].Status != nil {
			t.Fatalf("%v, %v", a, err)
		}
		answered++
	}
	if n := int(wrote.Load()); n != answered {
		t.Errorf("%d operations were begun and %d answered", n, answered)
	}
	_, err = client.ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "shop", Key: "k"})
	failureOf(t, err).want(t, codes.Unauthenticated, "UNAUTHENTICATED", "")
}
