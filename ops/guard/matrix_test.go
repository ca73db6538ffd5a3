package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/config"
	"github.com/pairdb/coordinator/rpc"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
	"github.com/pairdb/coordinator/rpc/coordinatorpb/legacypb"
)

// rules says for every RPC who may call it: those with the request's tenant,
// those with the admin role, or everybody with a good token. A new RPC needs
// a row, here and in the server.
var rules = map[string]struct{ tenant, admin, anyone bool }{
	"WriteKeyValue":           {tenant: true},
	"ReadKeyValue":            {tenant: true},
	"DeleteKeyValue":          {tenant: true},
	"Pipeline":                {tenant: true},
	"BatchWrite":              {tenant: true},
	"BatchRead":               {tenant: true},
	"ListKeys":                {tenant: true},
	"Explain":                 {tenant: true, admin: true},
	"ScanKeys":                {tenant: true},
	"CreateTenant":            {admin: true},
	"UpdateReplicationFactor": {admin: true},
	"GetTenant":               {tenant: true, admin: true},
	"ListTenants":             {admin: true},
	"DeleteTenant":            {admin: true},
	"GetTenantLimits":         {admin: true},
	"SetTenantLimits":         {admin: true},
	"AddStorageNode":          {admin: true},
	"RemoveStorageNode":       {admin: true},
	"ListStorageNodes":        {anyone: true},
	"GetMigrationStatus":      {admin: true},
	"ListMigrations":          {admin: true},
	"CancelMigration":         {admin: true},
	"PlanNodeChange":          {admin: true},
	"RepairReplicas":          {admin: true},
	"ExportVersions":          {admin: true},
	"ImportVersions":          {admin: true},
	"GetStatus":               {anyone: true},
}

const (
	ours, theirs = "acme", "evil"
	issuer       = "https://login.example.com"
	audience     = "pairdb"
)

// tokenKind is a token as it is sent, and what it is good for.
type tokenKind struct {
	name    string
	header  []string // of authorization
	good    bool
	tenants string // ours, theirs, * or none
	admin   bool
}

// engine counts what reaches it. It answers that metadata is unavailable, and
// what it was not made for is answered by a panic, which the server survives.
type engine struct {
	rpc.Engine
	reached atomic.Int64
}

var errReached = fmt.Errorf("%w: it was asked", coord.ErrMetadataUnavailable)

func (e *engine) note() error { e.reached.Add(1); return errReached }

func (e *engine) Write(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
	return coord.WriteResult{}, e.note()
}
func (e *engine) Read(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
	return coord.ReadResult{}, e.note()
}
func (e *engine) StartWrite(_ coord.WriteRequest, w coord.Waiter) {
	w.Written(coord.WriteResult{}, e.note())
}
func (e *engine) StartRead(_ coord.ReadRequest, w coord.Waiter) {
	w.Found(coord.ReadResult{}, e.note())
}
func (e *engine) Keys(context.Context, coord.KeysRequest) (coord.KeysPage, error) {
	return coord.KeysPage{}, e.note()
}
func (e *engine) Export(context.Context, coord.ExportRequest, func(coord.ExportPage) error) error {
	return e.note()
}
func (e *engine) Import(context.Context, string, []coord.KeyVersion) (coord.ImportResult, error) {
	return coord.ImportResult{}, e.note()
}
func (e *engine) CreateTenant(context.Context, string, int) (coord.Tenant, error) {
	return coord.Tenant{}, e.note()
}
func (e *engine) Tenant(context.Context, string) (coord.Tenant, error) {
	return coord.Tenant{}, e.note()
}
func (e *engine) Tenants(context.Context, string, int) ([]coord.Tenant, error) { return nil, e.note() }
func (e *engine) SetReplicationFactor(context.Context, string, int) (coord.Tenant, coord.Migration, error) {
	return coord.Tenant{}, coord.Migration{}, e.note()
}
func (e *engine) SetTenantLimits(context.Context, string, coord.LimitsChange) (coord.Tenant, error) {
	return coord.Tenant{}, e.note()
}
func (e *engine) KnownLimits(string) (coord.TenantLimits, bool) { return coord.TenantLimits{}, false }
func (e *engine) DeleteTenant(context.Context, string) error    { return e.note() }
func (e *engine) AddNode(context.Context, coord.StorageNode) (coord.Migration, error) {
	return coord.Migration{}, e.note()
}
func (e *engine) RemoveNode(context.Context, string, coord.Removal) (coord.Migration, error) {
	return coord.Migration{}, e.note()
}
func (e *engine) Explain(context.Context, string, string, coord.Level) (coord.Explanation, error) {
	return coord.Explanation{}, e.note()
}
func (e *engine) Plan(context.Context, coord.PlanRequest) (coord.Plan, error) {
	return coord.Plan{}, e.note()
}
func (e *engine) Migration(context.Context, string) (coord.MigrationState, error) {
	return coord.MigrationState{}, e.note()
}
func (e *engine) Migrations(context.Context) ([]coord.MigrationState, error) { return nil, e.note() }
func (e *engine) CancelMigration(context.Context, string) error              { return e.note() }
func (e *engine) Repair(context.Context, coord.RepairRequest, func(coord.RepairProgress)) error {
	return e.note()
}
func (e *engine) Nodes(context.Context) ([]coord.NodeState, error) { return nil, e.note() }
func (e *engine) Status(context.Context) coord.Status              { e.reached.Add(1); return coord.Status{} }

