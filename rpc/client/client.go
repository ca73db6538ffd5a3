package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Level is how many replicas must answer.
type Level string

const (
	One    Level = "one"
	Quorum Level = "quorum"
	All    Level = "all"
)

// Options configure a Client. Zero fields take the default in brackets.
type Options struct {
	// Tenant and Level are those of operations that name none [default; the
	// coordinator's own].
	Tenant string
	Level  Level
	// Timeout bounds an operation, retries included, whose context does not
	// end before [15 s].
	Timeout time.Duration
	// MaxAttempts bounds how often an operation is tried [8]. 1: once.
	MaxAttempts int
	// IdempotentWrites gives each write and delete that carries no idempotency
	// key one of its own, so that it can be tried again where its effect is in
	// doubt. It costs the coordinator two steps in its idempotency store.
	IdempotentWrites bool
	// MaxBytes bounds what one connection has under way [8 MiB]: keys, values
	// and 4 KiB an operation. Beyond it operations wait, until their time ends.
	MaxBytes int

	// The rest is for Dial.

	// Connections is how many are made [2]. One carries tens of thousands of
	// operations a second.
	Connections int
	// TLS secures connections; nil speaks plaintext.
	TLS credentials.TransportCredentials
	// Credentials go with every call; nil: none.
	Credentials credentials.PerRPCCredentials
	// DialOptions are added to those of the client.
	DialOptions []grpc.DialOption
}

func (o Options) complete() (Options, error) {
	if o.Tenant == "" {
		o.Tenant = "default"
	}
	setDefault(&o.Timeout, 15*time.Second)
	setDefault(&o.MaxAttempts, 8)
	setDefault(&o.MaxBytes, 8<<20)
	setDefault(&o.Connections, 2)
	if min(o.Timeout, time.Duration(min(o.MaxAttempts, o.MaxBytes, o.Connections))) < 0 {
		return o, errors.New("client options: a negative limit")
	}
	switch o.Level {
	case "", One, Quorum, All:
	default:
		return o, fmt.Errorf("client options: level %q is unknown, want one, quorum or all", o.Level)
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Client is a way to a coordinator.
type Client struct {
	opts   Options
	lanes  []*lane
	owned  []*grpc.ClientConn
	next   atomic.Uint32
	budget budget
	calls  sync.Pool
	closed atomic.Bool
}

// Dial makes a client of the coordinator at address, HOST:PORT or another
// target that gRPC knows. It connects when the client is first used, and again
// whenever a connection breaks.
func Dial(address string, opts Options) (*Client, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	transport := opts.TLS
	if transport == nil {
		transport = insecure.NewCredentials()
	}
	settings := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithStaticStreamWindowSize(1 << 20),
		grpc.WithStaticConnWindowSize(2 << 20),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reopenMin, Multiplier: 2, Jitter: 0.2, MaxDelay: reopenMax},
			MinConnectTimeout: 2 * time.Second,
		}),
	}
	if opts.Credentials != nil {
		settings = append(settings, grpc.WithPerRPCCredentials(opts.Credentials))
	}
	settings = append(settings, opts.DialOptions...)
	conns := make([]*grpc.ClientConn, 0, opts.Connections)
	for range opts.Connections {
		conn, err := grpc.NewClient(address, settings...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("dial coordinator %s: %w", address, err), closeAll(conns))
		}
		conns = append(conns, conn)
	}
	c, err := New(conns, opts)
	if err != nil {
		return nil, errors.Join(err, closeAll(conns))
	}
	c.owned = conns
	return c, nil
}

// New makes a client on connections that the caller has made, and closes after
// the client.
func New(conns []*grpc.ClientConn, opts Options) (*Client, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	if len(conns) == 0 {
		return nil, errors.New("new client: no connection")
	}
	c := &Client{opts: opts, calls: sync.Pool{New: newCall}}
	c.budget.credit.Store(mostCredit)
	for _, conn := range conns {
		c.lanes = append(c.lanes, newLane(conn, opts.MaxBytes))
	}
	return c, nil
}

// Close ends the client. Operations under way fail with ErrClosed.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	for _, l := range c.lanes {
		l.close()
	}
	return closeAll(c.owned)
}

