// Coordinator is PairDB's coordinator, its storage node and its command-line
// client in one binary. This file wires processes together and nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/pairdb/coordinator/backends"
	"github.com/pairdb/coordinator/backends/badger"
	"github.com/pairdb/coordinator/backends/postgres"
	"github.com/pairdb/coordinator/backends/redis"
	"github.com/pairdb/coordinator/backends/sqlite"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/audit"
	"github.com/pairdb/coordinator/ops/build"
	"github.com/pairdb/coordinator/ops/cli"
	"github.com/pairdb/coordinator/ops/config"
	"github.com/pairdb/coordinator/ops/console"
	"github.com/pairdb/coordinator/ops/flags"
	"github.com/pairdb/coordinator/ops/guard"
	"github.com/pairdb/coordinator/ops/health"
	"github.com/pairdb/coordinator/ops/httpd"
	"github.com/pairdb/coordinator/ops/logging"
	"github.com/pairdb/coordinator/ops/metrics"
	"github.com/pairdb/coordinator/ops/tracing"
	"github.com/pairdb/coordinator/ops/tuning"
	"github.com/pairdb/coordinator/rpc"
	"github.com/pairdb/coordinator/rpc/limit"
)

// Exit codes of a process that serves; those of client commands are cli's.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	// Nothing is served yet: the first signal begins the drain, and giving it
	// back to the system then lets a second one end the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()
	var err error
	switch {
	case len(args) > 0 && args[0] == "validate":
		err = runValidate(args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "storage":
		err = runStorage(ctx, args[1:], stderr)
	case len(args) == 0 || args[0] == "" || args[0][0] != '-':
		return cli.Run(ctx, args, environment(stdout, stderr))
	default:
		err = runCoordinator(ctx, args, stdout, stderr)
	}
	var help *flags.Help
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &help):
		fmt.Fprint(stdout, help.Text)
		return exitOK
	case errors.Is(err, flags.ErrUsage):
		return exitUsage
	}
	fmt.Fprintln(stderr, err)
	return exitFailed
}

func environment(stdout, stderr io.Writer) cli.Env {
	return cli.Env{
		Stdin: os.Stdin, Stdout: stdout, Stderr: stderr, Getenv: os.Getenv,
		IsTerminal: isTerminal(os.Stderr), Version: build.Version(), Commit: build.Commit(),
	}
}

// isTerminal tells whether progress can be drawn on f.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func limitMemory(log hclog.Logger) {
	if err := tuning.LimitMemory(); err != nil {
		log.Warn("memory has no limit (set GOMEMLIMIT)", "error", err)
	}
}

// leastGarbage is nothing on a laptop, whose memory is for others.
func leastGarbage(dev bool) int64 {
	if dev {
		return 0
	}
	return tuning.CoordinatorLeast
}

func runValidate(args []string, stdout, stderr io.Writer) error {
	file, err := flags.Validate(args, stderr)
	if err != nil {
		return err
	}
	if _, err := config.Load(config.Source{Path: file, Env: os.LookupEnv}); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: valid\n", file)
	return nil
}

func runCoordinator(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	source, err := flags.Coordinator(args, stderr, os.LookupEnv)
	if err != nil {
		return err
	}
	cfg, err := config.Load(source)
	if err != nil {
		return err
	}
	log, err := logging.New(logging.Options{Level: cfg.Logging.Level, Format: cfg.Logging.Format, Output: stderr})
	if err != nil {
		return err
	}
	defer tuning.CollectRarely(tuning.CoordinatorGarbage, leastGarbage(source.Dev))()
	limitMemory(log)
	if source.Dev && cfg.DataDir == "" {
		dir, err := os.MkdirTemp("", "coordinator-dev-")
		if err != nil {
			return fmt.Errorf("make a temporary data directory: %w", err)
		}
		defer os.RemoveAll(dir)
		cfg = cfg.InDataDir(dir)
	}
	for _, warning := range cfg.Warnings {
		log.Warn(warning)
	}
	return serve(ctx, cfg, source.Dev, log, stdout)
}