// ca signs certificates of any kind.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{cert, key}
}

func (a *ca) issue(t *testing.T, name string, ends time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(ends)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func writePEM(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func makeTokens(t *testing.T, key, revoked *ecdsa.PrivateKey) []tokenKind {
	t.Helper()
	now := time.Now()
	sign := func(method jwt.SigningMethod, kid string, key any, change jwt.MapClaims) []string {
		claims := jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "s", "tenant_id": ours,
			"exp": now.Add(time.Hour).Unix(), "nbf": now.Add(-time.Hour).Unix()}
		for name, value := range change {
			claims[name] = value
		}
		token := jwt.NewWithClaims(method, claims)
		token.Header["kid"] = kid
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"Bearer " + text}
	}
	es := func(change jwt.MapClaims) []string { return sign(jwt.SigningMethodES256, "now", key, change) }
	admin := jwt.MapClaims{"roles": []string{"admin"}, "tenant_id": nil}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := es(nil)
	return []tokenKind{
		{name: "no"},
		{name: "empty", header: []string{""}},
		{name: "another scheme", header: []string{"Basic " + good[0][7:]}},
		{name: "two", header: []string{good[0], es(admin)[0]}},
		{name: "expired", header: es(jwt.MapClaims{"exp": now.Add(-time.Hour).Unix()})},
		{name: "not yet valid", header: es(jwt.MapClaims{"nbf": now.Add(time.Hour).Unix()})},
		{name: "wrong algorithm", header: sign(jwt.SigningMethodHS256, "now", public, admin)},
		{name: "none", header: sign(jwt.SigningMethodNone, "now", jwt.UnsafeAllowNoneSignatureType, admin)},
		{name: "wrong audience", header: es(jwt.MapClaims{"aud": "billing"})},
		{name: "wrong issuer", header: es(jwt.MapClaims{"iss": "https://evil.example.com"})},
		{name: "revoked key", header: sign(jwt.SigningMethodES256, "before", revoked, admin)},
		{name: "other tenant", header: es(jwt.MapClaims{"tenant_id": theirs}), good: true, tenants: theirs},
		{name: "good tenant", header: good, good: true, tenants: ours},
		{name: "good admin", header: es(admin), good: true, admin: true},
		{name: "all tenants", header: es(jwt.MapClaims{"tenant_id": "*"}), good: true, tenants: "*"},
	}
}

