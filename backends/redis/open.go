package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	driver "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/pairdb/coordinator/coord"
)

// Options say which Redis remembers keyed requests, and how it is asked. Zero
// values take the defaults.
type Options struct {
	// Addresses are HOST:PORT. One: a single server. Several: nodes of a Redis
	// Cluster, from which the others are learnt. With MasterName: Sentinels.
	Addresses  []string
	MasterName string // the primary's name at the Sentinels
	Cluster    bool   // the one address is a node of a Redis Cluster

	Username, SentinelUsername string // empty: the default user
	Password, SentinelPassword Secret
	DB                         int         // not with Cluster
	TLS                        *tls.Config // nil: plain text. Of Sentinels too
	// Dial connects to a server in place of TLS and DialTimeout, where it is set:
	// it returns connections that are secured already.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout bounds one step as a whole: waiting, connecting, retries. After it
	// the step fails. Default 500 ms.
	Timeout time.Duration
	// DialTimeout, ReadTimeout and WriteTimeout bound one try at their part of a
	// step; default Timeout.
	DialTimeout, ReadTimeout, WriteTimeout time.Duration
	// MaxRetries of one step, within the store's retry budget. Default 3;
	// negative: none.
	MaxRetries int
	// PoolSize bounds the connections (of each node, with Cluster), default 100.
	// MinIdleConns are kept open, default none. Pipelining needs few: see Stats.
	PoolSize, MinIdleConns int
	// MaxQueued bounds the steps that wait to be sent; more fail at once.
	// Default 4,096.
	MaxQueued int

	// TTL is how long minted claims live; default coord.DefaultIdempotencyTTL.
	TTL time.Duration
	// KeyPrefix is what the claims' keys begin with; default "pairdb:claim:".
	KeyPrefix string
	// WaitReplicas is how many replicas must hold a minted claim before it is
	// confirmed; default 0. Not with Cluster. See the package comment.
	WaitReplicas int

	// Warn, where it is not nil, is told what in the server's settings puts
	// claims at risk: when that is first seen, and again when it comes back. The
	// store looks at start, and every minute. It is called by one goroutine.
	Warn func(message string)
}

const (
	defaultTimeout   = 500 * time.Millisecond
	defaultRetries   = 3
	defaultPoolSize  = 100
	defaultMaxQueued = 4096
	defaultPrefix    = "pairdb:claim:"
	maxPrefixBytes   = 64
	maxReplicas      = 100
)

// cluster tells whether the addresses are those of a Redis Cluster.
func (o *Options) cluster() bool { return o.MasterName == "" && (o.Cluster || len(o.Addresses) > 1) }

func (o *Options) fill() {
	for _, d := range []struct {
		value *time.Duration
		to    func() time.Duration
	}{
		{&o.Timeout, func() time.Duration { return defaultTimeout }},
		{&o.DialTimeout, func() time.Duration { return o.Timeout }},
		{&o.ReadTimeout, func() time.Duration { return o.Timeout }},
		{&o.WriteTimeout, func() time.Duration { return o.Timeout }},
		{&o.TTL, func() time.Duration { return coord.DefaultIdempotencyTTL }},
	} {
		if *d.value == 0 {
			*d.value = d.to()
		}
	}
	for _, n := range []struct {
		value *int
		to    int
	}{
		{&o.MaxRetries, defaultRetries},
		{&o.PoolSize, defaultPoolSize},
		{&o.MaxQueued, defaultMaxQueued},
	} {
		if *n.value == 0 {
			*n.value = n.to
		}
	}
	o.MaxRetries = max(o.MaxRetries, 0)
	if o.KeyPrefix == "" {
		o.KeyPrefix = defaultPrefix
	}
}

// check reports every fault at once.
func (o *Options) check() error {
	var faults []error
	fault := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(len(o.Addresses) > 0, "no address is given")
	for _, address := range o.Addresses {
		_, _, err := net.SplitHostPort(address)
		fault(err == nil, "address %q: want HOST:PORT", address)
	}
	fault(o.Timeout > 0 && o.DialTimeout > 0 && o.ReadTimeout > 0 && o.WriteTimeout > 0, "a timeout is negative")
	fault(o.TTL >= time.Millisecond, "the TTL is %s, want at least 1ms", o.TTL)
	fault(o.PoolSize > 0 && o.MinIdleConns >= 0 && o.MaxQueued > 0 && o.DB >= 0, "a size or the database's number is negative")
	fault(o.WaitReplicas >= 0 && o.WaitReplicas <= maxReplicas, "%d replicas to wait for, want 0 to %d", o.WaitReplicas, maxReplicas)
	fault(len(o.KeyPrefix) <= maxPrefixBytes && !strings.ContainsAny(o.KeyPrefix, "{}"),
		"key prefix %q: want at most %d bytes, and no braces, which would put all claims on one node of a cluster", o.KeyPrefix, maxPrefixBytes)
	if o.cluster() {
		fault(o.DB == 0, "database %d: a cluster has only database 0", o.DB)
		fault(o.WaitReplicas == 0, "replicas cannot be waited for in a cluster: set min-replicas-to-write on its nodes")
	}
	return errors.Join(faults...)
}