// serve runs a coordinator until ctx ends. What it opens it closes in the
// opposite order: requests end before the engine, whose operations in the
// background end before the stores that they use.
func serve(ctx context.Context, cfg *config.Config, dev bool, log hclog.Logger, stdout io.Writer) (err error) {
	closing := func(what string, close func() error) {
		if failure := close(); failure != nil {
			err = errors.Join(err, fmt.Errorf("close %s: %w", what, failure))
		}
	}
	grpcListener, err := listen(cfg.Server.Listen, "-listen")
	if err != nil {
		return err
	}
	defer grpcListener.Close()
	opsListener, err := listen(cfg.Metrics.Listen, "-ops-listen")
	if err != nil {
		return err
	}
	defer opsListener.Close()

	protection, err := guard.Open(cfg, reloads(log))
	if err != nil {
		return err
	}
	defer closing("audit log", protection.Close)
	watching, stopWatching := context.WithCancel(context.Background())
	watched := protection.Watch(watching)
	defer func() {
		stopWatching()
		watched()
	}()

	alive := health.New()
	measured := metrics.New(build.Version(), build.Commit())
	notable := new(console.Requests)
	var engine *coord.Coordinator
	running := func() []metrics.Migration { return runningMigration(engine) } // called once engine is there
	screen := console.New(console.Options{
		Version: build.Version(), Metrics: measured, Health: alive, Requests: notable, Migrations: running, TraceMessage: rpc.TraceMessage,
		Authorize: protection.AuthorizeAdmin(console.ErrForbidden), ShowKeys: dev,
	})
	ops := httpd.Options{
		Title: "PairDB coordinator " + cfg.NodeID, Console: screen, OnShutdown: screen.Close,
		Live: alive.ServeLive, Ready: alive.ServeReady,
		PProf:    cfg.Metrics.PProf,
		ErrorLog: log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	if cfg.Metrics.Enabled {
		ops.Metrics, ops.MetricsPath = measured, cfg.Metrics.Path
	}
	opsServer := httpd.New(ops)
	failed := make(chan error, 2)
	go func() { failed <- opsServer.Serve(opsListener) }()
	defer closing("ops server", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return opsServer.Shutdown(ctx)
	})

	traces, err := openTracing(cfg.Tracing, "coordinator", cfg.NodeID, protection.Traces, &measured.Page, log)
	if err != nil {
		return err
	}
	// After the engine, whose operations make spans until they end.
	defer closeTracing(traces, cfg.Server.ShutdownTimeout, log)

	choice := chosen(cfg, protection, log)
	stores := new(backends.Stores)
	alive.Check("metadata", stores.PingMetadata)
	alive.Check("idempotency", stores.PingIdempotency)
	defer closing("stores", stores.Close)
	if err := stores.Open(ctx, choice); err != nil {
		if ctx.Err() != nil {
			log.Info("told to end before it served", "waited_for", err)
			return nil
		}
		return err
	}
	messages := new(rpc.Messages)
	defer tuning.FollowLoad(tuning.Signs{Syncs: stores.Syncs, Messages: messages.Count})()
	measureMessages(&measured.Page, "coordinator", messages)
	measure(measured, stores)
	measureHealth(&measured.Page, "coordinator", alive)
	nodes, err := openEmbedded(cfg, !dev, log)
	if err != nil {
		return err
	}
	defer closing("embedded storage nodes", nodes.close)
	remote := rpc.StorageOptions{TLS: protection.Storage, Messages: messages}
	if traces != nil {
		remote.StatsHandler = traces.ClientHandler()
	}
	alive.Opened()

	engine, err = coord.New(ctx, coord.Options{
		Identity:         stores.Identity,
		Metadata:         stores.Metadata,
		Idempotency:      stores.Idempotency,
		Hints:            stores.Metadata,
		Connect:          func(n coord.StorageNode) (coord.Replica, error) { return nodes.connect(n, remote) },
		DefaultLevel:     cfg.Consistency.DefaultLevel,
		WriteTimeout:     cfg.Consistency.WriteTimeout,
		ReadTimeout:      cfg.Consistency.ReadTimeout,
		AwaitRepair:      !cfg.Consistency.RepairAsync,
		TenantTTL:        cfg.Cache.TenantConfigTTL,
		TenantCacheSize:  cfg.Cache.MaxSize,
		TopologyInterval: cfg.HashRing.UpdateInterval,
		CopyRate:         int64(cfg.Maintenance.BytesPerSecond),
		SweepDelay:       cfg.Maintenance.CleanupDelay,
		RepairInterval:   cfg.Maintenance.RepairInterval,
		HintLifetime:     cfg.Maintenance.HintLifetime,
		IdempotencyTTL:   cfg.Idempotency.TTL,
		TombstoneGrace:   cfg.Maintenance.TombstoneGrace,
		Events:           events(measured, log),
	})
	if err != nil {
		return err
	}
	defer closing("engine", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), cfg.Server.ShutdownTimeout)
		defer cancel()
		return engine.Close(ctx)
	})
	measured.ReportStatus(func() coord.Status { return engine.Status(context.Background()) })
	measured.Engine(engine.Counters)
	measured.Migrations(running)
	screen.Attach(engine)
	if err := register(ctx, engine, nodes, cfg, dev, log); err != nil {
		return err
	}
	engine.AwaitNodes(ctx)
	alive.RingLoaded()

	requests := logging.NewRequests(log)
	serving := rpc.Options{
		Engine:         engine,
		Version:        build.Version(),
		TLS:            protection.Clients,
		Auth:           protection.Tokens,
		DefaultLevel:   cfg.Consistency.DefaultLevel,
		MaxValue:       cfg.Limits.MaxValueBytes,
		ReadTimeout:    cfg.Server.ReadTimeout,
		WriteTimeout:   cfg.Server.WriteTimeout,
		MaxConnections: cfg.Server.MaxConnections,
		MaxInFlight:    cfg.Limits.MaxInFlight,
		MaxHeldBytes:   int64(cfg.Limits.MaxHeldBytes),
		MaxTenants:     cfg.Cache.MaxSize,
		TenantLimits:   coord.TenantLimits(cfg.Limits.Tenant),
		Audit:          func(a *rpc.Admin) { audited(protection.Audit, log, a) },
		Observe: func(c rpc.Call) {
			measured.Request(c.Method, c.Code, c.Took)
			if c.Operation != "admin" {
				measured.TenantRequest(c.Tenant, c.Operation != "read", c.Code, c.Took)
			}
			fault := isFault(c.Code)
			if fault || c.Took >= console.SlowRequest {
				notable.Add(console.Request{At: time.Now(), Operation: c.Operation, Tenant: c.Tenant, Key: c.Key, Code: c.Code.String(), Took: c.Took, Err: c.Err})
			}
			if requests.Due(fault, c.Took) {
				logCall(requests, c)
			}
		},
	}
	if traces != nil {
		serving.Tracing = traces
	}
	server, err := rpc.NewServer(serving)
	if err != nil {
		return err
	}
	measured.Counter("coordinator_connections_refused_total", "Client connections closed for being beyond max_connections.",
		func() uint64 { return uint64(server.RefusedConnections()) })
	measureLimits(measured, server.Limiter())
	measured.Gauge("coordinator_connections", "Client connections that are open.", func() float64 { return float64(server.Connections()) })
	go func() { failed <- server.Serve(grpcListener) }()
	log.Info("serving", "node_id", stores.Identity.Writer.ID, "grpc", grpcListener.Addr().String(), "ops", opsListener.Addr().String(), "version", build.Version())
	if dev {
		banner(stdout, grpcListener.Addr().String(), opsListener.Addr().String(), cfg.DataDir)
	}

	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-engine.Failed():
	}
	alive.Draining()
	log.Info("draining", "timeout", cfg.Server.ShutdownTimeout.String())
	grace, cancel := context.WithTimeout(context.Background(), cfg.Server.ShutdownTimeout)
	defer cancel()
	return errors.Join(err, server.Stop(grace))
}

