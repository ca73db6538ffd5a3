package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// server is a coordinator whose answers a test chooses. A call that it has no
// function for is unimplemented.
type server struct {
	pb.UnimplementedCoordinatorServiceServer
	explain func(*pb.ExplainRequest) (*pb.ExplainResponse, error)
	write   func(context.Context, *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error)
	read    func(context.Context, *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error)
	delete  func(*pb.DeleteKeyValueRequest) (*pb.DeleteKeyValueResponse, error)
	keys    func(*pb.ListKeysRequest) (*pb.ListKeysResponse, error)
	other   func(request any) (any, error) // the rest

	unary     bool         // it has no Pipeline
	pipelined atomic.Int64 // operations that came through it
}

func (s *server) WriteKeyValue(ctx context.Context, q *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
	return s.write(ctx, q)
}

func (s *server) Explain(_ context.Context, q *pb.ExplainRequest) (*pb.ExplainResponse, error) {
	return s.explain(q)
}

func (s *server) ReadKeyValue(ctx context.Context, q *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
	return s.read(ctx, q)
}

func (s *server) DeleteKeyValue(_ context.Context, q *pb.DeleteKeyValueRequest) (*pb.DeleteKeyValueResponse, error) {
	return s.delete(q)
}

func (s *server) ListKeys(_ context.Context, q *pb.ListKeysRequest) (*pb.ListKeysResponse, error) {
	return s.keys(q)
}

// ScanKeys sends the pages of ListKeys.
func (s *server) ScanKeys(q *pb.ScanKeysRequest, stream grpc.ServerStreamingServer[pb.ScanKeysResponse]) error {
	for token := q.GetResumeToken(); ; {
		page, err := s.keys(&pb.ListKeysRequest{TenantId: q.GetTenantId(), Prefix: q.GetPrefix(), PageToken: token})
		if err != nil {
			return err
		}
		token = page.GetNextPageToken()
		if err := stream.Send(&pb.ScanKeysResponse{Keys: page.GetKeys(), ResumeToken: token}); err != nil || token == "" {
			return err
		}
	}
}

// Pipeline answers as the calls of their own do.
func (s *server) Pipeline(stream grpc.BidiStreamingServer[pb.PipelineRequest, pb.PipelineResponse]) error {
	if s.unary {
		return s.UnimplementedCoordinatorServiceServer.Pipeline(stream)
	}
	var sending sync.Mutex
	var answering sync.WaitGroup
	defer answering.Wait()
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		s.pipelined.Add(int64(len(request.GetOperations())))
		for _, op := range request.GetOperations() {
			answering.Go(func() {
				a := s.answer(stream.Context(), op)
				sending.Lock()
				defer sending.Unlock()
				_ = stream.Send(&pb.PipelineResponse{Answers: []*pb.PipelineAnswer{a}}) // to whoever is still there
			})
		}
	}
}

func (s *server) answer(ctx context.Context, op *pb.PipelineOperation) *pb.PipelineAnswer {
	a := &pb.PipelineAnswer{Id: op.GetId()}
	var err error
	if op.GetKind() == pb.PipelineOperation_KIND_READ {
		var r *pb.ReadKeyValueResponse
		r, err = s.read(ctx, &pb.ReadKeyValueRequest{TenantId: op.GetTenantId(), Key: op.GetKey(), Consistency: op.GetConsistency()})
		a.Value = r.GetValue()
	} else {
		_, err = s.write(ctx, &pb.WriteKeyValueRequest{TenantId: op.GetTenantId(), Key: op.GetKey(), Value: op.GetValue(),
			Consistency: op.GetConsistency(), IdempotencyKey: op.GetIdempotencyKey()})
	}
	if err != nil {
		told := status.Convert(err)
		reason, outcome := details(told)
		a.Status = &pb.OperationStatus{Code: int32(told.Code()), Reason: reason, Message: told.Message(), Outcome: outcome}
	}
	return a
}

// start serves s until the test ends, and returns its address.
func (s *server) start(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes), grpc.UnaryInterceptor(
		func(ctx context.Context, q any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if s.other != nil {
				return s.other(q)
			}
			return next(ctx, q)
		}))
	pb.RegisterCoordinatorServiceServer(g, s)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// outcome is what a command left behind.
type outcome struct {
	code        int
	out, stderr string
}

// run runs a command line against the coordinator at addr.
func run(t *testing.T, addr, stdin string, args ...string) outcome {
	t.Helper()
	var out, stderr bytes.Buffer
	env := Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &stderr, Version: "1.2.3", Commit: "abc",
		Getenv: func(name string) string {
			return map[string]string{"COORDINATOR_ADDR": addr, "COORDINATOR_TOKEN": "from-env"}[name]
		},
	}
	code := Run(t.Context(), args, env)
	return outcome{code, out.String(), stderr.String()}
}

