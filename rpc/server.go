package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/auth"
	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
	"github.com/pairdb/coordinator/rpc/coordinatorpb/legacypb"
	"github.com/pairdb/coordinator/rpc/limit"
)

// messageSlack is what a message may be larger than the largest value: the
// other fields, and values that are a little too large, which the handlers
// refuse with a reason instead of gRPC without one.
const messageSlack = 1 << 20

// Flow control windows are fixed: on few connections the estimation of their
// best size costs more than it gains.
const (
	streamWindow     = 1 << 20
	connectionWindow = 2 << 20
)

// streamWorkers is how many goroutines serve requests before others are
// started: reused ones have grown their stacks already.
const streamWorkers = 64

// Beyond manyConnections most are taken to be idle: they get small buffers.
const (
	manyConnections = 2000
	manyReadBuffer  = 4 << 10
)

// streamGrace is how long streams of reflection and health may outlive the
// last request at a stop.
const streamGrace = time.Second

// Options configure a Server. Zero fields take the default in brackets.
type Options struct {
	Engine  Engine // required
	Version string // of the software, for GetStatus

	// TLS secures connections; nil serves plaintext.
	TLS credentials.TransportCredentials
	// Auth verifies the token that every RPC of the service then needs; nil
	// serves everybody.
	Auth *auth.Verifier
	// DefaultLevel is that of requests that name none [the engine's own].
	DefaultLevel coord.Level
	// MaxValue bounds a value in bytes [MaxValueBytes, which is also the most].
	MaxValue int
	// ReadTimeout and WriteTimeout bound a whole RPC [10 s each].
	ReadTimeout  time.Duration
	WriteTimeout time.Duration

	// MaxConnections bounds the connections that are open at once [1000].
	// Others are closed as they come.
	MaxConnections int
	// MaxConcurrentStreams bounds the RPCs of one connection [1024].
	MaxConcurrentStreams int
	// MaxConnectionAge and MaxConnectionIdle end connections in good order, so
	// that clients spread again over coordinators [1 h, 15 min].
	MaxConnectionAge  time.Duration
	MaxConnectionIdle time.Duration

	// MaxPipelineOperations and MaxPipelineBytes bound what one Pipeline stream
	// may have under way: operations, and bytes of values that came in or wait
	// to be sent [4096, 32 MiB]. Beyond them the stream is not read.
	MaxPipelineOperations int
	MaxPipelineBytes      int
	// MaxPipelineAge ends a Pipeline stream in good order, so that its
	// connection can end [MaxConnectionAge / 4].
	MaxPipelineAge time.Duration

	// MaxInFlight bounds the operations under way at once, and MaxHeldBytes the
	// bytes of values that are held for them [10,000, 512 MiB]. TenantLimits
	// bound each tenant that has no limits of its own, 0 meaning no limit, and
	// MaxTenants the tenants that are told apart [10,000].
	MaxInFlight  int
	MaxHeldBytes int64
	TenantLimits coord.TenantLimits
	MaxTenants   int

	// Tracing records requests as spans; nil records none.
	Tracing Tracing
	// Observe is told of every RPC of the service when it has ended, and of
	// every operation of a Pipeline or batch as of an RPC of its own, on its
	// path and from any goroutine; it must be quick. May be nil.
	Observe func(Call)
	// Audit is told of every RPC by which an administrator has changed
	// something or was to, and of those that were forbidden, on their path. May
	// be nil.
	Audit func(*Admin)
}

