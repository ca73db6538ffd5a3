package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// scanPageBytes bounds one page of a scan on the wire; a longer one is cut.
const scanPageBytes = 4 << 20

// StorageServerOptions configure a StorageServer. Zero fields take the default
// in brackets.
type StorageServerOptions struct {
	// Replica is what is served, required. Its owner closes it, after Stop. It must
	// not use the value of a call that it has finished: the value's memory may
	// hold another one by then.
	Replica coord.Replica
	// TLS secures connections; nil serves plaintext.
	TLS credentials.TransportCredentials

	// Tracing records what coordinators trace; nil records nothing.
	Tracing StorageTracing

	// MaxConnections bounds the connections that are open at once [256].
	// Others are closed as they come.
	MaxConnections int
	// MaxOperations and MaxBytes bound what one connection may have under way:
	// operations, and bytes of values that came in or wait to be sent
	// [8192, 32 MiB]. Beyond them the connection is not read.
	MaxOperations int
	MaxBytes      int
	// MaxScans bounds the scans that run at once [4]; others wait.
	MaxScans int

	speaks speech // [spoken]
}

// StorageTracing records the spans of a storage node. Its methods are safe for
// concurrent use, and quick.
type StorageTracing interface {
	// Handler is told of each RPC by gRPC; operations come otherwise.
	Handler() stats.Handler
	// Call records an operation that a coordinator has sent as part of a trace.
	// It may not keep the call.
	Call(call *coord.Call, began time.Time, err error)
}

func (o StorageServerOptions) withDefaults() (StorageServerOptions, error) {
	setDefault(&o.MaxConnections, 256)
	setDefault(&o.MaxOperations, 8192)
	setDefault(&o.MaxBytes, 32<<20)
	setDefault(&o.MaxScans, 4)
	setDefault(&o.speaks, spoken)
	var faults []error
	if o.Replica == nil {
		faults = append(faults, errors.New("no replica"))
	}
	if min(o.MaxConnections, o.MaxOperations, o.MaxBytes, o.MaxScans) < 0 {
		faults = append(faults, errors.New("a negative limit"))
	}
	if err := errors.Join(faults...); err != nil {
		return o, fmt.Errorf("storage server options: %w", err)
	}
	return o, nil
}

// StorageServer serves a replica to coordinators, with server reflection and
// the standard health service. Its methods are safe for concurrent use.
type StorageServer struct {
	opts   StorageServerOptions
	grpc   *grpc.Server
	health *health.Server
	tasks  sync.Pool
	scans  chan struct{} // holds a token for each scan that runs

	stopping chan struct{} // closed when operations are no longer taken
	stop     sync.Once

	mu        sync.Mutex
	exchanges map[net.Conn]context.CancelFunc // connections that carry operations
	serving   sync.WaitGroup                  // counts them
	ended     bool                            // none is taken any more

	connections atomic.Int64
	refused     atomic.Int64
	outdated    atomic.Int64 // connections that speak an older version than this node's highest
	traffic     sumsTraffic
	messages    Messages
	memory      memory // of values that come in
}

// NewStorageServer makes a server that Serve starts.
func NewStorageServer(opts StorageServerOptions) (*StorageServer, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &StorageServer{
		opts:     opts,
		health:   health.NewServer(),
		scans:    make(chan struct{}, opts.MaxScans),
		stopping: make(chan struct{}),

		exchanges: make(map[net.Conn]context.CancelFunc),
	}
	s.tasks.New = func() any { return new(task) }
	security := opts.TLS
	if security == nil {
		security = insecure.NewCredentials()
	}
	settings := append(connectionSettings(&dispatcher{security, s.take}),
		grpc.MaxConcurrentStreams(256),
		grpc.StatsHandler(&s.traffic),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	)
	if opts.Tracing != nil {
		settings = append(settings, grpc.StatsHandler(opts.Tracing.Handler()))
	}
	s.grpc = grpc.NewServer(settings...)
	storagepb.RegisterStorageServiceServer(s.grpc, &storageService{server: s})
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.health.SetServingStatus(storagepb.StorageService_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	return s, nil
}

// Serve accepts connections until Stop, and then returns nil.
func (s *StorageServer) Serve(lis net.Listener) error {
	limited := &limitListener{Listener: lis, max: int64(s.opts.MaxConnections), open: &s.connections, refused: &s.refused}
	if err := s.grpc.Serve(limited); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve storage gRPC on %s: %w", lis.Addr(), err)
	}
	return nil
}

// Connections is how many connections are open.
func (s *StorageServer) Connections() int { return int(s.connections.Load()) }

// Messages counts the messages of operations that have come in.
func (s *StorageServer) Messages() *Messages { return &s.messages }