func logCall(requests *logging.Requests, c rpc.Call) {
	operation := c.Operation
	if operation == "admin" {
		operation = c.Method
	}
	requests.Log(logging.Request{
		Tenant: c.Tenant, Key: c.Key, Operation: operation, Code: c.Code.String(),
		Fault: isFault(c.Code), Took: c.Took, Err: c.Err, ID: c.RequestID,
	})
}

// isFault tells failures of the service from those of the request.
func isFault(c codes.Code) bool {
	switch c {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted, codes.DataLoss:
		return true
	}
	return false
}

// listen opens an address. The error of one that is taken names the flag that
// changes it.
func listen(address, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("address %s is in use; choose another with %s HOST:PORT", address, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w", address, flag, err)
	}
	return l, nil
}

// defaultAddress is where the command line looks for a coordinator.
const defaultAddress = "127.0.0.1:50051"

func banner(w io.Writer, grpc, ops, dir string) {
	target := ""
	if grpc != defaultAddress {
		target = " -addr " + grpc
	}
	fmt.Fprintf(w, `grpc %s
ops http://%s
data %s

Try:
  %[4]s put%[5]s greeting hello
  %[4]s get%[5]s greeting
  %[4]s status%[5]s
`, grpc, ops, dir, os.Args[0], target)
}