func (o outcome) expect(t *testing.T, code int, out, stderr string) {
	t.Helper()
	if o.code != code || o.out != out || o.stderr != stderr {
		t.Errorf("got exit %d\nout: %q\nerr: %q\nwant exit %d\nout: %q\nerr: %q", o.code, o.out, o.stderr, code, out, stderr)
	}
}

func failure(code codes.Code, reason, outcome, message string) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "pairdb"}
	if outcome != "" {
		info.Metadata = map[string]string{"outcome": outcome}
	}
	s, err := status.New(code, message).WithDetails(info)
	if err != nil {
		return err
	}
	return s.Err()
}

// store is a coordinator over a map, for one tenant.
type store struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (s *store) server() *server {
	return &server{
		write: func(_ context.Context, q *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.values[q.GetKey()] = q.GetValue()
			return &pb.WriteKeyValueResponse{Success: true, Key: q.GetKey(), ReplicaCount: 2, Consistency: "quorum"}, nil
		},
		read: func(_ context.Context, q *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			value, ok := s.values[q.GetKey()]
			if !ok {
				return nil, failure(codes.NotFound, "KEY_NOT_FOUND", "", "key not found")
			}
			return &pb.ReadKeyValueResponse{Success: true, Key: q.GetKey(), Value: value}, nil
		},
		delete: func(q *pb.DeleteKeyValueRequest) (*pb.DeleteKeyValueResponse, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.values, q.GetKey())
			return &pb.DeleteKeyValueResponse{Success: true, Key: q.GetKey(), ReplicaCount: 1, Consistency: "one", IsDuplicate: true}, nil
		},
		keys: func(q *pb.ListKeysRequest) (*pb.ListKeysResponse, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			var keys []string
			for key := range s.values {
				if strings.HasPrefix(key, q.GetPrefix()) && key > q.GetPageToken() {
					keys = append(keys, key)
				}
			}
			slices.Sort(keys)
			const page = 3
			if len(keys) <= page {
				return &pb.ListKeysResponse{Keys: keys}, nil
			}
			return &pb.ListKeysResponse{Keys: keys[:page], NextPageToken: keys[page-1]}, nil
		},
	}
}

func newStore(values ...string) *store {
	s := &store{values: map[string][]byte{}}
	for i := 0; i < len(values); i += 2 {
		s.values[values[i]] = []byte(values[i+1])
	}
	return s
}

func TestPutGetDelete(t *testing.T) {
	s := newStore()
	addr := s.server().start(t)
	run(t, addr, "", "put", "k", "v").expect(t, 0, "stored k at quorum: 2 replicas\n", "")
	run(t, addr, "", "get", "k").expect(t, 0, "v", "")
	binary := "a\x00b\nc\xff\n"
	run(t, addr, binary, "put", "k", "-").expect(t, 0, "stored k at quorum: 2 replicas\n", "")
	run(t, addr, "", "get", "k").expect(t, 0, binary, "")
	run(t, addr, "", "put", "empty", "").expect(t, 0, "stored empty at quorum: 2 replicas\n", "")
	run(t, addr, "", "get", "empty").expect(t, 0, "", "")
	run(t, addr, "", "delete", "k").expect(t, 0, "deleted k at one: 1 replica, by an earlier attempt\n", "")
	run(t, addr, "", "get", "k").expect(t, 3, "", "error: key not found (KEY_NOT_FOUND)\n")
	run(t, addr, strings.Repeat("x", maxValueBytes+1), "put", "k", "-").
		expect(t, 1, "", "error: the value on standard input is more than 10485760 bytes\n")
}

func TestJSONAnswers(t *testing.T) {
	addr := newStore("k", "\xff\x00").server().start(t)
	o := run(t, addr, "", "get", "-json", "k")
	var got map[string]any
	if err := json.Unmarshal([]byte(o.out), &got); err != nil || o.code != 0 {
		t.Fatalf("%v: %+v", err, o)
	}
	if got["key"] != "k" || got["value"] != "/wA=" || got["success"] != true || got["updated_at"] != "0" {
		t.Errorf("answer %v", got)
	}
}