// OutdatedConnections is how many connections for operations speak an older
// version of the storage protocol than this node could.
func (s *StorageServer) OutdatedConnections() int { return int(s.outdated.Load()) }

// RefusedConnections is how many were closed for being beyond MaxConnections.
func (s *StorageServer) RefusedConnections() int64 { return s.refused.Load() }

// Stop ends the server: operations that come now are refused, those under way
// are answered, then connections close; at the latest when ctx ends.
func (s *StorageServer) Stop(ctx context.Context) {
	s.health.Shutdown()
	s.stop.Do(func() { close(s.stopping) })
	stopped := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		s.serving.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		s.grpc.Stop()
		s.cut()
		<-stopped
	}
}

// cut ends the connections that carry operations.
func (s *StorageServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for conn, cancel := range s.exchanges {
		cancel()
		_ = conn.Close()
	}
}

// take serves a connection that began with the greeting.
func (s *StorageServer) take(conn net.Conn) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		_ = conn.Close()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.exchanges[conn] = cancel
	s.serving.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.serving.Done()
		s.exchange(ctx, conn)
		cancel()
		_ = conn.Close()
		s.mu.Lock()
		delete(s.exchanges, conn)
		s.mu.Unlock()
	}()
}

// exchange serves a connection until one side or ctx ends it, and tells the
// other side why.
func (s *StorageServer) exchange(ctx context.Context, conn net.Conn) {
	f, err := answerGreeting(conn, s.opts.speaks, s.hello)
	if err != nil {
		return // the coordinator was told, or is gone
	}
	if f.protocol < s.opts.speaks.highest {
		s.outdated.Add(1)
		defer s.outdated.Add(-1)
	}
	f.memory = &s.memory
	if err := newExchange(s, &frameStream{f, s.heard}).run(ctx); err != nil {
		_ = f.refuse(err)
	}
}

// hello says who the node is.
func (s *StorageServer) hello() (*storagepb.Hello, error) {
	if s.isStopping() {
		return nil, errNodeStopping
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	d, err := s.opts.Replica.Describe(ctx)
	if err != nil {
		return nil, err
	}
	boot, clock := s.heard()
	return &storagepb.Hello{Id: d.ID, Uuid: d.UUID, Clock: clock, Boot: boot}, nil
}

// heard is what the node says of its life and its clock.
func (s *StorageServer) heard() (boot, clock uint64) {
	boot, now := s.opts.Replica.Heard()
	return boot, uint64(now)
}

func (s *StorageServer) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// storageService holds the handlers.
type storageService struct {
	server *StorageServer
}

var _ storagepb.StorageServiceServer = (*storageService)(nil)

// Describe tells who the node is.
func (s *storageService) Describe(ctx context.Context, _ *storagepb.DescribeRequest) (*storagepb.DescribeResponse, error) {
	if s.server.isStopping() {
		return nil, errStopping
	}
	d, err := s.server.opts.Replica.Describe(ctx)
	if err != nil {
		return nil, unaryStatus(err)
	}
	return &storagepb.DescribeResponse{
		Id: d.ID, Uuid: d.UUID, Keys: d.Keys, Bytes: d.Bytes, DiskUsedFraction: d.DiskUsedFraction,
		Epoch: d.Epoch, Topology: d.Topology,
	}, nil
}

// Scan lists a page of keys, cut where it would be too large a message.
func (s *storageService) Scan(ctx context.Context, req *storagepb.ScanRequest) (*storagepb.ScanResponse, error) {
	if req.Limit < 1 || req.Limit > coord.MaxScanPage {
		return nil, status.Errorf(codes.InvalidArgument, "limit is %d, want 1 to %d", req.Limit, coord.MaxScanPage)
	}
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	end, err := s.server.beginScan(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	page, err := s.server.opts.Replica.Scan(ctx, coord.ScanRequest{
		Epoch: req.Epoch, Span: spanOf(req.Span), Tenant: req.Tenant, Prefix: req.Prefix,
		After: position(req.After), DeadFor: time.Duration(req.DeadFor), Limit: int(req.Limit),
	})
	if err != nil {
		if epoch := epochOf(err); epoch != 0 {
			return &storagepb.ScanResponse{StaleEpoch: epoch}, nil
		}
		return nil, unaryStatus(err)
	}
	resp := &storagepb.ScanResponse{Items: make([]*storagepb.ScanItem, 0, len(page.Items)), Next: positionMessage(page.Next)}
	size := 0
	for i := range page.Items {
		item := &page.Items[i]
		m := &storagepb.ScanItem{Position: positionMessage(&item.Position), Head: new(outbound).set(&item.Head, nil)}
		size += m.SizeVT()
		if i > 0 && size > scanPageBytes {
			resp.Next = resp.Items[i-1].Position
			break
		}
		resp.Items = append(resp.Items, m)
	}
	return resp, nil
}

var errStopping = status.Error(codes.Unavailable, "the storage node is shutting down")

// unaryStatus tells what went wrong; a client calls all of it unavailable.
func unaryStatus(err error) error {
	code := codes.Unavailable
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, coord.ErrCorrupt):
		code = codes.DataLoss
	}
	_, text := codeOf(err)
	return status.Error(code, text)
}