func (o Options) withDefaults() (Options, error) {
	if o.MaxValue == 0 {
		o.MaxValue = MaxValueBytes
	}
	setDefault(&o.ReadTimeout, 10*time.Second)
	setDefault(&o.WriteTimeout, 10*time.Second)
	setDefault(&o.MaxConnectionAge, time.Hour)
	setDefault(&o.MaxConnectionIdle, 15*time.Minute)
	setDefault(&o.MaxConnections, 1000)
	setDefault(&o.MaxConcurrentStreams, 1024)
	setDefault(&o.MaxPipelineOperations, 4096)
	setDefault(&o.MaxPipelineBytes, 32<<20)
	setDefault(&o.MaxPipelineAge, o.MaxConnectionAge/4)
	var faults []error
	if o.Engine == nil {
		faults = append(faults, errors.New("no engine"))
	}
	if min(int64(o.MaxInFlight), o.MaxHeldBytes, int64(o.MaxTenants), o.TenantLimits.OperationsPerSecond,
		o.TenantLimits.BytesPerSecond, o.TenantLimits.Concurrency) < 0 {
		faults = append(faults, errors.New("a negative limit"))
	}
	if o.MaxValue < 0 || o.MaxValue > MaxValueBytes {
		faults = append(faults, fmt.Errorf("largest value is %d bytes, want 1 to %d", o.MaxValue, MaxValueBytes))
	}
	if o.MaxConnections < 0 || o.MaxConcurrentStreams < 0 || o.MaxConcurrentStreams > math.MaxUint32 {
		faults = append(faults, fmt.Errorf("limits of %d connections and %d streams, want positive ones",
			o.MaxConnections, o.MaxConcurrentStreams))
	}
	if min(o.MaxPipelineOperations, o.MaxPipelineBytes) < 0 {
		faults = append(faults, fmt.Errorf("limits of %d pipelined operations and %d bytes, want positive ones",
			o.MaxPipelineOperations, o.MaxPipelineBytes))
	}
	if min(o.ReadTimeout, o.WriteTimeout, o.MaxConnectionAge, o.MaxConnectionIdle, o.MaxPipelineAge) < 0 {
		faults = append(faults, errors.New("a negative duration"))
	}
	if err := errors.Join(faults...); err != nil {
		return o, fmt.Errorf("gRPC server options: %w", err)
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Server serves the coordinator's API, under both of its names, with server
// reflection and the standard health service. Its methods are safe for
// concurrent use.
type Server struct {
	opts    Options
	grpc    *grpc.Server
	health  *health.Server
	service *service
	limiter *limit.Limiter

	forbidden perSecond    // those that the audit is told of
	imported  perSecond    // likewise
	inFlight  atomic.Int64 // requests
	pipelines atomic.Int64 // streams of pipelined requests
	draining  atomic.Bool
	stopping  chan struct{} // closed once draining
	idle      chan struct{} // holds a token when inFlight or pipelines fell to 0 while draining
	pipelined sync.Pool     // of *pipelined

	streams       context.Context // done once streams that are no requests shall end
	cancelStreams context.CancelFunc

	connections atomic.Int64
	refused     atomic.Int64
}

// NewServer makes a server that Serve starts.
func NewServer(opts Options) (*Server, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts:      opts,
		health:    health.NewServer(),
		stopping:  make(chan struct{}),
		idle:      make(chan struct{}, 1),
		pipelined: sync.Pool{New: func() any { return new(pipelined) }},
	}
	s.limiter = limit.New(limit.Options{
		MaxInFlight: opts.MaxInFlight, MaxBytes: opts.MaxHeldBytes, Tenant: opts.TenantLimits, MaxTenants: opts.MaxTenants,
		Of: opts.Engine.KnownLimits,
	})
	s.service = &service{server: s, engine: newAdmission(opts.Engine, s.limiter), defaultLevel: opts.DefaultLevel, maxValue: opts.MaxValue,
		readTimeout: opts.ReadTimeout, writeTimeout: opts.WriteTimeout, version: opts.Version,
		imports: make(chan struct{}, maxImports), exports: make(chan struct{}, maxExports)}
	s.streams, s.cancelStreams = context.WithCancel(context.Background())
	settings := append(connectionSettings(opts.TLS),
		grpc.MaxConcurrentStreams(uint32(opts.MaxConcurrentStreams)),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(codec.Booking(s.limiter.Hold)),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     opts.MaxConnectionIdle,
			MaxConnectionAge:      opts.MaxConnectionAge,
			MaxConnectionAgeGrace: opts.MaxPipelineAge + max(opts.ReadTimeout, opts.WriteTimeout),
			Time:                  30 * time.Second,
			Timeout:               10 * time.Second,
		}),
	)
	if opts.Tracing != nil {
		settings = append(settings, grpc.StatsHandler(opts.Tracing.Handler()))
	}
	if opts.MaxConnections > manyConnections {
		settings = append(settings, grpc.ReadBufferSize(manyReadBuffer))
	}
	s.grpc = grpc.NewServer(settings...)
	if err := errors.Join(s.register(coordinatorpb.CoordinatorService_ServiceDesc),
		s.register(legacypb.CoordinatorService_ServiceDesc)); err != nil {
		return nil, fmt.Errorf("gRPC server: %w", err)
	}
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	for name := range s.grpc.GetServiceInfo() {
		if strings.HasSuffix(name, "CoordinatorService") {
			s.health.SetServingStatus(name, grpc_health_v1.HealthCheckResponse_SERVING)
		}
	}
	return s, nil
}

