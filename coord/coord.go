package coord

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// Options say what a Coordinator works with. Fields without a default are required.
type Options struct {
	// Identity is this process's own, acquired from Metadata. From New on it is
	// the Coordinator's, which renews it when it must and releases it in Close.
	Identity    Identity
	Metadata    Metadata
	Idempotency Idempotency
	// Hints stores what replicas have missed; without it they catch up only
	// when a read meets them.
	Hints Hints
	// Connect opens a storage node. It must not wait for the node to answer.
	// The Coordinator closes what it opens.
	Connect func(StorageNode) (Replica, error)

	DefaultLevel Level         // default Quorum
	WriteTimeout time.Duration // of the replica phase of a write; default 5 s
	ReadTimeout  time.Duration // likewise; default 3 s
	// AwaitRepair makes a read that finds stale replicas wait until all of
	// them are repaired. A majority is always waited for.
	AwaitRepair bool
	// MaxClockOffset: versions further ahead of the wall clock are taken for
	// the mark of a broken clock. Default DefaultMaxClockOffset.
	MaxClockOffset time.Duration

	// CopyRate bounds what a change of topology or a repair reads to copy it, in
	// bytes a second; default 64 MiB. SweepDelay is how long after a change nodes
	// keep what they do not own any more, unless it is in the way; default 1 min.
	CopyRate   int64
	SweepDelay time.Duration

	// RepairInterval is about how long it takes to compare all replicas once,
	// again and again; default 1 min.
	RepairInterval time.Duration
	// IdempotencyTTL is for how long the Idempotency store remembers a claim;
	// default DefaultIdempotencyTTL.
	IdempotencyTTL time.Duration
	// TombstoneGrace is for how long all replicas must have held a tombstone
	// before it is forgotten. The default, which is also the least, is the longer
	// of HintLifetime and IdempotencyTTL, and WriteTimeout and MessageLifetime.
	TombstoneGrace time.Duration

	HintLifetime     time.Duration // default DefaultHintLifetime
	ReplayInterval   time.Duration // between looks for nodes that are owed hints; default 1 s
	TenantTTL        time.Duration // how long a tenant is cached; default 5 min
	TenantCacheSize  int           // tenants; default 10,000
	TopologyInterval time.Duration // between looks at the registered nodes; default 30 s

	Wall   func() time.Time // default time.Now
	Events Events
}