// events are the engine's, counted and, where they matter to an operator, logged.
func events(measured *metrics.Set, log hclog.Logger) coord.Events {
	e := measured.Events()
	count := e.Conflict
	e.Conflict = func(tenant, key string, winner, loser coord.Head) {
		count(tenant, key, winner, loser)
		if log.IsDebug() {
			log.Debug("conflict", "tenant_id", tenant, "key", key, "winner", winner.String(), "loser", loser.String())
		}
	}
	e.Background = func(what string, err error) { log.Warn("background work failed", "what", what, "error", err) }
	return e
}

// openTracing begins to trace as a configuration says, and puts what becomes of
// the spans on the metrics page; kind is coordinator or storage. It is nil where
// nothing is traced.
func openTracing(t *config.Tracing, kind, id string, tls credentials.TransportCredentials, page *metrics.Page, log hclog.Logger) (*tracing.Tracing, error) {
	if t == nil {
		return nil, nil
	}
	o := tracing.Options{
		Service: "pairdb-" + kind, Instance: id, Version: build.Version(), Endpoint: t.Endpoint, TLS: tls, Headers: map[string]string{},
		Timeout: t.Timeout, QueueSize: t.QueueSize, SampleRatio: t.SampleRatio, Keys: t.RecordKeys,
		Warn: func(message string, err error) { log.Warn(message, "endpoint", t.Endpoint, "error", err) },
	}
	for name, value := range t.Headers {
		o.Headers[name] = value.Reveal()
	}
	traces, err := tracing.Open(o)
	if err != nil {
		return nil, err
	}
	log.Info("tracing", "endpoint", t.Endpoint, "sample_ratio", t.SampleRatio)
	page.Spans(kind, func() metrics.Spans { return metrics.Spans(traces.Stats()) })
	return traces, nil
}

// maxFlush is how long the spans that are left at the end may take to be sent.
const maxFlush = 5 * time.Second

func closeTracing(traces *tracing.Tracing, within time.Duration, log hclog.Logger) {
	if traces == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(within, maxFlush))
	defer cancel()
	if err := traces.Close(ctx); err != nil {
		log.Warn("the last spans are lost", "error", err)
	}
}