// connectionSettings are the limits that coordinators and storage nodes share.
func connectionSettings(tls credentials.TransportCredentials) []grpc.ServerOption {
	settings := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec.New()),
		grpc.MaxRecvMsgSize(MaxValueBytes + messageSlack),
		grpc.MaxSendMsgSize(MaxValueBytes + messageSlack),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		// Clients ping every 10 s; the difference is for those whose timers are early.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}),
	}
	if tls != nil {
		settings = append(settings, grpc.Creds(tls))
	}
	return settings
}

// register serves desc's methods through s. It fails where one has no access rule.
func (s *Server) register(desc grpc.ServiceDesc) error {
	for _, stream := range desc.Streams {
		// One with a single request is checked as requested reads it, the other
		// kind by its handler, operation by operation.
		rule := accessRules[stream.StreamName]
		if rule == noAccess || stream.ClientStreams != (rule == accessOwnTenant) {
			return fmt.Errorf("%w: %s", errUndeclared, stream.StreamName)
		}
	}
	desc.Methods = slices.Clone(desc.Methods)
	for i := range desc.Methods {
		if accessRules[desc.Methods[i].MethodName] == noAccess {
			return fmt.Errorf("%w: %s", errUndeclared, desc.Methods[i].MethodName)
		}
		desc.Methods[i].Handler = s.route(desc.Methods[i].MethodName, desc.Methods[i].Handler)
	}
	s.grpc.RegisterService(&desc, s.service)
	return nil
}

// Serve accepts connections until Stop, and then returns nil.
func (s *Server) Serve(lis net.Listener) error {
	limited := &limitListener{Listener: lis, max: int64(s.opts.MaxConnections), open: &s.connections, refused: &s.refused}
	if err := s.grpc.Serve(limited); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", lis.Addr(), err)
	}
	return nil
}

// Connections is how many connections are open.
func (s *Server) Connections() int { return int(s.connections.Load()) }

// RefusedConnections is how many were closed for being beyond MaxConnections.
func (s *Server) RefusedConnections() int64 { return s.refused.Load() }

// Limiter is what admits operations, for its figures.
func (s *Server) Limiter() *limit.Limiter { return s.limiter }

// InFlight is how many requests are being served.
func (s *Server) InFlight() int { return int(s.inFlight.Load()) }

// Stop ends the server: health turns NOT_SERVING, new requests are answered
// SHUTTING_DOWN while those under way end, then connections close. Requests
// that are not done when ctx ends are cut off, and Stop returns an error that
// says how many.
func (s *Server) Stop(ctx context.Context) error {
	s.health.Shutdown()
	if !s.draining.Swap(true) {
		close(s.stopping)
	}
	var cut error
	for s.inFlight.Load() > 0 || s.pipelines.Load() > 0 {
		select {
		case <-s.idle:
			continue
		case <-ctx.Done():
		}
		if n := s.inFlight.Load(); n > 0 {
			cut = fmt.Errorf("stop gRPC server: %d requests were cut off: %w", n, ctx.Err())
		}
		break
	}
	s.cancelStreams()
	stopGracefully(ctx, s.grpc)
	return cut
}

// stopGracefully closes connections once their streams have ended, and at once
// when ctx ends or after streamGrace. It does not wait for a handler that goes
// on all the same.
func stopGracefully(ctx context.Context, server *grpc.Server) {
	ctx, cancel := context.WithTimeout(ctx, streamGrace)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		server.Stop()
	}
}

// interceptStream ends streams of health and reflection when the server stops.
// Those of the service end by themselves.
func (s *Server) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if srv == any(s.service) {
		if !info.IsClientStream {
			method := path.Base(info.FullMethod)
			r := &requested{ServerStream: stream, server: s, method: method, rule: accessRules[method]}
			return r.serve(srv, handler)
		}
		return survive(srv, stream, handler)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	return handler(srv, &cancellableStream{stream, ctx})
}

// survive serves a stream of the service, and answers a panic as an internal error.
func survive(srv any, stream grpc.ServerStream, handler grpc.StreamHandler) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = statusOf(fmt.Errorf("panic: %v\n%s", fault, debug.Stack()))
		}
	}()
	return handler(srv, stream)
}

type cancellableStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *cancellableStream) Context() context.Context { return s.ctx }
