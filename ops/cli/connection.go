package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const (
	defaultAddr = "127.0.0.1:50051"
	// maxMessageBytes leaves room around the greatest value, 10 MiB.
	maxMessageBytes = 32 << 20
	// keepaliveInterval is what the coordinator allows.
	keepaliveInterval = 10 * time.Second
	// maxTokenBytes bounds a token file.
	maxTokenBytes = 64 << 10
)

// connection is the common flags: which coordinator, as whom, and how.
type connection struct {
	addr           string
	tenant         string
	consistency    string
	idempotencyKey string
	json           bool
	timeout        time.Duration
	tokenFile      string
	token          string // from the environment
	ca, cert, key  string
	systemTLS      bool
	trace          bool // of put, get and delete
}

func (c *connection) addFlags(fs *flag.FlagSet, getenv func(string) string) {
	addr := getenv("COORDINATOR_ADDR")
	if addr == "" {
		addr = defaultAddr
	}
	c.token = getenv("COORDINATOR_TOKEN")
	fs.StringVar(&c.addr, "addr", addr, "`HOST:PORT` of the coordinator; $COORDINATOR_ADDR")
	fs.StringVar(&c.tenant, "tenant", "default", "tenant `ID`")
	fs.StringVar(&c.consistency, "consistency", "", "`LEVEL`: one, quorum or all; the coordinator has a default")
	fs.StringVar(&c.idempotencyKey, "idempotency-key", "", "`KEY` under which a write takes effect at most once")
	fs.BoolVar(&c.json, "json", false, "print the answer as JSON, bytes in base64")
	fs.DurationVar(&c.timeout, "timeout", 15*time.Second, "longest to wait for one answer")
	fs.StringVar(&c.tokenFile, "token-file", "", "`FILE` with the bearer token; else $COORDINATOR_TOKEN")
	fs.StringVar(&c.ca, "ca", "", "PEM `FILE`: use TLS and trust these authorities")
	fs.StringVar(&c.cert, "cert", "", "PEM `FILE`: own certificate, with -key")
	fs.StringVar(&c.key, "key", "", "PEM `FILE`: key of -cert")
	fs.BoolVar(&c.systemTLS, "tls", false, "use TLS and trust the system's authorities, where -ca is not given")
}

// check finds flags that make no sense, before anything is sent.
func (c *connection) check() error {
	if c.addr == "" { // a command that connects to nothing
		return nil
	}
	if _, _, err := net.SplitHostPort(c.addr); err != nil {
		return wrongUsage("-addr %q is not HOST:PORT", c.addr)
	}
	if (c.cert == "") != (c.key == "") {
		return wrongUsage("-cert and -key go together")
	}
	if c.timeout <= 0 {
		return wrongUsage("-timeout must be above 0")
	}
	switch c.consistency {
	case "", "one", "quorum", "all":
	default:
		return wrongUsage("-consistency %q is unknown, want one, quorum or all", c.consistency)
	}
	return nil
}

// dial makes a connection, which connects when it is first used.
func (in *invocation) dial() (*grpc.ClientConn, error) {
	transport, secure, err := in.transport()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent("coordinator-cli/" + in.Version),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveInterval, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
	}
	token, err := in.readToken()
	if err != nil {
		return nil, err
	}
	if token != "" {
		if !secure && !isLoopback(in.addr) {
			fmt.Fprintf(in.Stderr, "warning: the token goes to %s unencrypted; -ca or -tls encrypts\n", in.addr)
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	conn, err := grpc.NewClient(in.addr, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", in.addr, err)
	}
	return conn, nil
}

func (in *invocation) transport() (_ credentials.TransportCredentials, secure bool, err error) {
	if in.ca == "" && in.cert == "" && !in.systemTLS {
		return insecure.NewCredentials(), false, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if in.ca != "" {
		pem, err := os.ReadFile(in.ca)
		if err != nil {
			return nil, false, fmt.Errorf("read -ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, false, fmt.Errorf("read -ca: no PEM certificate in %s", in.ca)
		}
	}
	if in.cert != "" {
		pair, err := tls.LoadX509KeyPair(in.cert, in.key)
		if err != nil {
			return nil, false, fmt.Errorf("read -cert and -key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), true, nil
}

func (in *invocation) readToken() (string, error) {
	if in.tokenFile == "" {
		return in.token, nil
	}
	text, err := os.ReadFile(in.tokenFile)
	if err != nil {
		return "", fmt.Errorf("read -token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	switch {
	case len(token) > maxTokenBytes:
		return "", fmt.Errorf("read -token-file: %s holds more than %d bytes", in.tokenFile, maxTokenBytes)
	case token == "":
		return "", errors.New("read -token-file: " + in.tokenFile + " is empty")
	}
	return token, nil
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// bearer is a token that is sent with every call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity is false: a token may cross a trusted network, and
// dial warns.
func (b bearer) RequireTransportSecurity() bool { return false }

// ask makes one call, on a connection of its own.
func ask[Q, A any](
	ctx context.Context, in *invocation,
	method func(pb.CoordinatorServiceClient, context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	conn, err := in.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, in.timeout)
	defer cancel()
	return method(pb.NewCoordinatorServiceClient(conn), ctx, request)
}