// task is one operation under way, and the coord.Caller that is told its end.
type task struct {
	call     coord.Call
	exchange *exchange
	id       uint64
	large    bool      // the reply may hold a large value
	memory   []byte    // that the request's value lies in, where it is used again
	cost     int       // bytes that the request keeps
	began    time.Time // of one that is traced
	err      error
}

// refuse answers that there is no room for the answer.
func (t *task) refuse() {
	t.err = errNoRoom
	t.call.Held = coord.Version{}
}

// Done takes the answer of the replica.
func (t *task) Done(*coord.Call) { t.exchange.finished(t) }

func (s *StorageServer) newTask(x *exchange, op *storagepb.Operation) *task {
	t := s.tasks.Get().(*task)
	t.exchange, t.id, t.large = x, op.Id, op.AcceptLarge
	t.call.Caller = t
	return t
}

func (s *StorageServer) release(t *task) {
	*t = task{}
	s.tasks.Put(t)
}

// request reads an operation into the task's call. The call then shares no
// memory with the message, but for a large value: aliased tells of one.
func (t *task) request(op *storagepb.Operation, shared *names, own *keys, now time.Time) (aliased bool, err error) {
	c := &t.call
	switch op.Kind {
	case storagepb.Kind_KIND_HEAD, storagepb.Kind_KIND_READ, storagepb.Kind_KIND_APPLY, storagepb.Kind_KIND_DROP:
		c.Kind = coord.CallKind(op.Kind)
	default:
		return false, fmt.Errorf("%w: operation %d is unknown", coord.ErrReplicaRefused, op.Kind)
	}
	switch {
	case len(op.Tenant) > maxSpaceBytes || len(op.Key) > MaxKeyBytes:
		return false, fmt.Errorf("%w: tenant has %d bytes, key %d, want at most %d and %d",
			coord.ErrReplicaRefused, len(op.Tenant), len(op.Key), maxSpaceBytes, MaxKeyBytes)
	case op.TimeoutMs == 0:
		return false, fmt.Errorf("%w: no time to do it", coord.ErrReplicaRefused)
	}
	c.Tenant = shared.keep(op.Tenant)
	c.Key = own.keep(op.Key)
	c.Token = ring.Token(op.Token)
	c.Epoch = op.Epoch
	c.Trace = coord.TraceContext{High: op.TraceHigh, Low: op.TraceLow, Span: op.TraceSpan}
	if c.Trace.Span != 0 {
		t.began = now
	}
	c.Deadline = now.Add(min(time.Duration(op.TimeoutMs)*time.Millisecond, maxCallTime))
	if c.Kind != coord.CallApply && c.Kind != coord.CallDrop {
		return false, nil
	}
	if op.Version == nil {
		return false, fmt.Errorf("%w: no version to %s", coord.ErrReplicaRefused, c.Kind)
	}
	c.Boot, c.Heard = op.Boot, time.Duration(op.Heard)
	if c.Kind == coord.CallApply {
		if op.Intent != storagepb.Intent_INTENT_WRITE && op.Intent != storagepb.Intent_INTENT_REPAIR {
			return false, fmt.Errorf("%w: intent %d is unknown", coord.ErrReplicaRefused, op.Intent)
		}
		c.Intent = coord.Intent(op.Intent)
	}
	aliased, err = shared.version(&c.Version, op.Version)
	if err != nil {
		return false, fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
	}
	c.Owned = !aliased
	return aliased, nil
}

// reply fills a message with the task's answer.
func (t *task) reply(m *storagepb.Reply, version *outbound) {
	m.Id = t.id
	m.Held = nil
	m.Code, m.Text = codeOf(t.err)
	m.Epoch, m.Floor = 0, 0
	if t.err != nil {
		m.Epoch = epochOf(t.err)
		return
	}
	m.Floor = t.call.Floor
	held := &t.call.Held
	switch {
	case !held.Exists():
	case t.call.Kind != coord.CallRead:
		m.Held = version.set(&held.Head, nil)
	case len(held.Value) > largeValue && !t.large:
		m.Code = storagepb.Code_CODE_LARGE_VALUE
	default:
		m.Held = version.set(&held.Head, held.Value)
	}
}