// Store is an idempotency store in Redis. It implements coord.Idempotency and is
// safe for concurrent use.
type Store struct {
	opts   Options
	where  string // the addresses, in errors
	client driver.UniversalClient
	budget *budget
	pool   sync.Pool // of *step
	count  counters

	mu     sync.RWMutex // held shared to queue steps, exclusively to close the queues
	closed bool
	queues []chan *step

	stopWatch context.CancelFunc
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

var _ coord.Idempotency = (*Store)(nil)

// quiet makes the driver keep its messages to itself: it has one log for the
// whole process, which is standard error, and says nothing there that the errors
// it returns do not.
var quiet = sync.OnceFunc(logging.Disable)

// Open returns a store. It needs no server to be up: steps fail until one
// answers, and work from then on.
func Open(opts Options) (*Store, error) {
	opts.fill()
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("open idempotency store in Redis: %w", err)
	}
	quiet()
	s := &Store{
		opts:   opts,
		where:  strings.Join(opts.Addresses, ","),
		client: newClient(&opts),
		budget: newBudget(),
	}
	queues, senders := 1, singleSenders
	if opts.cluster() {
		queues, senders = clusterQueues, 1
	}
	for range queues {
		queue := make(chan *step, max(opts.MaxQueued/queues, 1))
		s.queues = append(s.queues, queue)
		for range senders {
			s.running.Go(func() { s.send(queue) })
		}
	}
	watching, stop := context.WithCancel(context.Background())
	s.stopWatch = stop
	if opts.Warn != nil {
		s.running.Go(func() { s.watch(watching) })
	}
	return s, nil
}

// newClient makes a client that does not retry by itself, except that it follows
// one redirection in a cluster: retries are the store's, which has a budget.
func newClient(o *Options) driver.UniversalClient {
	shared := driver.UniversalOptions{
		Addrs: o.Addresses, MasterName: o.MasterName,
		Username: o.Username, Password: o.Password.reveal(),
		SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword.reveal(),
		DB: o.DB, TLSConfig: o.TLS, Dialer: o.Dial,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		ContextTimeoutEnabled: true,
		PoolTimeout:           o.Timeout,
		PoolSize:              o.PoolSize, MinIdleConns: o.MinIdleConns, PipelinePoolSize: -1,
		DialerRetries: 1, MaxRetries: -1, MaxRedirects: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch {
	case o.cluster():
		options := shared.Cluster()
		options.MinRetryBackoff, options.MaxRetryBackoff = -1, -1
		return driver.NewClusterClient(options)
	case o.MasterName != "":
		return driver.NewFailoverClient(shared.Failover())
	}
	return driver.NewClient(shared.Simple())
}

// Ping implements coord.Idempotency. Of a cluster every primary must answer.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	err := s.eachPrimary(ctx, func(ctx context.Context, server driver.Cmdable, _ string) error {
		return server.Ping(ctx).Err()
	})
	if err != nil {
		return s.unavailable("ping", err)
	}
	return nil
}

// eachPrimary calls ask for every primary, with its address where there may be
// several. Calls for different ones may run at once.
func (s *Store) eachPrimary(ctx context.Context, ask func(ctx context.Context, server driver.Cmdable, address string) error) error {
	if cluster, ok := s.client.(*driver.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, server *driver.Client) error {
			return ask(ctx, server, server.Options().Addr)
		})
	}
	return ask(ctx, s.client, "")
}

func (s *Store) unavailable(what string, err error) error {
	return fmt.Errorf("%w: %s (Redis at %s): %w", coord.ErrIdempotencyUnavailable, what, s.where, err)
}

// Close implements coord.Idempotency. Steps that wait are sent first, or fail
// within Timeout; later ones fail at once. Calling it again does no harm.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		for _, queue := range s.queues {
			close(queue)
		}
		s.mu.Unlock()
		s.stopWatch()
		s.running.Wait()
		if err := s.client.Close(); err != nil {
			s.closeErr = fmt.Errorf("close idempotency store in Redis: %w", err)
		}
	})
	return s.closeErr
}