// measureLimits puts what is admitted and refused on the metrics page.
func measureLimits(page *metrics.Set, l *limit.Limiter) {
	page.Counter("coordinator_rate_limited_total", "Operations refused because their tenant is at its limits.", func() uint64 { rate, _ := l.Refused(); return rate })
	page.Counter("coordinator_shed_total", "Operations refused because the coordinator has too much under way.", func() uint64 { _, load := l.Refused(); return load })
	page.Gauge("coordinator_operations_in_flight", "Operations under way.", func() float64 { return float64(l.InFlight()) })
	page.Gauge("coordinator_operations_allowed", "Operations that may be under way now; less than limits.max_in_flight while they take too long.", func() float64 { return float64(l.Allowed()) })
	page.Gauge("coordinator_values_held_bytes", "Bytes of values that came in or wait to be sent.", func() float64 { return float64(l.Bytes()) })
	page.Gauge("coordinator_limited_tenants", "Tenants whose operations are counted apart.", func() float64 { return float64(l.Tenants()) })
}

// audited writes down what an administrator did, in a file of its own or the log.
func audited(file *audit.Log, log hclog.Logger, a *rpc.Admin) {
	e := audit.Entry{
		Time: time.Now().UTC(), Subject: a.Subject, KeyID: a.KeyID, Peer: a.Peer,
		Operation: a.Method, Target: a.Target, Outcome: a.Outcome(), RequestID: a.RequestID(),
	}
	if file != nil {
		err := file.Write(e)
		if err == nil {
			return
		}
		log.Error("audit entry goes to the log", "error", err)
	}
	log.Info("audit", "subject", e.Subject, "key_id", e.KeyID, "peer", e.Peer,
		"operation", e.Operation, "target", e.Target, "outcome", e.Outcome, "request_id", e.RequestID)
}

// reloads logs what becomes of files that have changed.
func reloads(log hclog.Logger) guard.Events {
	return guard.Events{
		Loaded: func(what string) { log.Info("files read again", "what", what) },
		Failed: func(what string, err error) {
			log.Error("files could not be read again; what they held before stays in use", "what", what, "error", err)
		},
	}
}

// chosen are the stores that the configuration names.
func chosen(cfg *config.Config, protection *guard.Guard, log hclog.Logger) backends.Options {
	warn := func(message string) { log.Warn(message, "store", "idempotency") }
	o := backends.Options{
		NodeID:  cfg.NodeID,
		Waiting: func(what string, err error) { log.Warn("cannot start yet; trying again", "what", what, "error", err) },
	}
	if s := cfg.Metadata.SQLite; s != nil {
		o.SQLite = &sqlite.Options{Path: s.Path}
	}
	if p := cfg.Metadata.Postgres; p != nil {
		o.Postgres = &postgres.Options{
			URL: p.URL.Reveal(), SessionURL: p.SessionURL.Reveal(),
			MaxConnections: p.MaxConnections, MinConnections: p.MinConnections, ConnMaxLifetime: p.ConnMaxLifetime,
		}
	}
	ttl := cfg.Idempotency.TTL
	if b := cfg.Idempotency.Badger; b != nil {
		o.Badger = &badger.ClaimsOptions{Dir: b.Path, TTL: ttl, Sync: true, Warn: warn}
	}
	if p := cfg.Idempotency.Postgres; p != nil {
		o.PostgresClaims = &postgres.ClaimsOptions{TTL: ttl, Warn: warn}
		if !p.URL.Empty() {
			o.ClaimsDatabase = &postgres.Options{URL: p.URL.Reveal(), MaxConnections: p.MaxConnections}
		}
	}
	if r := cfg.Idempotency.Redis; r != nil {
		retries := r.MaxRetries
		if retries == 0 {
			retries = -1 // none; 0 means the default there
		}
		o.Redis = &redis.Options{
			Addresses: r.Addresses, MasterName: r.MasterName,
			Username: r.Username, Password: redis.NewSecret(r.Password.Reveal()), SentinelPassword: redis.NewSecret(r.SentinelPassword.Reveal()),
			DB: r.DB, Dial: protection.DialRedis, MaxRetries: retries, PoolSize: r.PoolSize, MinIdleConns: r.MinIdleConns,
			WaitReplicas: r.WaitReplicas, TTL: ttl, Warn: warn,
		}
	}
	return o
}

