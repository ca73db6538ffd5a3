// Package limit decides which operations a coordinator takes on: each tenant
// within its own limits, and all together no more than are done in good time.
package limit

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// Kinds of refusals. Nothing of an operation that was refused has been begun.
var (
	// ErrRate: the tenant has used what its limits give it.
	ErrRate = errors.New("rate limit exceeded")
	// ErrOverloaded is coord.ErrOverloaded: the coordinator has too much under way.
	ErrOverloaded = coord.ErrOverloaded
)

// Refusal is why an operation is not taken on, and when to try again.
type Refusal struct {
	Kind  error // ErrRate or ErrOverloaded
	Text  string
	After time.Duration
}

func (r *Refusal) Error() string { return r.Text }
func (r *Refusal) Unwrap() error { return r.Kind }

// RetryAfter is how long the client is asked to wait.
func (r *Refusal) RetryAfter() time.Duration { return r.After }

// Options configure a Limiter. Zero fields take the default in brackets.
type Options struct {
	// MaxInFlight bounds the operations under way at once [10,000]. How many
	// there are in fact is found out by how long they take.
	MaxInFlight int
	// MaxBytes bounds the bytes of values that are held for them [512 MiB]: half
	// of it those that came in, the rest those that wait to be sent, so that
	// clients who do not read keep nobody from writing.
	MaxBytes int64
	// Tenant is what limits a tenant that has no limits of its own; in each
	// field 0 means none.
	Tenant coord.TenantLimits
	// Of returns a tenant's own limits where they are at hand, without waiting;
	// nil: no tenant has any.
	Of func(tenant string) (coord.TenantLimits, bool)
	// MaxTenants bounds the tenants that are told apart [10,000]; others share
	// the limits of one.
	MaxTenants int
}

// refresh is how often a tenant's limits are looked up again, and refreshSoon
// where they were not at hand.
const (
	refresh     = 250 * time.Millisecond
	refreshSoon = 10 * time.Millisecond
)

// Limiter admits operations. It is safe for concurrent use.
type Limiter struct {
	opts   Options
	origin time.Time

	tenants sync.Map // string -> *Tenant
	count   atomic.Int64
	swept   atomic.Int64 // when idle tenants were forgotten last
	others  *Tenant      // those beyond MaxTenants, together

	inFlight atomic.Int64
	bytes    atomic.Int64 // of values that came in
	waiting  atomic.Int64 // bytes of values that wait to be sent
	busy     atomic.Int64 // tenants with operations under way
	window   window

	shed, limited atomic.Uint64 // refusals of each kind
}

// New makes a limiter.
func New(o Options) *Limiter {
	if o.MaxInFlight == 0 {
		o.MaxInFlight = 10_000
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 512 << 20
	}
	if o.MaxTenants == 0 {
		o.MaxTenants = 10_000
	}
	if o.Of == nil {
		o.Of = func(string) (coord.TenantLimits, bool) { return coord.TenantLimits{}, false }
	}
	l := &Limiter{opts: o, origin: time.Now()}
	l.window.open(int64(o.MaxInFlight))
	l.others = l.newTenant()
	l.swept.Store(-sweepEvery)
	return l
}

// InForce is what limits a tenant whose own limits these are: coord.NoLimit in
// each field where nothing does.
func (l *Limiter) InForce(own coord.TenantLimits) coord.TenantLimits {
	return own.Or(l.opts.Tenant).Or(coord.TenantLimits{
		OperationsPerSecond: coord.NoLimit, BytesPerSecond: coord.NoLimit, Concurrency: coord.NoLimit,
	})
}

// Tenant is what is known of one tenant's operations.
type Tenant struct {
	inFlight atomic.Int64
	used     atomic.Int64 // when, in nanoseconds since the limiter's origin

	mu         sync.Mutex // guards the rest
	own        coord.TenantLimits
	limits     coord.TenantLimits // in force
	lookedUp   int64
	operations bucket
	bytes      bucket
	rated      atomic.Bool  // there is a limit of bytes
	free       atomic.Int64 // until when it is known that nothing limits the tenant
}

func (l *Limiter) newTenant() *Tenant {
	t := new(Tenant)
	t.lookedUp = math.MinInt64 / 2
	return t
}

// Pass is an operation that was taken on. The zero Pass is none.
type Pass struct {
	tenant *Tenant
	bytes  int64
	began  int64
}