// request fills in a request's fields by their names, so that it is valid.
func request(d protoreflect.MessageDescriptor) proto.Message {
	m := dynamicpb.NewMessage(d)
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		text := map[protoreflect.Name]string{
			"tenant_id": ours, "key": "k", "keys": "k", "node_id": "n", "migration_id": "m", "host": "10.0.0.1",
		}[f.Name()]
		switch {
		case d.Name() == "PlanNodeChangeRequest" && f.Name() == "remove": // one of the two is asked for
		case f.IsList() && f.Message() != nil:
			m.Mutable(f).List().Append(protoreflect.ValueOfMessage(request(f.Message()).ProtoReflect()))
		case f.IsList():
			m.Mutable(f).List().Append(protoreflect.ValueOfString(text))
		case f.Message() != nil:
			m.Set(f, protoreflect.ValueOfMessage(request(f.Message()).ProtoReflect()))
		case d.Name() == "StoredVersion" && f.Name() == "head":
			m.Set(f, protoreflect.ValueOfBytes(coord.AppendHead(nil, &coord.Head{Timestamp: 1, Writer: coord.Writer{ID: "c"}})))
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(text))
		case f.Kind() == protoreflect.Int32Kind && f.Name() != "page_size":
			m.Set(f, protoreflect.ValueOfInt32(3))
		case f.Kind() == protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(1))
		}
	}
	return m
}

// call makes an RPC and returns the code of its answer; of a batch or stream
// that of its only operation.
func call(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, full string) (codes.Code, string) {
	in := request(method.Input())
	out := dynamicpb.NewMessage(method.Output())
	var err error
	if method.IsStreamingClient() || method.IsStreamingServer() {
		var stream grpc.ClientStream
		if stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full); err == nil {
			_ = stream.SendMsg(in) // what went wrong shows in the answer
			_ = stream.CloseSend()
			err = stream.RecvMsg(out)
		}
	} else {
		err = conn.Invoke(ctx, full, in, out)
	}
	if err != nil {
		s := status.Convert(err)
		for _, d := range s.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok {
				return s.Code(), info.Reason
			}
		}
		return s.Code(), ""
	}
	// The status of the first operation, where the answer holds some.
	for _, list := range []protoreflect.Name{"results", "answers"} {
		f := out.Descriptor().Fields().ByName(list)
		if f == nil {
			continue
		}
		one := out.Get(f).List().Get(0).Message()
		st := one.Get(one.Descriptor().Fields().ByName("status")).Message()
		return codes.Code(st.Get(st.Descriptor().Fields().ByName("code")).Int()),
			st.Get(st.Descriptor().Fields().ByName("reason")).String()
	}
	return codes.OK, ""
}

