package rpc

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// StorageOptions configure a StorageClient. Zero fields take the default in
// brackets.
type StorageOptions struct {
	Address string // HOST:PORT, required
	// NodeID and UUID, where they are set, are who must answer at Address: a
	// node with another name or another data directory is not used.
	NodeID string
	UUID   string
	// TLS secures the connections; nil speaks plaintext.
	TLS credentials.TransportCredentials

	// MaxCalls and MaxBytes bound what waits for an answer of the node: calls,
	// and bytes of their keys and values [4096, 16 MiB]. Beyond either, calls
	// are refused at once. Values above 256 KiB have bounds of their own:
	// MaxLargeCalls and MaxLargeBytes [64, 64 MiB].
	MaxCalls      int
	MaxBytes      int
	MaxLargeCalls int
	MaxLargeBytes int

	// HungAfter is for how long a node that owes answers may be silent before
	// calls on it are refused, until it answers again [1 s].
	HungAfter time.Duration

	// Messages counts the messages of operations that are sent; it may be shared [one of its own].
	Messages *Messages

	// StatsHandler is told of what is asked by gRPC; nil is not.
	StatsHandler stats.Handler

	// Dial connects to an address [TCP].
	Dial func(ctx context.Context, address string) (net.Conn, error)

	speaks speech // [spoken]
}

func (o StorageOptions) withDefaults() StorageOptions {
	setDefault(&o.MaxCalls, 4096)
	setDefault(&o.MaxBytes, 16<<20)
	setDefault(&o.MaxLargeCalls, 64)
	setDefault(&o.MaxLargeBytes, 64<<20)
	setDefault(&o.HungAfter, time.Second)
	setDefault(&o.speaks, spoken)
	if o.Messages == nil {
		o.Messages = new(Messages)
	}
	if o.TLS == nil {
		o.TLS = insecure.NewCredentials()
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	return o
}

// name is what errors call the node.
func (o *StorageOptions) name() string {
	if o.NodeID != "" {
		return "storage node " + o.NodeID + " at " + o.Address
	}
	return "storage node at " + o.Address
}

// Times of a connection to a storage node.
const (
	// connectTimeout bounds an attempt to connect and to learn who is there.
	connectTimeout = 2 * time.Second
	// retryMin and retryMax bound the pause between attempts, so that a node
	// that returns is used within a second.
	retryMin = 50 * time.Millisecond
	retryMax = 600 * time.Millisecond
	// keepaliveTime after the last sign of life gRPC pings the node; one that
	// does not answer within keepaliveTimeout is given up.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// StorageClient is a storage node in another process, as a coord.Replica. It
// keeps two connections to the node for operations, one of them for large
// values, and connects again whenever one breaks. A third one carries what is
// asked by gRPC.
type StorageClient struct {
	opts  StorageOptions
	heard *nodeTime
	small *link
	large *link
	conn  *grpc.ClientConn
	stub  storagepb.StorageServiceClient
}

var _ coord.Replica = (*StorageClient)(nil)

// DialStorage makes a client that begins to connect at once; it does not wait
// for the node to be there. It fails only for an address that cannot be one.
func DialStorage(opts StorageOptions) (*StorageClient, error) {
	opts = opts.withDefaults()
	conn, err := dialNode(&opts)
	if err != nil {
		return nil, err
	}
	heard, traffic := new(nodeTime), new(traffic)
	// A large value may take longer to cross the network than a small one.
	large := dialLink(&opts, heard, traffic, linkBounds{calls: opts.MaxLargeCalls, bytes: opts.MaxLargeBytes,
		hungAfter: 10 * opts.HungAfter, large: true}, nil)
	small := dialLink(&opts, heard, traffic, linkBounds{calls: opts.MaxCalls, bytes: opts.MaxBytes, hungAfter: opts.HungAfter}, large.do)
	return &StorageClient{opts: opts, heard: heard, small: small, large: large, conn: conn, stub: storagepb.NewStorageServiceClient(conn)}, nil
}

func dialNode(opts *StorageOptions) (*grpc.ClientConn, error) {
	// Each attempt to connect looks the host up again, without gRPC's resolver
	// in between, which would look at most every 30 s.
	settings := []grpc.DialOption{
		grpc.WithTransportCredentials(opts.TLS),
		grpc.WithContextDialer(opts.Dial),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMax},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec.New()),
			grpc.MaxCallRecvMsgSize(MaxValueBytes+messageSlack),
			grpc.MaxCallSendMsgSize(MaxValueBytes+messageSlack),
		),
	}
	if opts.StatsHandler != nil {
		settings = append(settings, grpc.WithStatsHandler(opts.StatsHandler))
	}
	conn, err := grpc.NewClient("passthrough:///"+opts.Address, settings...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", opts.name(), err)
	}
	return conn, nil
}