// measure puts how the stores' connections are used on the metrics page.
func measure(page *metrics.Set, s *backends.Stores) {
	pool := func(name string, stats func() postgres.PoolStats) {
		page.Pool(name, func() metrics.Pool { return metrics.Pool(stats()) })
	}
	if store, ok := s.Metadata.(*postgres.Store); ok {
		pool("metadata", store.PoolStats)
	}
	switch claims := s.Idempotency.(type) {
	case *postgres.Claims:
		pool("idempotency", claims.PoolStats)
	case *redis.Store:
		page.Counter("coordinator_idempotency_steps_total", "Steps taken on claims.", func() uint64 { return uint64(claims.Stats().Steps) })
		page.Counter("coordinator_idempotency_round_trips_total", "Pipelines sent to Redis.", func() uint64 { return uint64(claims.Stats().RoundTrips) })
		page.Counter("coordinator_idempotency_retries_total", "Steps sent again.", func() uint64 { return uint64(claims.Stats().Retries) })
		page.Gauge("coordinator_idempotency_queued", "Steps that wait to be sent.", func() float64 { return float64(claims.Stats().Queued) })
		page.Gauge("coordinator_idempotency_pool_connections", "Connections to Redis.", func() float64 { return float64(claims.Stats().Connections) })
		page.Gauge("coordinator_idempotency_pool_idle", "Connections to Redis that are unused.", func() float64 { return float64(claims.Stats().IdleConnections) })
	}
}

// measureMessages shows how many operations go together between coordinators
// and storage nodes.
func measureMessages(page *metrics.Page, what string, m *rpc.Messages) {
	page.Counter(what+"_operation_messages_total", "Messages of operations from coordinators to storage nodes.",
		func() uint64 { messages, _ := m.Count(); return messages })
	page.Counter(what+"_message_operations_total", "Operations in those messages.",
		func() uint64 { _, operations := m.Count(); return operations })
}

// runningMigration is the change of topology under way, if there is one.
func runningMigration(engine *coord.Coordinator) []metrics.Migration {
	m, ok := engine.RunningMigration()
	if !ok {
		return nil
	}
	return []metrics.Migration{{ID: m.ID, Type: m.Kind.Type(), Moved: m.Keys, Keys: m.Total}}
}

// measureHealth puts readiness and dependencies on the metrics page.
func measureHealth(page *metrics.Page, what string, alive *health.Health) {
	page.Health(what, func() bool { ready, _ := alive.Ready(); return ready }, func() []metrics.Dependency {
		var all []metrics.Dependency
		for _, d := range alive.Dependencies() {
			all = append(all, metrics.Dependency{Name: d.Name, Up: d.State == "up", Seconds: d.LatencyMillis / 1000})
		}
		return all
	})
}

// embedded are the storage nodes that run in this process, by id.
type embedded map[string]*badger.Node

// embeddedHost stands for an address in the registration of an embedded node.
const embeddedHost = "embedded"