// Every RPC, under both names of the service, with every kind of token and of
// client certificate.
func TestAccessMatrix(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	trusted, untrusted := newCA(t), newCA(t)
	server := trusted.issue(t, "server", time.Hour)
	serverKey, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	revoked, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	keyFile := func(name string, k *ecdsa.PrivateKey) string {
		der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return writePEM(t, at(name), "PUBLIC KEY", der)
	}
	jwtKeys := []config.JWTKey{
		{ID: "now", Algorithm: "ES256", File: keyFile("now.pem", key)},
		{ID: "before", Algorithm: "ES256", File: keyFile("before.pem", revoked)},
	}
	g, err := Open(&config.Config{
		Server: config.Server{TLS: &config.ServerTLS{
			CertFile:     writePEM(t, at("cert.pem"), "CERTIFICATE", server.Certificate[0]),
			KeyFile:      writePEM(t, at("key.pem"), "PRIVATE KEY", serverKey),
			ClientCAFile: writePEM(t, at("ca.pem"), "CERTIFICATE", trusted.cert.Raw),
			ClientNames:  []string{"app"},
		}},
		Auth: &config.Auth{JWT: config.JWT{Issuer: issuer, Audience: audience, Keys: jwtKeys, TenantClaim: "tenant_id", RolesClaim: "roles"}},
	}, Events{})
	if err != nil {
		t.Fatal(err)
	}
	// The key that is revoked was good before.
	tokens := makeTokens(t, key, revoked)
	for _, k := range tokens {
		if k.name == "revoked key" {
			if _, err := g.Tokens.Verify(k.header[0][7:]); err != nil {
				t.Fatalf("before it is revoked: %v", err)
			}
		}
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	keyFile("before.pem", other)
	if err := g.Tokens.Reload(); err != nil {
		t.Fatal(err)
	}

	e := new(engine)
	s, err := rpc.NewServer(rpc.Options{Engine: e, TLS: g.Clients, Auth: g.Tokens})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Stop(ctx)
		<-served
	})

	authorities := x509.NewCertPool()
	authorities.AddCert(trusted.cert)
	cells := 0
	for _, kind := range []struct {
		name string
		cert *tls.Certificate
		good bool
	}{
		{"no", nil, false},
		{"untrusted", ptr(untrusted.issue(t, "app", time.Hour)), false},
		{"expired", ptr(trusted.issue(t, "app", -time.Minute)), false},
		{"wrong name", ptr(trusted.issue(t, "storage", time.Hour)), false},
		{"good", ptr(trusted.issue(t, "app", time.Hour)), true},
	} {
		// The certificate is given whatever the server asks for.
		secure := &tls.Config{RootCAs: authorities, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if kind.cert == nil {
				return new(tls.Certificate), nil
			}
			return kind.cert, nil
		}}
		conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(secure)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for service, methods := range services(t) {
			for i := range methods.Len() {
				method := methods.Get(i)
				name := string(method.Name())
				rule, declared := rules[name]
				if !declared {
					t.Fatalf("nobody has said who may call %s", name)
				}
				for _, token := range tokens {
					cells++
					cell := fmt.Sprintf("%s/%s with %s token and %s certificate", service, name, token.name, kind.name)
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					for _, h := range token.header {
						ctx = metadata.AppendToOutgoingContext(ctx, "authorization", h)
					}
					before := e.reached.Load()
					code, reason := call(ctx, conn, method, "/"+service+"/"+name)
					cancel()
					reached := e.reached.Load() != before
					allowed := rule.anyone || rule.admin && token.admin ||
						rule.tenant && (token.tenants == ours || token.tenants == "*")
					switch {
					case !kind.good:
						if code != codes.Unavailable || reason != "" || reached {
							t.Errorf("%s: %v %s, engine asked: %v; want no connection", cell, code, reason, reached)
						}
					case !token.good:
						if code != codes.Unauthenticated || reason != "UNAUTHENTICATED" || reached {
							t.Errorf("%s: %v %s, engine asked: %v; want UNAUTHENTICATED", cell, code, reason, reached)
						}
					case !allowed:
						if code != codes.PermissionDenied || reason != "FORBIDDEN" || reached {
							t.Errorf("%s: %v %s, engine asked: %v; want FORBIDDEN", cell, code, reason, reached)
						}
					case code == codes.Unauthenticated || code == codes.PermissionDenied || code == codes.InvalidArgument:
						t.Errorf("%s: %v %s, want it to be served", cell, code, reason)
					}
				}
			}
		}
	}
	t.Logf("%d cells", cells)
	if least := 2 * len(rules) * len(tokens) * 5; cells < least {
		t.Errorf("only %d cells, want at least %d", cells, least)
	}
}

func ptr[T any](v T) *T { return &v }

// services are the RPCs under both names of the service.
func services(t *testing.T) map[string]protoreflect.MethodDescriptors {
	t.Helper()
	all := map[string]protoreflect.MethodDescriptors{}
	for name, file := range map[string]protoreflect.FileDescriptor{
		coordinatorpb.CoordinatorService_ServiceDesc.ServiceName: coordinatorpb.File_coordinatorpb_coordinator_proto,
		legacypb.CoordinatorService_ServiceDesc.ServiceName:      legacypb.File_coordinatorpb_legacypb_legacy_proto,
	} {
		s := file.Services().ByName("CoordinatorService")
		if s == nil || string(s.FullName()) != name {
			t.Fatalf("no service %s in %s", name, file.Path())
		}
		all[name] = s.Methods()
	}
	return all
}