// Flags stand anywhere, with one dash or two, until "--".
func TestFlagsAnywhere(t *testing.T) {
	var got *pb.WriteKeyValueRequest
	s := &server{write: func(_ context.Context, q *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
		got = q
		return &pb.WriteKeyValueResponse{}, nil
	}}
	addr := s.start(t)
	for _, line := range [][]string{
		{"put", "-tenant", "t", "--consistency=all", "-idempotency-key=i", "-k", "-v"},
		{"put", "-tenant=t", "-consistency", "all", "-idempotency-key", "i", "--", "-k", "-v"},
		{"put", "--tenant", "t", "-consistency", "all", "--idempotency-key=i", "--", "-k", "-v"},
		{"put", "-tenant", "t", "k", "-consistency", "all", "v", "--idempotency-key", "i"},
		{"put", "k", "-tenant", "t", "-consistency", "all", "-idempotency-key", "i", "--", "-v"},
	} {
		got = nil
		o := run(t, addr, "", line...)
		if slices.Contains(line, "-k") && !slices.Contains(line, "--") {
			if o.code != 2 || !strings.Contains(o.stderr, "put -- before arguments that begin with a dash") {
				t.Errorf("%q: %+v", line, o)
			}
			continue
		}
		if o.code != 0 || got.GetTenantId() != "t" || got.GetConsistency() != "all" || got.GetIdempotencyKey() != "i" ||
			strings.Trim(got.GetKey(), "-") != "k" || strings.Trim(string(got.GetValue()), "-") != "v" {
			t.Errorf("%q: %+v, sent %v", line, o, got)
		}
	}
	run(t, addr, "", "put", "k", "v")
	if got.GetTenantId() != "default" || got.GetConsistency() != "" || got.GetIdempotencyKey() != "" {
		t.Errorf("defaults: %v", got)
	}
}

func TestWrongUsage(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"", "error: no command"},
		{"frobnicate", `error: unknown command "frobnicate"`},
		{"tenant", "error: tenant needs a command"},
		{"tenant frobnicate", `error: unknown command "tenant frobnicate"`},
		{"put k", "error: put takes 2 arguments, KEY VALUE, got 1\nUsage: coordinator put [flags] KEY VALUE; -h tells more.\n"},
		{"get", "error: get takes 1 argument, KEY, got 0"},
		{"get a b", "error: get takes 1 argument, KEY, got 2"},
		{"status now", "error: status takes no arguments, got 1"},
		{"get -nope k", "error: flag provided but not defined: -nope"},
		{"get -addr", "error: flag needs an argument: -addr"},
		{"get -addr nowhere k", `error: -addr "nowhere" is not HOST:PORT`},
		{"get -consistency most k", `error: -consistency "most" is unknown, want one, quorum or all`},
		{"get -timeout soon k", "error: invalid value \"soon\" for flag -timeout"},
		{"get -timeout 0s k", "error: -timeout must be above 0"},
		{"get -cert c.pem k", "error: -cert and -key go together"},
		{"tenant create -rf many t", "error: invalid value \"many\" for flag -rf"},
		{"tenant create -rf 3000000000 t", "error: -rf must be a whole number"},
		{"tenant set-rf t many", `error: N must be a whole number, not "many"`},
		{"node add n nowhere", `error: "nowhere" is not HOST:PORT`},
		{"node add n h:0", "error: \"h:0\" is not HOST:PORT with a port from 1 to 65535"},
		{"load -concurrency 0 -", "error: -concurrency must be between 1 and 10000"},
		{"dump -concurrency 0", "error: -concurrency must be between 1 and 10000"},
		{"bench -mix most", "error: -mix must be write, read, mixed or a percentage"},
		{"bench -mix 101", "error: -mix must be write, read, mixed or a percentage"},
		{"bench -workers 0", "error: -workers must be between 1 and 1000"},
		{"bench -duration 0s", "error: -duration must be above 0"},
		{"version -addr x:1", "error: flag provided but not defined: -addr"},
	} {
		o := run(t, "127.0.0.1:1", "", strings.Fields(test.line)...)
		if o.code != ExitUsage || o.out != "" || !strings.HasPrefix(o.stderr, test.want) {
			t.Errorf("%q: %+v, want exit 2 and %s", test.line, o, test.want)
		}
	}
}

func TestHelpEverywhere(t *testing.T) {
	lines := []string{"", "tenant ", "node ", "migration "}
	for _, c := range commands() {
		lines = append(lines, c.name+" ")
	}
	for _, line := range lines {
		for _, help := range []string{"-h", "--help", "-help"} {
			args := append(strings.Fields(line), help)
			o := run(t, "127.0.0.1:1", "", args...)
			if o.code != 0 || o.stderr != "" || !strings.HasPrefix(o.out, "Usage: coordinator "+strings.TrimSpace(line)) {
				t.Errorf("%q: %+v", args, o)
			}
		}
	}
	o := run(t, "127.0.0.1:1", "", "get", "k", "-h")
	for _, want := range []string{"Print a value", "-consistency LEVEL", "-addr HOST:PORT", `(default "127.0.0.1:1")`} {
		if !strings.Contains(o.out, want) {
			t.Errorf("get -h does not say %q:\n%s", want, o.out)
		}
	}
	if strings.Contains(o.out, "from-env") {
		t.Error("get -h shows the token")
	}
}

