package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(idleFor); address != "" {
		if err := idle(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

var _ Engine = (*coord.Coordinator)(nil)

// script is an Engine that does what the test says; what it was not told to do
// fails the test.
type script struct {
	write      func(context.Context, coord.WriteRequest) (coord.WriteResult, error)
	read       func(context.Context, coord.ReadRequest) (coord.ReadResult, error)
	keys       func(coord.KeysRequest) (coord.KeysPage, error)
	tenants    func(after string, limit int) ([]coord.Tenant, error)
	tenant     func(id string) (coord.Tenant, error)
	create     func(id string, rf int) (coord.Tenant, error)
	setRF      func(id string, rf int) (coord.Tenant, coord.Migration, error)
	setLimits  func(id string, change coord.LimitsChange) (coord.Tenant, error)
	limits     func(id string) (coord.TenantLimits, bool)
	drop       func(id string) error
	addNode    func(coord.StorageNode) (coord.Migration, error)
	removeNode func(id string, how coord.Removal) (coord.Migration, error)
	plan       func(coord.PlanRequest) (coord.Plan, error)
	migrations []coord.MigrationState
	cancel     func(id string) error
	repair     func(ctx context.Context, r coord.RepairRequest, tell func(coord.RepairProgress)) error
	export     func(r coord.ExportRequest, send func(coord.ExportPage) error) error
	imports    func(tenant string, versions []coord.KeyVersion) (coord.ImportResult, error)
	nodes      func() ([]coord.NodeState, error)
	status     coord.Status
	explain    func(tenant, key string, level coord.Level) (coord.Explanation, error)
}

func (s *script) Write(ctx context.Context, r coord.WriteRequest) (coord.WriteResult, error) {
	return s.write(ctx, r)
}
func (s *script) Read(ctx context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
	return s.read(ctx, r)
}
func (s *script) Explain(_ context.Context, tenant, key string, level coord.Level) (coord.Explanation, error) {
	return s.explain(tenant, key, level)
}
func (s *script) StartWrite(r coord.WriteRequest, w coord.Waiter) {
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), r.Deadline)
		defer cancel()
		w.Written(s.write(ctx, r))
	}()
}
func (s *script) StartRead(r coord.ReadRequest, w coord.Waiter) {
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), r.Deadline)
		defer cancel()
		w.Found(s.read(ctx, r))
	}()
}
func (s *script) Keys(_ context.Context, r coord.KeysRequest) (coord.KeysPage, error) {
	return s.keys(r)
}
func (s *script) CreateTenant(_ context.Context, id string, rf int) (coord.Tenant, error) {
	return s.create(id, rf)
}
func (s *script) Tenant(_ context.Context, id string) (coord.Tenant, error) { return s.tenant(id) }
func (s *script) Tenants(_ context.Context, after string, limit int) ([]coord.Tenant, error) {
	return s.tenants(after, limit)
}
func (s *script) SetReplicationFactor(_ context.Context, id string, rf int) (coord.Tenant, coord.Migration, error) {
	return s.setRF(id, rf)
}
func (s *script) DeleteTenant(_ context.Context, id string) error { return s.drop(id) }
func (s *script) AddNode(_ context.Context, n coord.StorageNode) (coord.Migration, error) {
	return s.addNode(n)
}
func (s *script) Nodes(context.Context) ([]coord.NodeState, error) { return s.nodes() }
func (s *script) Status(context.Context) coord.Status              { return s.status }
func (s *script) RemoveNode(_ context.Context, id string, how coord.Removal) (coord.Migration, error) {
	return s.removeNode(id, how)
}
func (s *script) Plan(_ context.Context, r coord.PlanRequest) (coord.Plan, error) { return s.plan(r) }
func (s *script) Migration(_ context.Context, id string) (coord.MigrationState, error) {
	for _, m := range s.migrations {
		if m.ID == id {
			return m, nil
		}
	}
	return coord.MigrationState{}, fmt.Errorf("%w: %q", coord.ErrMigrationNotFound, id)
}
func (s *script) Migrations(context.Context) ([]coord.MigrationState, error) {
	return s.migrations, nil
}
func (s *script) CancelMigration(_ context.Context, id string) error { return s.cancel(id) }
func (s *script) Export(_ context.Context, r coord.ExportRequest, send func(coord.ExportPage) error) error {
	return s.export(r, send)
}
func (s *script) Import(_ context.Context, tenant string, versions []coord.KeyVersion) (coord.ImportResult, error) {
	return s.imports(tenant, versions)
}
func (s *script) Repair(ctx context.Context, r coord.RepairRequest, tell func(coord.RepairProgress)) error {
	return s.repair(ctx, r, tell)
}
func (s *script) SetTenantLimits(_ context.Context, id string, change coord.LimitsChange) (coord.Tenant, error) {
	return s.setLimits(id, change)
}
func (s *script) KnownLimits(id string) (coord.TenantLimits, bool) {
	if s.limits == nil {
		return coord.TenantLimits{}, false
	}
	return s.limits(id)
}

// start serves opts in memory and returns the server and a connection to it.
func start(t testing.TB, opts Options) (*Server, *grpc.ClientConn) {
	t.Helper()
	server, err := NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Stop(ctx)
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return server, dial(t, "passthrough:///memory", grpc.WithContextDialer(
		func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
}

func dial(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, append(opts,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func startClient(t testing.TB, engine *script) coordinatorpb.CoordinatorServiceClient {
	t.Helper()
	_, conn := start(t, Options{Engine: engine})
	return coordinatorpb.NewCoordinatorServiceClient(conn)
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// failure is an RPC's error, taken apart.
type failure struct {
	code     codes.Code
	reason   string
	domain   string
	outcome  string
	message  string
	retryIn  time.Duration
	metadata map[string]string
}

func failureOf(t testing.TB, err error) failure {
	t.Helper()
	if err == nil {
		t.Fatal("the RPC succeeded, want an error")
	}
	st, ok := status.FromError(err)
	if !ok {
		t.Fatalf("error %v is no gRPC status", err)
	}
	f := failure{code: st.Code(), message: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			f.reason, f.domain, f.outcome, f.metadata = d.Reason, d.Domain, d.Metadata["outcome"], d.Metadata
		case *errdetails.RetryInfo:
			f.retryIn = d.RetryDelay.AsDuration()
		}
	}
	return f
}

func (f failure) want(t testing.TB, code codes.Code, reason, outcome string) {
	t.Helper()
	if f.code != code || f.reason != reason || f.outcome != outcome || f.domain != "pairdb" {
		t.Errorf("got %v %q of domain %q, outcome %q, message %q; want %v %q of domain %q, outcome %q",
			f.code, f.reason, f.domain, f.outcome, f.message, code, reason, "pairdb", outcome)
	}
}

// eventually waits until ok, which must come soon.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

var errUnexpected = errors.New("the storage engine spoke in tongues")