func (o *Options) complete() error {
	var missing []error
	if o.Identity.Writer.ID == "" {
		missing = append(missing, errors.New("no Identity"))
	}
	if o.Metadata == nil {
		missing = append(missing, errors.New("no Metadata"))
	}
	if o.Idempotency == nil {
		missing = append(missing, errors.New("no Idempotency"))
	}
	if o.Connect == nil {
		missing = append(missing, errors.New("no Connect"))
	}
	setDefault(&o.DefaultLevel, Quorum)
	setDefault(&o.WriteTimeout, 5*time.Second)
	setDefault(&o.ReadTimeout, 3*time.Second)
	setDefault(&o.MaxClockOffset, DefaultMaxClockOffset)
	setDefault(&o.ReplayInterval, time.Second)
	setDefault(&o.HintLifetime, DefaultHintLifetime)
	setDefault(&o.CopyRate, 64<<20)
	setDefault(&o.SweepDelay, time.Minute)
	setDefault(&o.RepairInterval, time.Minute)
	setDefault(&o.IdempotencyTTL, DefaultIdempotencyTTL)
	least := max(o.HintLifetime, o.IdempotencyTTL) + o.WriteTimeout + MessageLifetime
	setDefault(&o.TombstoneGrace, least)
	if o.TombstoneGrace < least {
		missing = append(missing, fmt.Errorf("TombstoneGrace is %v, want at least %v", o.TombstoneGrace, least))
	}
	setDefault(&o.TenantTTL, 5*time.Minute)
	setDefault(&o.TenantCacheSize, 10_000)
	setDefault(&o.TopologyInterval, 30*time.Second)
	if o.Wall == nil {
		o.Wall = time.Now
	}
	return errors.Join(missing...)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Coordinator is the engine of one coordinator process. All methods are safe
// for concurrent use.
type Coordinator struct {
	options     Options
	events      Events
	metadata    Metadata
	idempotency Idempotency
	issuer      issuer
	tenants     tenantCache
	hedges      hedgeBudget
	alarms      alarms
	handoff     *handoff // nil without Options.Hints
	identity    identityKeeper
	view        atomic.Pointer[view]
	rings       rings       // operations that wait for a newer one
	leads       atomic.Bool // it does the housekeeping
	migrations  migrations
	repairs     repairs
	collector   collector
	purger      purger
	run         string     // names this process among those of its node id
	reshaping   sync.Mutex // held while a view replaces another
	origin      time.Time  // instant 0
	startedAt   time.Time

	pool    sync.Pool
	active  atomic.Int64 // operations that are not yet recycled
	closing atomic.Bool
	idle    chan struct{}
	retired chan struct{} // closed when nothing is under way any more

	background sync.WaitGroup
	stop       context.CancelFunc
}

// New loads the topology and opens its nodes, and returns without waiting for
// any of them. It fails where metadata does not answer.
func New(ctx context.Context, options Options) (*Coordinator, error) {
	if err := options.complete(); err != nil {
		return nil, fmt.Errorf("coordinator options: %w", err)
	}
	c := &Coordinator{
		options:     options,
		events:      options.Events,
		metadata:    options.Metadata,
		idempotency: options.Idempotency,
		issuer:      issuer{writer: options.Identity.Writer, wall: options.Wall, maxOffset: options.MaxClockOffset, stuck: make(chan struct{}, 1)},
		origin:      time.Now(),
		startedAt:   options.Wall(),
		pool:        sync.Pool{New: newOperation},
		idle:        make(chan struct{}, 1),
		retired:     make(chan struct{}),
		rings:       rings{wake: make(chan struct{}, 1)},
		run:         rand.Text(),
	}
	c.migrations.c, c.migrations.wake = c, make(chan struct{}, 1)
	c.repairs.c, c.collector.c, c.purger.c = c, c, c
	c.identity = identityKeeper{c: c, held: options.Identity, failed: make(chan error, 1)}
	c.hedges.credit.Store(hedgeBurst)
	c.alarms.init(c.now)
	c.tenants.open(c.metadata, options.TenantTTL, options.TenantCacheSize, c.now, options.Events.TenantCache)
	c.view.Store(&view{ring: &ring.Ring{}})
	topology, err := c.metadata.Topology(ctx)
	if err != nil {
		return nil, fmt.Errorf("load topology: %w", err)
	}
	if err := c.reshape(topology); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	c.stop = stop
	if options.Hints != nil {
		c.handoff = newHandoff(c, options.Hints)
		// The ledger is known from the start, so that nobody takes an unread
		// one for an empty one.
		if err := c.handoff.refresh(ctx); err != nil {
			stop()
			return nil, errors.Join(err, c.view.Load().close())
		}
		c.background.Go(func() { c.handoff.run(running) })
	}
	c.background.Go(func() { c.watchTopology(running) })
	c.background.Go(func() { c.followRings(running) })
	c.background.Go(func() { c.keepHouse(running) })
	c.background.Go(func() { c.identity.run(running) })
	if watcher, ok := options.Metadata.(Watcher); ok {
		c.background.Go(func() { watcher.Watch(running, func(change Change) { c.noteChange(running, change) }) })
	}
	return c, nil
}

// Close refuses new operations, waits for those under way until ctx ends, and
// closes the replicas. Operations end by themselves within their timeouts.
func (c *Coordinator) Close(ctx context.Context) error {
	if c.closing.Swap(true) {
		return nil
	}
	var err error
	for c.active.Load() > 0 && err == nil {
		select {
		case <-c.idle:
		case <-ctx.Done():
			err = fmt.Errorf("%d operations were still under way: %w", c.active.Load(), ctx.Err())
		}
	}
	// Operations may leave hints until they end, so the handoff goes after them.
	c.stop()
	close(c.retired)
	c.background.Wait()
	return errors.Join(err, c.view.Load().close(), c.identity.release())
}

func (c *Coordinator) now() instant { return instant(time.Since(c.origin)) }

// begin counts an operation in, unless the coordinator is closing.
func (c *Coordinator) begin() error {
	c.active.Add(1)
	if c.closing.Load() {
		c.ended()
		return ErrShuttingDown
	}
	return nil
}

func (c *Coordinator) ended() {
	if c.active.Add(-1) == 0 && c.closing.Load() {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
}

// Write writes a value, or deletes a key, and returns once the level has
// acknowledged; the other replicas get the version in the background. When ctx
// ends first, only what has had no effect yet is given up. Every error is a
// *WriteError that tells the outcome.
func (c *Coordinator) Write(ctx context.Context, req WriteRequest) (WriteResult, error) {
	o, err := c.enter(ctx, opWrite, req.Tenant, req.Key, req.Level, req.Deadline)
	if err != nil {
		return WriteResult{}, &WriteError{Outcome: NotApplied, Err: err}
	}
	o.takeWrite(&req)
	o.run(ctx)
	o.mu.Lock()
	return o.leaveWrite(ctx)
}

// Read returns the value of a key, or ErrKeyNotFound.
func (c *Coordinator) Read(ctx context.Context, req ReadRequest) (ReadResult, error) {
	o, err := c.enter(ctx, opRead, req.Tenant, req.Key, req.Level, req.Deadline)
	if err != nil {
		return ReadResult{}, err
	}
	o.takeRead(&req)
	o.run(ctx)
	o.mu.Lock()
	return o.leaveRead(ctx)
}

// enter takes an operation and gives it its subject. It returns with the
// operation locked, for the caller to complete and run.
func (c *Coordinator) enter(ctx context.Context, kind operationKind, tenant, key string, level Level, due time.Time) (*operation, error) {
	if err := ctx.Err(); err != nil {
		return nil, abandonError(ctx)
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	t, ok := c.tenants.ready(tenant)
	v := c.view.Load()
	if !ok || !v.serves(t) {
		var err error
		if v, t, err = c.awaitTenant(ctx, tenant, due); err != nil {
			c.ended()
			return nil, err
		}
	}
	return c.open(kind, v, t, key, level, due), nil
}

// open takes an operation and gives it its subject: the key, its replicas, and
// their order. It returns with the operation locked.
func (c *Coordinator) open(kind operationKind, v *view, t *Tenant, key string, level Level, due time.Time) *operation {
	if level == LevelDefault {
		level = c.options.DefaultLevel
	}
	c.hedges.earn()
	timeout := c.options.ReadTimeout
	if kind == opWrite {
		timeout = c.options.WriteTimeout
	}
	o := c.acquire(kind, timeout)
	if at := instant(due.Sub(c.origin)); !due.IsZero() && at < o.deadline {
		o.limit = at
	}
	o.id, o.rf = t.ID, t.ReplicationFactor
	sub := o.subject()
	*sub = subject{tenant: t.Space, key: key, token: ring.KeyToken(t.ID, key), level: level}
	o.place(v, sub)
	return o
}

func (c *Coordinator) noteFailure(deletion bool, err error) {
	quorum := (*QuorumError)(nil)
	if err == nil || c.events.QuorumFailure == nil || !errors.As(err, &quorum) {
		return
	}
	operation := "write"
	if deletion {
		operation = "delete"
	}
	c.events.QuorumFailure(operation, quorum)
}

func (c *Coordinator) noteRepair(tenant, key, node string) {
	if f := c.events.Repair; f != nil {
		f(tenant, key, node)
	}
}

// fingerprint covers what a keyed request does: a retry may ask for another
// level, but not for another value, lifetime or operation. The value's length
// is in it, so nothing that follows can be taken for a part of the value.
func fingerprint(req WriteRequest) Fingerprint {
	h := sha256.New()
	var head [9]byte
	if req.Delete {
		head[0] = 1
	}
	binary.BigEndian.PutUint64(head[1:], uint64(len(req.Value)))
	h.Write(head[:])
	h.Write(req.Value)
	if req.TTL != 0 {
		binary.BigEndian.PutUint64(head[1:], uint64(req.TTL))
		h.Write(head[1:])
	}
	return Fingerprint(h.Sum(nil)[:16])
}