func openEmbedded(cfg *config.Config, sync bool, log hclog.Logger) (embedded, error) {
	nodes := embedded{}
	for i := range cfg.Storage.Embedded {
		id := fmt.Sprintf("storage-%d", i+1)
		node, err := badger.OpenNode(badger.NodeOptions{
			ID: id, Dir: filepath.Join(cfg.DataDir, id), Sync: sync,
			Warn: func(message string) { log.Warn(message, "node_id", id) },
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open embedded storage node %s: %w", id, err), nodes.close())
		}
		nodes[id] = node
	}
	if len(nodes) > 0 && !sync {
		log.Info("embedded storage nodes do not wait for the disk: an acknowledged write survives the death of this process, not of the machine")
	}
	return nodes, nil
}

func (e embedded) close() error {
	var errs []error
	for _, node := range e {
		errs = append(errs, node.Close())
	}
	return errors.Join(errs...)
}

// borrowed is an embedded node as the engine gets it: the engine closes what it
// connects to, but an embedded node is closed after the engine.
type borrowed struct{ coord.Replica }

func (borrowed) Close() error { return nil }

// connect opens the way to a registered storage node, with the given options
// where it is another process.
func (e embedded) connect(n coord.StorageNode, remote rpc.StorageOptions) (coord.Replica, error) {
	if node := e[n.ID]; node != nil {
		return borrowed{node}, nil
	}
	remote.Address, remote.NodeID, remote.UUID = n.Address(), n.ID, n.UUID
	return rpc.DialStorage(remote)
}

// register makes members of the embedded nodes and of those that the
// configuration names, and in dev mode makes the tenant that clients use who
// name none.
func register(ctx context.Context, engine *coord.Coordinator, nodes embedded, cfg *config.Config, dev bool, log hclog.Logger) error {
	for i := range len(nodes) {
		n := coord.StorageNode{ID: fmt.Sprintf("storage-%d", i+1), Host: embeddedHost, VirtualNodes: cfg.HashRing.VirtualNodes}
		if _, err := engine.AddNode(ctx, n); err != nil {
			return fmt.Errorf("register embedded storage node %s: %w", n.ID, err)
		}
	}
	for _, n := range cfg.StorageNodes {
		member, err := engine.RegisterNode(ctx, coord.StorageNode{ID: n.ID, Host: n.Host, Port: n.Port, VirtualNodes: n.VirtualNodes})
		if err != nil {
			return fmt.Errorf("register storage node %s: %w", n.ID, err)
		}
		if !member {
			log.Warn("a storage node of the configuration was removed from the cluster and stays removed; add it again with: coordinator node add", "node_id", n.ID)
		}
	}
	if !dev {
		return nil
	}
	rf := min(devReplicationFactor, len(nodes))
	if _, err := engine.CreateTenant(ctx, devTenant, rf); err != nil && !errors.Is(err, coord.ErrTenantExists) {
		return fmt.Errorf("create tenant %q: %w", devTenant, err)
	}
	return nil
}

// devTenant is the tenant of clients that name none, which dev mode creates.
const (
	devTenant            = "default"
	devReplicationFactor = 3
)

func runStorage(ctx context.Context, args []string, stderr io.Writer) error {
	node, err := flags.Storage(args, stderr, os.Getenv)
	if err != nil {
		return err
	}
	log, err := logging.New(logging.Options{Level: node.LogLevel, Format: node.LogFormat, Output: stderr})
	if err != nil {
		return err
	}
	defer tuning.CollectRarely(tuning.StorageGarbage, 0)()
	limitMemory(log)
	return serveStorage(ctx, node, log, stderr)
}

// serveStorage runs a storage node until ctx ends, and closes what it opened
// in the opposite order.
func serveStorage(ctx context.Context, opts flags.StorageNode, log hclog.Logger, stderr io.Writer) (err error) {
	closing := func(what string, close func() error) {
		if failure := close(); failure != nil {
			err = errors.Join(err, fmt.Errorf("close %s: %w", what, failure))
		}
	}
	listener, err := listen(opts.Listen, "-listen")
	if err != nil {
		return err
	}
	defer listener.Close()
	advertise := opts.Advertise
	if advertise == "" {
		if advertise, err = reachable(listener.Addr()); err != nil {
			return err
		}
	}
	if err := opts.Join.Check(advertise); err != nil {
		return err
	}

	protection, err := guard.OpenStorage(opts.TLS, opts.Tracing, reloads(log))
	if err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(context.Background())
	watched := protection.Watch(watching)
	defer func() {
		stopWatching()
		watched()
	}()

	alive := health.New()
	page := new(metrics.Page)
	page.Process(build.Version(), build.Commit())
	failed := make(chan error, 2)
	opsAt := ""
	if opts.OpsListen != "" {
		opsListener, err := listen(opts.OpsListen, "-ops-listen")
		if err != nil {
			return err
		}
		opsAt = opsListener.Addr().String()
		server := httpd.New(httpd.Options{
			Title: "PairDB storage node " + opts.ID, Live: alive.ServeLive, Ready: alive.ServeReady,
			Metrics: page, MetricsPath: "/metrics",
			ErrorLog: log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		})
		go func() { failed <- server.Serve(opsListener) }()
		defer closing("ops server", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return server.Shutdown(ctx)
		})
	}

	traces, err := openTracing(opts.Tracing, "storage", opts.ID, protection.Traces, page, log)
	if err != nil {
		return err
	}
	defer closeTracing(traces, storageGrace, log)
	node, err := badger.OpenNode(badger.NodeOptions{
		ID: opts.ID, Dir: opts.DataDir, Sync: opts.Sync, Profile: badger.Large,
		Warn: func(message string) { log.Warn(message) },
	})
	if err != nil {
		return err // which says what was opened
	}
	defer closing("storage node", node.Close)
	alive.Check("disk", func(context.Context) error { return node.Unavailable() })
	page.Storage(func() metrics.Store { return metrics.Store(node.Stats()) })
	measureHealth(page, "storage", alive)
	serving := rpc.StorageServerOptions{Replica: node, TLS: protection.Clients}
	if traces != nil {
		serving.Tracing = traces
	}
	server, err := rpc.NewStorageServer(serving)
	if err != nil {
		return err
	}
	page.Gauge("storage_connections", "Open connections of coordinators.", func() float64 { return float64(server.Connections()) })
	page.Gauge("storage_outdated_connections", "Connections of coordinators that speak an older version of the storage protocol than this node could.",
		func() float64 { return float64(server.OutdatedConnections()) })
	page.Counter("storage_compared_bytes_total", "Bytes of questions and answers about sums, with which replicas are compared.",
		func() uint64 { return uint64(server.ComparedBytes()) })
	defer tuning.FollowLoad(tuning.Signs{Messages: server.Messages().Count, Thrifty: true})()
	measureMessages(page, "storage", server.Messages())
	go func() { failed <- server.Serve(listener) }()
	alive.Opened()
	alive.RingLoaded()
	log.Info("serving", "node_id", opts.ID, "grpc", listener.Addr().String(), "advertise", advertise, "ops", opsAt, "sync", opts.Sync, "version", build.Version())

	joining, stopJoining := context.WithCancel(ctx)
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		if opts.Join.Coordinator == "" {
			return
		}
		if err := opts.Join.Run(joining, environment(io.Discard, stderr), opts.ID, advertise, func(err error) {
			log.Warn("could not join yet", "error", err)
		}); err == nil {
			log.Info("joined", "coordinator", opts.Join.Coordinator)
		}
	}()
	defer func() {
		stopJoining()
		<-joined
	}()

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	alive.Draining()
	log.Info("draining")
	grace, cancel := context.WithTimeout(context.Background(), storageGrace)
	defer cancel()
	server.Stop(grace)
	return err
}

// storageGrace is how long a storage node lets calls under way end.
const storageGrace = 10 * time.Second

// reachable is the address by which others reach a listener: where it listens
// on every interface, the machine's name stands for the host.
func reachable(addr net.Addr) (string, error) {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "", fmt.Errorf("derive -advertise: %w", err)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("derive -advertise: %w", err)
		}
	}
	return net.JoinHostPort(host, port), nil
}