// InFlight is how many operations are under way.
func (l *Limiter) InFlight() int64 { return l.inFlight.Load() }

// Bytes is how many bytes of values are held for them.
func (l *Limiter) Bytes() int64 { return l.bytes.Load() + l.waiting.Load() }

// Allowed is how many operations may be under way now.
func (l *Limiter) Allowed() int64 { return l.window.allowed.Load() }

// Tenants is how many tenants are told apart.
func (l *Limiter) Tenants() int64 { return l.count.Load() }

// Refused counts the operations that were refused, for a tenant's limits and
// for load.
func (l *Limiter) Refused() (rate, load uint64) { return l.limited.Load(), l.shed.Load() }

// Enter takes on an operation of a tenant that brings so many bytes of values,
// or refuses it with a *Refusal. What it takes on must Leave.
func (l *Limiter) Enter(tenant string, bytes int) (Pass, error) {
	now := int64(time.Since(l.origin))
	t := l.tenant(tenant, now)
	if err := l.load(t, int64(bytes)); err != nil {
		l.shed.Add(1)
		return Pass{}, err
	}
	if now < t.free.Load() {
		l.begin(t)
	} else if err := l.rate(t, tenant, int64(bytes), now); err != nil {
		l.limited.Add(1)
		return Pass{}, err
	}
	if bytes > 0 {
		l.bytes.Add(int64(bytes))
	}
	t.used.Store(now)
	return Pass{t, int64(bytes), now}, nil
}

// begin counts an operation in.
func (l *Limiter) begin(t *Tenant) {
	l.inFlight.Add(1)
	if t.inFlight.Add(1) == 1 {
		l.busy.Add(1)
	}
}

// Leave ends an operation that has found so many bytes of values, or has failed.
// Those bytes count against what its tenant may do next.
func (l *Limiter) Leave(p Pass, found int, failure error) {
	t := p.tenant
	if t == nil {
		return
	}
	now := int64(time.Since(l.origin))
	if p.bytes > 0 {
		l.bytes.Add(-p.bytes)
	}
	if found > 0 && t.rated.Load() {
		t.mu.Lock()
		t.bytes.take(float64(found), float64(t.limits.BytesPerSecond), now)
		t.mu.Unlock()
	}
	if t.inFlight.Add(-1) == 0 {
		l.busy.Add(-1)
	}
	took := now - p.began
	l.window.note(tells(failure, took), l.inFlight.Add(-1)+1, now, took)
}

// tells is what an operation tells of the queue. One that was refused by whom it
// asked, or waited for a quorum that is not there, has not stood in it; nor has
// one whose client went away soon.
func tells(failure error, took int64) ended {
	switch {
	case failure == nil, errors.Is(failure, coord.ErrKeyNotFound):
		return inTime
	case took >= int64(target) && errors.Is(failure, coord.ErrDeadlineExceeded) && !errors.Is(failure, coord.ErrNoQuorum):
		return tooLate
	}
	return unrelated
}

// HasRoom tells whether a value that was found may wait to be sent. A single one
// always may, or it never could.
func (l *Limiter) HasRoom(bytes int) bool {
	if bytes == 0 {
		return true
	}
	most := l.opts.MaxBytes / 2
	if bytes > Large {
		most /= 2
	}
	waiting := l.waiting.Load()
	return waiting <= 0 || waiting+int64(bytes) <= most
}

// Large is the size in bytes above which values find room in half of what there
// is for those that wait: the rest is for small ones.
const Large = 64 << 10

// Hold books bytes of values that wait to be sent, and, of a negative number,
// that they wait no more.
func (l *Limiter) Hold(bytes int) { l.waiting.Add(int64(bytes)) }

// tenant returns what is known of a tenant.
func (l *Limiter) tenant(id string, now int64) *Tenant {
	if t, ok := l.tenants.Load(id); ok {
		return t.(*Tenant)
	}
	if l.count.Load() >= int64(l.opts.MaxTenants) {
		l.sweep(now)
		if l.count.Load() >= int64(l.opts.MaxTenants) {
			return l.others
		}
	}
	// The id is part of a request, which would stay in memory with it.
	t, there := l.tenants.LoadOrStore(string([]byte(id)), l.newTenant())
	if !there {
		l.count.Add(1)
	}
	return t.(*Tenant)
}