func TestErrorsSayReasonAndOutcome(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
		want string
	}{
		{failure(codes.Unavailable, "QUORUM_NOT_REACHED", "in_doubt", "write at quorum: 1 of 2 required\nreplicas answered"), 1,
			"error: write at quorum: 1 of 2 required replicas answered (QUORUM_NOT_REACHED, outcome in_doubt: it may have taken effect, once, or not)\n"},
		{failure(codes.ResourceExhausted, "OVERLOADED", "not_applied", "overloaded"), 1,
			"error: overloaded (OVERLOADED, outcome not_applied: it had no effect)\n"},
		{failure(codes.NotFound, "TENANT_NOT_FOUND", "not_applied", "tenant not found"), 3,
			"error: tenant not found (TENANT_NOT_FOUND, outcome not_applied: it had no effect)\n"},
		{status.Error(codes.Internal, "bug"), 1, "error: bug (INTERNAL)\n"},
		{status.Error(codes.Unimplemented, "not yet"), 1, "error: not yet (UNIMPLEMENTED)\n"},
	} {
		s := &server{write: func(context.Context, *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
			return nil, test.err
		}}
		run(t, s.start(t), "", "put", "k", "v").expect(t, test.code, "", test.want)
	}
}

func TestUnreachableCoordinatorIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	o := run(t, addr, "", "get", "k")
	if o.code != 1 || strings.Count(o.stderr, "\n") != 1 ||
		!strings.HasPrefix(o.stderr, "error: cannot reach the coordinator at "+addr+": ") || !strings.Contains(o.stderr, "-addr") {
		t.Errorf("%+v", o)
	}
}