// Do starts a call, as coord.Replica says.
func (c *StorageClient) Do(call *coord.Call) {
	if len(call.Version.Value) > largeValue {
		c.large.do(call)
		return
	}
	c.small.do(call)
}

// Unavailable tells why calls (of small values) fail now, nil where they may succeed.
func (c *StorageClient) Unavailable() error { return c.small.unavailable() }

// Describe asks the node who it is and how full.
func (c *StorageClient) Describe(ctx context.Context) (coord.NodeDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	resp, err := c.stub.Describe(ctx, new(storagepb.DescribeRequest))
	if err != nil {
		return coord.NodeDescription{}, unaryError(ctx, "describe "+c.opts.name(), err)
	}
	return coord.NodeDescription{
		ID:               resp.Id,
		UUID:             resp.Uuid,
		Keys:             resp.Keys,
		Bytes:            resp.Bytes,
		DiskUsedFraction: resp.DiskUsedFraction,
		Epoch:            resp.Epoch,
		Topology:         bytes.Clone(resp.Topology),
	}, nil
}

// Scan lists keys in the order of their positions.
func (c *StorageClient) Scan(ctx context.Context, req coord.ScanRequest) (coord.ScanPage, error) {
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	if req.Limit < 1 || req.Limit > coord.MaxScanPage {
		return coord.ScanPage{}, unsent("scan %s: limit is %d, want 1 to %d", c.opts.name(), req.Limit, coord.MaxScanPage)
	}
	resp, err := c.stub.Scan(ctx, &storagepb.ScanRequest{
		Tenant: req.Tenant, Prefix: req.Prefix, After: positionMessage(req.After), Limit: uint32(req.Limit),
		Epoch: req.Epoch, Span: spanMessage(req.Span), DeadFor: int64(req.DeadFor),
	})
	if err != nil {
		return coord.ScanPage{}, unaryError(ctx, "scan "+c.opts.name(), err)
	}
	if err := staleRing(c.opts.name(), resp.StaleEpoch); err != nil {
		return coord.ScanPage{}, err
	}
	page := coord.ScanPage{Items: make([]coord.ScanItem, len(resp.Items)), Next: position(resp.Next)}
	shared := new(names)
	for i, m := range resp.Items {
		if m.Position == nil || m.Head == nil {
			return coord.ScanPage{}, unanswered("scan %s: item %d lacks its position or version", c.opts.name(), i)
		}
		var v coord.Version
		if _, err := shared.version(&v, m.Head); err != nil {
			return coord.ScanPage{}, &callError{
				text:  fmt.Sprintf("scan %s: item %d: %v", c.opts.name(), i, err),
				kinds: []error{coord.ErrReplicaUnavailable, coord.ErrCorrupt},
			}
		}
		p := position(m.Position)
		// Keys outlive the page; they must not keep all of it in memory.
		page.Items[i] = coord.ScanItem{
			Position: coord.Position{Token: p.Token, Tenant: shared.keep(p.Tenant), Key: strings.Clone(p.Key)},
			Head:     v.Head,
		}
	}
	if page.Next != nil {
		page.Next.Tenant, page.Next.Key = strings.Clone(page.Next.Tenant), strings.Clone(page.Next.Key)
	}
	return page, nil
}

// maxUnaryTime bounds what is asked by gRPC.
const maxUnaryTime = 30 * time.Second

// unaryError says what failed, without gRPC's own words around it.
func unaryError(ctx context.Context, what string, err error) error {
	kinds := []error{coord.ErrReplicaUnavailable}
	if cause := ctx.Err(); cause != nil {
		kinds = append(kinds, cause)
	}
	return &callError{text: what + ": " + status.Convert(err).Message(), kinds: kinds}
}

// Close ends the connections; calls that are under way finish with
// coord.ErrReplicaUnavailable.
func (c *StorageClient) Close() error {
	c.small.close()
	c.large.close()
	return c.conn.Close()
}