// idle is how long a tenant must have asked for nothing to be forgotten: long
// enough for its buckets to have filled again, but for what it owes them.
const idle = 2 * time.Second

// sweepEvery bounds the time that goes into forgetting tenants while names of
// new ones, made up perhaps, come all the time.
const sweepEvery = int64(idle / 10)

// sweep forgets idle tenants, unless that was done just now.
func (l *Limiter) sweep(now int64) {
	if last := l.swept.Load(); now-last < sweepEvery || !l.swept.CompareAndSwap(last, now) {
		return
	}
	l.tenants.Range(func(id, value any) bool {
		t := value.(*Tenant)
		if t.inFlight.Load() == 0 && now-t.used.Load() > int64(idle) && l.tenants.CompareAndDelete(id, value) {
			l.count.Add(-1)
		}
		return true
	})
}

// rate takes from what the tenant's limits give it, and counts the operation in.
func (l *Limiter) rate(t *Tenant, id string, bytes, now int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now-t.lookedUp > int64(refresh) {
		// A tenant that is not at hand will be, once its operation is under way:
		// until then it keeps what it had.
		wait := refresh
		if own, known := l.opts.Of(id); known && t != l.others {
			t.own = own
		} else {
			wait = refreshSoon
		}
		t.limits, t.lookedUp = l.InForce(t.own), now-int64(refresh-wait)
		t.rated.Store(t.limits.BytesPerSecond != coord.NoLimit)
		if t.limits == (coord.TenantLimits{OperationsPerSecond: coord.NoLimit, BytesPerSecond: coord.NoLimit, Concurrency: coord.NoLimit}) {
			t.free.Store(now + int64(wait))
		}
	}
	lim := &t.limits
	if lim.Concurrency != coord.NoLimit && t.inFlight.Load() >= lim.Concurrency {
		return &Refusal{ErrRate, fmt.Sprintf("%v: the tenant has %d operations under way, its limit", ErrRate, lim.Concurrency), defaultRetry}
	}
	if lim.OperationsPerSecond != coord.NoLimit {
		if wait := t.operations.wait(1, float64(lim.OperationsPerSecond), now); wait > 0 {
			return &Refusal{ErrRate, fmt.Sprintf("%v: the tenant's limit is %d operations per second", ErrRate, lim.OperationsPerSecond), wait}
		}
	}
	if lim.BytesPerSecond != coord.NoLimit {
		// A value may be greater than what a second gives: it is let through when
		// there is something left, and paid for afterwards.
		if wait := t.bytes.wait(0, float64(lim.BytesPerSecond), now); wait > 0 {
			return &Refusal{ErrRate, fmt.Sprintf("%v: the tenant's limit is %d bytes of values per second", ErrRate, lim.BytesPerSecond), wait}
		}
		t.bytes.take(float64(bytes), float64(lim.BytesPerSecond), now)
	}
	if lim.OperationsPerSecond != coord.NoLimit {
		t.operations.take(1, float64(lim.OperationsPerSecond), now)
	}
	l.begin(t)
	return nil
}

// defaultRetry is what a client is asked to wait where nothing better is known.
const defaultRetry = 100 * time.Millisecond

// bucket fills with so many tokens a second, and holds those of one second.
type bucket struct {
	tokens float64
	at     int64 // nanoseconds; 0: never used, and full
}

func (b *bucket) fill(rate float64, now int64) {
	most := max(rate, 1)
	if b.at == 0 {
		b.tokens = most
	} else if now > b.at {
		b.tokens = min(most, b.tokens+rate*float64(now-b.at)/1e9)
	}
	b.at = max(now, 1)
}

// wait is how long to wait until there are n tokens, or, for 0, any.
func (b *bucket) wait(n, rate float64, now int64) time.Duration {
	b.fill(rate, now)
	missing := n - b.tokens
	if n == 0 {
		missing = -b.tokens
		if b.tokens > 0 {
			return 0
		}
	}
	if missing < 0 || missing == 0 && n > 0 {
		return 0
	}
	return max(min(time.Duration(missing/rate*1e9), maxRetry), time.Millisecond)
}

// take takes n tokens, perhaps more than there are.
func (b *bucket) take(n, rate float64, now int64) {
	if rate <= 0 {
		return
	}
	b.fill(rate, now)
	b.tokens -= n
}

// maxRetry bounds what a client is asked to wait.
const maxRetry = time.Minute