func TestSlowCoordinatorTimesOut(t *testing.T) {
	s := &server{write: func(ctx context.Context, _ *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	addr := s.start(t)
	run(t, addr, "", "put", "-timeout", "50ms", "k", "v").
		expect(t, 1, "", "error: no answer from "+addr+" within 50ms (-timeout); a write may have taken effect or not\n")
}

func TestInterruptedCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &server{write: func(ctx context.Context, _ *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	addr := s.start(t)
	for _, line := range [][]string{{"put", "k", "v"}, {"put", "k", "-"}, {"load", "-"}} {
		stdin, never := io.Pipe() // nothing comes
		var stderr bytes.Buffer
		code := Run(ctx, line, Env{
			Stdin: stdin, Stdout: io.Discard, Stderr: &stderr, Getenv: func(string) string { return addr },
		})
		if code != 1 || !strings.HasSuffix(stderr.String(), "error: interrupted\n") {
			t.Errorf("%q: exit %d, %s", line, code, &stderr)
		}
		never.Close()
	}
}

func TestTokens(t *testing.T) {
	var got []string
	s := &server{read: func(ctx context.Context, _ *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		got = md.Get("authorization")
		return &pb.ReadKeyValueResponse{}, nil
	}}
	addr := s.start(t)
	run(t, addr, "", "get", "k").expect(t, 0, "", "")
	if !slices.Equal(got, []string{"Bearer from-env"}) {
		t.Errorf("authorization %q", got)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(" from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, addr, "", "get", "-token-file", file, "k").expect(t, 0, "", "")
	if !slices.Equal(got, []string{"Bearer from-file"}) {
		t.Errorf("authorization %q", got)
	}
	if o := run(t, addr, "", "get", "-token-file", file+".absent", "k"); o.code != 1 || !strings.Contains(o.stderr, "read -token-file") {
		t.Errorf("%+v", o)
	}
	if o := run(t, addr, "", "get", "-ca", file, "k"); o.code != 1 || !strings.Contains(o.stderr, "no PEM certificate") {
		t.Errorf("%+v", o)
	}
}

// What the commands for tenants, nodes, migrations and status send and print.
func TestAdministration(t *testing.T) {
	node := &pb.StorageNodeInfo{NodeId: "storage-1", Host: "10.0.0.1", Port: 7000, Status: "active", VirtualNodes: 150, KeysCount: 12, DiskUsagePercent: 3.25}
	migration := &pb.GetMigrationStatusResponse{MigrationId: "m1", Type: "node_addition", NodeId: "storage-4", Status: "in_progress",
		Progress: &pb.MigrationProgress{KeysMigrated: 5, TotalKeys: 10, Percentage: 50}, StartedAt: 1767225600}
	tenant := &pb.GetTenantResponse{TenantId: "t", ReplicationFactor: 3, CreatedAt: 1767225600, UpdatedAt: 1767225601}
	const migrations = "MIGRATION   TYPE            SUBJECT     STATUS        KEYS   OF   DONE    STARTED                ENDS   NOTE\n" +
		"m1          node_addition   storage-4   in_progress   5      10   50.0%   2026-01-01T00:00:00Z   -      -\n"
	tests := []struct {
		line   string
		answer any
		sent   string
		out    string
	}{
		{"tenant create t -rf 5", &pb.CreateTenantResponse{TenantId: "t", ReplicationFactor: 5},
			`tenant_id:"t" replication_factor:5`, "created tenant t, replication factor 5\n"},
		{"tenant create t", &pb.CreateTenantResponse{TenantId: "t", ReplicationFactor: 3},
			`tenant_id:"t"`, "created tenant t, replication factor 3\n"},
		{"tenant get t", tenant, `tenant_id:"t"`, "TENANT   REPLICATION FACTOR   CREATED                UPDATED\n" +
			"t        3                    2026-01-01T00:00:00Z   2026-01-01T00:00:01Z\n"},
		{"tenant list", &pb.ListTenantsResponse{Tenants: []*pb.GetTenantResponse{tenant}}, `page_size:500`,
			"TENANT   REPLICATION FACTOR   CREATED                UPDATED\n" +
				"t        3                    2026-01-01T00:00:00Z   2026-01-01T00:00:01Z\n"},
		{"tenant set-rf t 2", &pb.UpdateReplicationFactorResponse{TenantId: "t", OldReplicationFactor: 3, NewReplicationFactor: 2, MigrationId: "m1"},
			`tenant_id:"t" new_replication_factor:2`, "tenant t: replication factor 2, was 3; migration m1\n"},
		{"tenant delete t", &pb.DeleteTenantResponse{}, `tenant_id:"t"`, "deleted tenant t\n"},
		{"node add n 10.0.0.1:7000 -virtual-nodes 9", &pb.AddStorageNodeResponse{NodeId: "n", MigrationId: "m1"},
			`node_id:"n" host:"10.0.0.1" port:7000 virtual_nodes:9`, "adding node n; migration m1\n"},
		{"node remove n -force", &pb.RemoveStorageNodeResponse{NodeId: "n", Message: "n is given up"},
			`node_id:"n" force:true`, "n is given up\n"},
		{"node list", &pb.ListStorageNodesResponse{Nodes: []*pb.StorageNodeInfo{node}}, ``,
			"NODE        ADDRESS         STATUS   VIRTUAL NODES   KEYS   DISK\n" +
				"storage-1   10.0.0.1:7000   active   150             12     3.2%\n"},
		{"migration status m1", migration, `migration_id:"m1"`, migrations},
		{"migration list", &pb.ListMigrationsResponse{Migrations: []*pb.GetMigrationStatusResponse{migration}}, ``, migrations},
		{"migration cancel m1", &pb.CancelMigrationResponse{}, `migration_id:"m1"`, "cancelled migration m1\n"},
		{"status", &pb.GetStatusResponse{NodeId: "coordinator-1", Version: "9", Incarnation: 2, Epoch: 4, StartedAt: 1767225600, InFlight: 1,
			Nodes: []*pb.NodeStatus{{Node: node, Reachable: true, LatencyUs: 1500}, {Node: node, UnavailableReason: "refused"}}}, ``,
			"coordinator   coordinator-1\nversion       9\nincarnation   2\nstarted       2026-01-01T00:00:00Z\nring epoch    4\nin flight     1\n\n" +
				"NODE        ADDRESS         STATUS   VIRTUAL NODES   KEYS   DISK   HINTS   OLDEST   OWED   REACHABLE     LATENCY\n" +
				"storage-1   10.0.0.1:7000   active   150             12     3.2%   0       -        0      yes           1.5ms\n" +
				"storage-1   10.0.0.1:7000   active   150             12     3.2%   0       -        0      no: refused   -\n"},
	}
	for _, test := range tests {
		t.Run(test.line, func(t *testing.T) {
			var sent string
			addr := (&server{other: func(q any) (any, error) { sent = fmt.Sprint(q); return test.answer, nil }}).start(t)
			run(t, addr, "", strings.Fields(test.line)...).expect(t, 0, test.out, "")
			if strings.Join(strings.Fields(sent), " ") != test.sent {
				t.Errorf("sent %s, want %s", sent, test.sent)
			}
			if o := run(t, addr, "", append(strings.Fields(test.line), "-json")...); o.code != 0 || !json.Valid([]byte(o.out)) {
				t.Errorf("-json: %+v", o)
			}
		})
	}
}

func TestTenantListFollowsPages(t *testing.T) {
	addr := (&server{other: func(q any) (any, error) {
		page, _ := strconv.Atoi(q.(*pb.ListTenantsRequest).GetPageToken())
		a := &pb.ListTenantsResponse{Tenants: []*pb.GetTenantResponse{{TenantId: fmt.Sprintf("t%d", page)}}}
		if page < 2 {
			a.NextPageToken = strconv.Itoa(page + 1)
		}
		return a, nil
	}}).start(t)
	var got struct {
		Tenants []struct {
			TenantID string `json:"tenant_id"`
		} `json:"tenants"`
	}
	o := run(t, addr, "", "tenant", "list", "-json")
	if err := json.Unmarshal([]byte(o.out), &got); err != nil || len(got.Tenants) != 3 || got.Tenants[2].TenantID != "t2" {
		t.Errorf("%v: %+v", err, o)
	}
}

func TestVersion(t *testing.T) {
	o := run(t, "", "", "version")
	if o.code != 0 || !strings.HasPrefix(o.out, "coordinator 1.2.3 (commit abc, go1.") {
		t.Errorf("%+v", o)
	}
	if !Has("version") || !Has("tenant") || Has("tenant create") || Has("storage") {
		t.Error("Has is wrong")
	}
}

var weird = []string{
	"plain", "value",
	"empty", "",
	"newline\nkey", "a\nb\r\n",
	`quote"\`, `"\ </script>`,
	"binary", "\x00\xff\xfe",
	"almost text", "ok \xc3",
	"unicode \u2028 \U0001F600", "\u2028\u2029\uFFFD\u0000",
	"z/last", strings.Repeat("x", 1<<20),
}

func TestDumpAndLoadRoundTrip(t *testing.T) {
	for name, unary := range map[string]bool{"pipelined": false, "with a coordinator that has no Pipeline": true} {
		t.Run(name, func(t *testing.T) { dumpAndLoad(t, unary) })
	}
}

func dumpAndLoad(t *testing.T, unary bool) {
	from := newStore(weird...)
	source := from.server()
	source.unary = unary
	addr := source.start(t)
	file := filepath.Join(t.TempDir(), "dump.jsonl")
	if o := run(t, addr, "", "dump", "-o", file, "-concurrency", "2"); o.code != 0 || !strings.HasPrefix(o.stderr, "8 records, 1.0 MiB, ") {
		t.Fatalf("%+v", o)
	}
	direct := run(t, addr, "", "dump")
	if written, err := os.ReadFile(file); err != nil || string(written) != direct.out || direct.code != 0 || direct.stderr != "" {
		t.Errorf("%v: -o and standard output differ", err)
	}
	to := newStore()
	target := to.server()
	target.unary = unary
	toAddr := target.start(t)
	if o := run(t, toAddr, "", "load", file); o.code != 0 || !strings.HasPrefix(o.stderr, "8 records, 1.0 MiB, ") {
		t.Fatalf("%+v", o)
	}
	expectSame := func() {
		t.Helper()
		if len(to.values) != len(from.values) {
			t.Errorf("%d keys, want %d", len(to.values), len(from.values))
		}
		for key, value := range from.values {
			if !bytes.Equal(to.values[key], value) {
				t.Errorf("%q: %.40q, want %.40q", key, to.values[key], value)
			}
		}
	}
	expectSame()
	clear(to.values)
	if o := run(t, toAddr, direct.out, "load", "-"); o.code != 0 {
		t.Fatalf("%+v", o)
	}
	expectSame()
	if read, written := source.pipelined.Load(), target.pipelined.Load(); !unary && (read != 16 || written < 14) {
		t.Errorf("%d reads and %d writes were pipelined, want 16 and nearly as many", read, written)
	}
}

func TestDumpKeepsOrderAndSkipsDeletedKeys(t *testing.T) {
	s := newStore()
	var want strings.Builder
	for i := range 20 {
		key := fmt.Sprintf("p/%02d", i)
		s.values[key] = []byte("v")
		if i != 7 {
			fmt.Fprintf(&want, "{\"key\":%q,\"value\":\"v\"}\n", key)
		}
	}
	s.values["other"] = []byte("v")
	srv := s.server()
	read := srv.read
	srv.read = func(ctx context.Context, q *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
		if q.GetKey() == "p/07" {
			return nil, failure(codes.NotFound, "KEY_NOT_FOUND", "", "key not found")
		}
		return read(ctx, q)
	}
	run(t, srv.start(t), "", "dump", "-prefix", "p/", "-concurrency", "5").expect(t, 0, want.String(), "")
}

func TestFailedDumpLeavesNoFile(t *testing.T) {
	s := newStore("a", "1", "b", "2").server()
	s.read = func(context.Context, *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
		return nil, failure(codes.Internal, "INTERNAL", "", "bug")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "dump.jsonl")
	if err := os.WriteFile(file, []byte("the one before"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := run(t, s.start(t), "", "dump", "-o", file)
	if o.code != 1 || o.stderr != "error: read \"a\": bug (INTERNAL)\n" {
		t.Errorf("%+v", o)
	}
	entries, err := os.ReadDir(dir)
	if text, _ := os.ReadFile(file); err != nil || len(entries) != 1 || string(text) != "the one before" {
		t.Errorf("%v: %v, %q", err, entries, text)
	}
}

func TestDumpOfAbsentTenant(t *testing.T) {
	s := &server{keys: func(*pb.ListKeysRequest) (*pb.ListKeysResponse, error) {
		return nil, failure(codes.NotFound, "TENANT_NOT_FOUND", "", "tenant not found")
	}}
	run(t, s.start(t), "", "dump").expect(t, 3, "", "error: tenant not found (TENANT_NOT_FOUND)\n")
}

func TestLoadNamesBadLines(t *testing.T) {
	s := newStore()
	input := strings.Join([]string{
		`{"key":"a","value":"1"}`, // 1
		``,                        // 2: skipped
		`{"key":"b"}`,             // 3
		`{"key":"","value":"1"}`,  // 4
		`{"key":"c","value":"1","value_base64":"MQ=="}`,                   // 5
		`{"key":"d","value_base64":"!"}`,                                  // 6
		`not json`,                                                        // 7
		`{"key":"e","value":"1"} x`,                                       // 8
		"{\"key\":\"f\",\"value\":\"\xff\"}",                              // 9
		`{"key":"g","value":"` + strings.Repeat("x", maxLineBytes) + `"}`, // 10
		`{"key":"h","value":"last"}`,                                      // 11, without a newline
	}, "\n")
	o := run(t, s.server().start(t), input, "load", "-concurrency", "1", "-")
	if o.code != 1 || len(s.values) != 2 || string(s.values["h"]) != "last" {
		t.Errorf("exit %d, %d keys: %s", o.code, len(s.values), o.stderr)
	}
	for _, want := range []string{
		`line 3: want either "value" or "value_base64"`, `line 4: "key" is missing or empty`, `line 5: want either`,
		`line 6: "value_base64": illegal base64`, `line 7: not a JSON record`, `line 8: not a JSON record`,
		`line 9: not valid UTF-8`, `line 10: longer than 16777216 bytes`,
		"\n2 records, ", ", 8 failed\n", "error: 8 records were not loaded\n",
	} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("missing %q in:\n%s", want, o.stderr)
		}
	}
}

func TestLoadKeepsTheOrderOfAKey(t *testing.T) {
	s := newStore()
	var input strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&input, "{\"key\":\"k%d\",\"value\":\"%d\"}\n", i%10, i)
	}
	if o := run(t, s.server().start(t), input.String(), "load", "-"); o.code != 0 {
		t.Fatalf("%+v", o)
	}
	for i := range 10 {
		if got, want := string(s.values[fmt.Sprintf("k%d", i)]), strconv.Itoa(1990+i); got != want {
			t.Errorf("k%d = %s, want %s", i, got, want)
		}
	}
}

func TestLoadRetriesWhatIsSafe(t *testing.T) {
	s := newStore()
	srv := s.server()
	write := srv.write
	var mu sync.Mutex
	tries := map[string]int{}
	srv.write = func(ctx context.Context, q *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
		mu.Lock()
		tries[q.GetKey()]++
		n := tries[q.GetKey()]
		mu.Unlock()
		switch {
		case q.GetKey() == "shed" && n < 3:
			return nil, failure(codes.ResourceExhausted, "OVERLOADED", "not_applied", "overloaded")
		case q.GetKey() == "doubt" && n < 2:
			return nil, failure(codes.Unavailable, "QUORUM_NOT_REACHED", "in_doubt", "1 of 2")
		case q.GetKey() == "bad":
			return nil, failure(codes.InvalidArgument, "INVALID_REQUEST", "not_applied", "key is bad")
		}
		return write(ctx, q)
	}
	o := run(t, srv.start(t), `{"key":"shed","value":"1"}
{"key":"doubt","value":"2"}
{"key":"bad","value":"3"}
`, "load", "-")
	if o.code != 1 || tries["shed"] != 3 || tries["doubt"] != 2 || tries["bad"] != 1 || len(s.values) != 2 {
		t.Errorf("tries %v, %+v", tries, o)
	}
	if !strings.Contains(o.stderr, "line 3: key is bad (INVALID_REQUEST, outcome not_applied: it had no effect)\n") {
		t.Error(o.stderr)
	}
}

func TestLoadStopsAfterTooManyErrors(t *testing.T) {
	var input strings.Builder
	for i := range 500 {
		fmt.Fprintf(&input, "{\"key\":\"k%d\"}\n", i)
	}
	input.WriteString("{\"key\":\"good\",\"value\":\"\"}\n")
	s := newStore()
	o := run(t, s.server().start(t), input.String(), "load", "-max-errors", "50", "-")
	if o.code != 1 || !strings.Contains(o.stderr, "error: stopped after ") || len(s.values) != 0 {
		t.Errorf("%+v", o)
	}
	if n := strings.Count(o.stderr, "\nline ") + 1; n != printedErrors {
		t.Errorf("%d errors printed, want %d", n, printedErrors)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		in := &invocation{Env: Env{Stderr: &out, IsTerminal: true}}
		counts := &tally{start: time.Now()}
		counts.records.Store(7)
		stop := in.show(counts)
		<-time.After(2500 * time.Millisecond)
		stop()
		want := "\r\x1b[K7 records, 0 bytes, 7 records/s, 1s\r\x1b[K7 records, 0 bytes, 4 records/s, 2s\r\x1b[K"
		if out.String() != want {
			t.Errorf("printed %q, want %q", &out, want)
		}
	})
}

func TestBench(t *testing.T) {
	s := newStore()
	srv := s.server()
	addr := srv.start(t)
	for _, mix := range []string{"write", "read", "mixed", "90", "mixed -pipeline"} {
		before := srv.pipelined.Load()
		o := run(t, addr, "", append([]string{"bench", "-duration", "100ms", "-workers", "4", "-connections", "2", "-keys", "50",
			"-value-size", "10", "-json", "-mix"}, strings.Fields(mix)...)...)
		if pipelined := srv.pipelined.Load() > before; pipelined != strings.HasSuffix(mix, "-pipeline") {
			t.Errorf("%s: %d operations were pipelined", mix, srv.pipelined.Load()-before)
		}
		var report struct {
			Seconds    float64     `json:"seconds"`
			Operations []benchLine `json:"operations"`
		}
		if err := json.Unmarshal([]byte(o.out), &report); err != nil || o.code != 0 {
			t.Fatalf("%s: %v: %+v", mix, err, o)
		}
		want := map[string]int{"write": 1, "read": 1, "mixed": 2, "90": 2, "mixed -pipeline": 2}[mix]
		if len(report.Operations) != want || report.Seconds < 0.1 {
			t.Fatalf("%s: %+v", mix, report)
		}
		for _, l := range report.Operations {
			if l.Count == 0 || l.P50Micros == 0 || l.P99Micros < l.P50Micros || l.MaxMicros < l.P999Micros || l.OpsPerSecond == 0 {
				t.Errorf("%s: %+v", mix, l)
			}
		}
	}
	if len(s.values) != 50 || len(s.values["bench-0"]) != 10 {
		t.Errorf("%d keys", len(s.values))
	}
}

func TestBenchAtASetRate(t *testing.T) {
	o := run(t, newStore().server().start(t), "", "bench", "-duration", "200ms", "-workers", "4", "-mix", "write", "-rate", "100")
	fields := strings.Fields(strings.Split(o.out, "\n")[1])
	if o.code != 0 || fields[0] != "write" || fields[1] != "20" {
		t.Errorf("want 20 writes: %+v", o)
	}
}

func TestBenchCountsErrors(t *testing.T) {
	s := &server{write: func(context.Context, *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
		return nil, failure(codes.NotFound, "TENANT_NOT_FOUND", "not_applied", "tenant not found")
	}}
	addr := s.start(t)
	o := run(t, addr, "", "bench", "-duration", "50ms", "-workers", "2", "-mix", "write")
	if o.code != 1 || !strings.Contains(o.out, "write failed with TENANT_NOT_FOUND: ") || !strings.Contains(o.stderr, "requests failed") {
		t.Errorf("%+v", o)
	}
	if o := run(t, addr, "", "bench", "-mix", "read", "-keys", "5"); o.code != 3 || !strings.Contains(o.stderr, "TENANT_NOT_FOUND") {
		t.Errorf("%+v", o)
	}
}

func TestOutputThatCannotBeWrittenIsAFailure(t *testing.T) {
	addr := newStore("k", "v").server().start(t)
	for _, line := range []string{"get k", "get -json k", "dump", "put k v"} {
		var stderr bytes.Buffer
		code := Run(t.Context(), strings.Fields(line), Env{
			Stdin: strings.NewReader(""), Stdout: brokenPipe{}, Stderr: &stderr, Getenv: func(string) string { return addr },
		})
		if code != 1 || !strings.Contains(stderr.String(), "broken pipe") {
			t.Errorf("%s: exit %d, %s", line, code, &stderr)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func FuzzRecord(f *testing.F) {
	for i := 0; i < len(weird)-2; i += 2 {
		f.Add(weird[i], []byte(weird[i+1]))
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		var line bytes.Buffer
		key = strings.ToValidUTF8(key, "?")
		if err := encodeRecord(&line, key, value); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(line.Bytes(), []byte("\n")); n != 1 {
			t.Fatalf("%d lines", n)
		}
		gotKey, gotValue, err := decodeRecord(bytes.TrimSpace(line.Bytes()))
		if key == "" {
			if err == nil {
				t.Fatal("an empty key was taken")
			}
			return
		}
		if err != nil || gotKey != key || !bytes.Equal(gotValue, value) {
			t.Fatalf("%q %q came back as %q %q, %v", key, value, gotKey, gotValue, err)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"key":"k","value":"v"}`))
	f.Add([]byte(`{"key":"k","value_base64":"AA=="}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if key, _, err := decodeRecord(line); err == nil && key == "" {
			t.Fatal("neither a key nor an error")
		}
	})
}