func closeAll(conns []*grpc.ClientConn) error {
	var errs []error
	for _, conn := range conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// Put writes a value. It may be empty, which is not the same as absent. The
// value must not be changed before Put returns.
func (c *Client) Put(ctx context.Context, key string, value []byte) error {
	call := c.take(coordinatorpb.PipelineOperation_KIND_WRITE, c.opts.Tenant, key, c.opts.Level)
	call.value = value
	err := c.do(ctx, call)
	c.release(call)
	return asError(err)
}

// Get returns the value of a key, or ErrKeyNotFound.
func (c *Client) Get(ctx context.Context, key string) ([]byte, error) {
	call := c.take(coordinatorpb.PipelineOperation_KIND_READ, c.opts.Tenant, key, c.opts.Level)
	err := c.do(ctx, call)
	value := call.found.Value
	c.release(call)
	return value, asError(err)
}

// Delete deletes a key. Deleting an absent one succeeds.
func (c *Client) Delete(ctx context.Context, key string) error {
	call := c.take(coordinatorpb.PipelineOperation_KIND_DELETE, c.opts.Tenant, key, c.opts.Level)
	err := c.do(ctx, call)
	c.release(call)
	return asError(err)
}

// WriteRequest asks for a value to be written or, with Delete set, for the key
// to be deleted.
type WriteRequest struct {
	Key    string
	Value  []byte // not to be changed before Write returns
	Delete bool

	Tenant string // empty: that of the Options
	Level  Level  // likewise
	// IdempotencyKey makes the write take effect at most once, however often
	// and by whomever it is sent. Empty: see Options.IdempotentWrites.
	IdempotencyKey string
}

// WriteResult is the answer to a write or delete that succeeded.
type WriteResult struct {
	Clock     []ClockEntry
	Replicas  int   // the acknowledgements that the level asked for, and got
	Level     Level // as asked, or the default
	Duplicate bool  // an earlier attempt under the same idempotency key had decided it
}

// ClockEntry counts the writes of a key through one coordinator.
type ClockEntry struct {
	Coordinator string
	Counter     int64
}

// Write is Put and Delete with everything that can be asked and answered.
func (c *Client) Write(ctx context.Context, req WriteRequest) (WriteResult, error) {
	kind := coordinatorpb.PipelineOperation_KIND_WRITE
	if req.Delete {
		kind = coordinatorpb.PipelineOperation_KIND_DELETE
	}
	call := c.take(kind, either(req.Tenant, c.opts.Tenant), req.Key, Level(either(string(req.Level), string(c.opts.Level))))
	if !req.Delete {
		call.value = req.Value
	}
	call.idempotencyKey, call.full = req.IdempotencyKey, true
	err := c.do(ctx, call)
	result := call.written
	c.release(call)
	return result, asError(err)
}

// ReadRequest asks for the value of a key.
type ReadRequest struct {
	Key    string
	Tenant string // empty: that of the Options
	Level  Level  // likewise
}

// ReadResult is a value that was found.
type ReadResult struct {
	Value     []byte
	Clock     []ClockEntry
	UpdatedAt time.Time // to the millisecond
}

// Read is Get with everything that can be asked and answered.
func (c *Client) Read(ctx context.Context, req ReadRequest) (ReadResult, error) {
	call := c.take(coordinatorpb.PipelineOperation_KIND_READ, either(req.Tenant, c.opts.Tenant), req.Key,
		Level(either(string(req.Level), string(c.opts.Level))))
	call.full = true
	err := c.do(ctx, call)
	result := call.found
	c.release(call)
	return result, asError(err)
}

func either(first, second string) string {
	if first != "" {
		return first
	}
	return second
}

// asError keeps a nil *Error from becoming an error.
func asError(e *Error) error {
	if e == nil {
		return nil
	}
	return e
}

// do carries an operation out, in as many attempts as it takes.
func (c *Client) do(ctx context.Context, call *call) *Error {
	call.due = time.Now().Add(c.opts.Timeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(call.due) {
		call.due = deadline
	}
	if c.opts.IdempotentWrites && call.mutates() && call.idempotencyKey == "" {
		call.idempotencyKey = newIdempotencyKey()
	}
	doubt := false
	for attempt := 1; ; attempt++ {
		err := c.attempt(ctx, call)
		if err == nil {
			c.budget.earn()
			return nil
		}
		if err == errNotFound && attempt == 1 {
			c.budget.earn()
			return err
		}
		// An attempt in doubt leaves all that follow in doubt: it may still
		// take effect, whatever became of them.
		doubt = doubt || err.Outcome == InDoubt
		pause, again := c.mayRetry(call, err, attempt)
		if again && rest(ctx, pause, call.due) {
			continue
		}
		last := *err
		last.Attempts = attempt
		if doubt {
			last.Outcome = InDoubt
		}
		return &last
	}
}

// attempt carries an operation out once.
func (c *Client) attempt(ctx context.Context, call *call) *Error {
	if c.closed.Load() {
		return closed(call.mutates(), false)
	}
	l := c.lane()
	if len(call.value) > inlineBytes || l.alone() {
		return l.invoke(ctx, call)
	}
	err := l.do(ctx, call)
	if err == errOmitted || err == errNoPipeline {
		return l.invoke(ctx, call)
	}
	return err
}

// lane picks a connection: the next in turn, unless it is down and another is not.
func (c *Client) lane() *lane {
	n := uint32(len(c.lanes))
	first := c.next.Add(1)
	for i := range n {
		if l := c.lanes[(first+i)%n]; l.down.Load() == nil {
			return l
		}
	}
	return c.lanes[first%n]
}

func newIdempotencyKey() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

func clone(s string) string { return strings.Clone(s) }
