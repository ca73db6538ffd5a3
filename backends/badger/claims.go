package badger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/pairdb/coordinator/coord"
)

// ClaimsOptions say how an idempotency store is opened. Zero values take the defaults.
type ClaimsOptions struct {
	Dir string        // made where it does not exist
	TTL time.Duration // of minted claims; default coord.DefaultIdempotencyTTL
	// Sync makes each step wait for the disk. Without it a step that returned
	// survives the death of the process, but not of the machine.
	Sync    bool
	Profile Profile
	// Wall is the clock by which leases and the TTL end; default time.Now.
	Wall func() time.Time
	// MaxQueued bounds the steps that wait; default 4,096.
	MaxQueued int
	// MinFreeBytes and Space are as in NodeOptions: with less room, steps that
	// write fail.
	MinFreeBytes uint64
	Space        func(dir string) (DiskSpace, error)
	// Warn is told what goes wrong in the background, a line each. It may be
	// called from any goroutine.
	Warn func(message string)
}

// Claims is an idempotency store on a directory. It implements
// coord.Idempotency for the coordinator that has the directory open.
//
// One goroutine takes all steps in order and commits those that wait together,
// so a step is atomic without locks.
type Claims struct {
	opts  ClaimsOptions
	store *store
	disk  *diskGuard

	mu     sync.RWMutex // held shared to send to steps, exclusively to close it
	closed bool
	steps  chan *step

	stop      chan struct{}
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

var _ coord.Idempotency = (*Claims)(nil)

const (
	defaultMaxQueued = 4096
	maxStepBatch     = 1024
	// ttlSlack is how much later than by the record's own end Badger drops it.
	// Badger counts in seconds, and by the operating system's clock.
	ttlSlack = time.Minute
)

// step is one method call on its way to the goroutine that takes it.
type step struct {
	key []byte
	// decide turns the claim that stands (the zero record: none) into the one
	// that shall, and tells whether that is a change.
	decide func(stands claimRecord, now time.Time) (claimRecord, bool)
	stands claimRecord // after the step
	err    error
	taken  atomic.Bool   // by the goroutine, or by the caller who gives up before
	done   chan struct{} // closed when the step was taken
}

// Syncs counts the commits that have waited for the disk.
func (c *Claims) Syncs() uint64 { return c.store.syncs.Load() }

// OpenClaims opens the idempotency store in opts.Dir, or makes one. It fails
// with ErrInUse where the directory is open already.
func OpenClaims(opts ClaimsOptions) (*Claims, error) {
	if opts.TTL == 0 {
		opts.TTL = coord.DefaultIdempotencyTTL
	}
	if opts.Wall == nil {
		opts.Wall = time.Now
	}
	if opts.MaxQueued == 0 {
		opts.MaxQueued = defaultMaxQueued
	}
	if opts.MinFreeBytes == 0 {
		opts.MinFreeBytes = opts.Profile.limits().minFree
	}
	if opts.Space == nil {
		opts.Space = diskSpace
	}
	if opts.Dir == "" || opts.TTL < 0 || opts.MaxQueued < 0 {
		return nil, errors.New("open claims: want a data directory, and bounds that are not negative")
	}
	badgerOpts := opts.Profile.options(opts.Dir, opts.Sync)
	st, _, err := openStore(opts.Dir, badgerOpts, opts.Warn, identity{Kind: kindClaims})
	if err != nil {
		return nil, fmt.Errorf("open claims: %w", err)
	}
	c := &Claims{
		opts:  opts,
		store: st,
		disk:  &diskGuard{dir: opts.Dir, probe: opts.Space, minFree: opts.MinFreeBytes},
		steps: make(chan *step, opts.MaxQueued),
		stop:  make(chan struct{}),
	}
	if err := c.disk.look(); err != nil {
		_ = st.close()
		return nil, fmt.Errorf("open claims: %w", err)
	}
	c.running.Go(c.run)
	c.running.Go(c.tend)
	return c, nil
}

// Reserve implements coord.Idempotency.
func (c *Claims) Reserve(ctx context.Context, key coord.ClaimKey, fp coord.Fingerprint, attempt coord.AttemptID, lease time.Duration) (coord.Claim, error) {
	return c.take(ctx, "reserve", key, func(stands claimRecord, now time.Time) (claimRecord, bool) {
		if stands.claim.State != 0 {
			return stands, false
		}
		return claimRecord{
			claim: coord.Claim{State: coord.ClaimReserved, Fingerprint: fp, Attempt: attempt},
			ends:  now.Add(lease),
		}, true
	})
}

// Mint implements coord.Idempotency.
func (c *Claims) Mint(ctx context.Context, key coord.ClaimKey, attempt coord.AttemptID, version coord.Head) (coord.Claim, error) {
	if err := checkVersion(&coord.Version{Head: version}); err != nil {
		return coord.Claim{}, fmt.Errorf("mint claim: %w: %w", coord.ErrInvalidRequest, err)
	}
	return c.take(ctx, "mint", key, func(stands claimRecord, now time.Time) (claimRecord, bool) {
		if stands.claim.State != coord.ClaimReserved || stands.claim.Attempt != attempt {
			return stands, false
		}
		stands.claim.State = coord.ClaimMinted
		stands.claim.Minted = version
		stands.ends = now.Add(c.opts.TTL)
		return stands, true
	})
}

// Complete implements coord.Idempotency.
func (c *Claims) Complete(ctx context.Context, key coord.ClaimKey, version coord.Head, level coord.Level) error {
	if level == coord.LevelDefault || level > coord.All {
		return fmt.Errorf("complete claim: %w: level %d", coord.ErrInvalidRequest, level)
	}
	_, err := c.take(ctx, "complete", key, func(stands claimRecord, _ time.Time) (claimRecord, bool) {
		claim := &stands.claim
		if claim.State < coord.ClaimMinted || claim.Level >= level || claim.Minted.Compare(&version) != 0 {
			return stands, false
		}
		claim.State, claim.Level = coord.ClaimDone, level
		return stands, true
	})
	return err
}

// Release implements coord.Idempotency.
func (c *Claims) Release(ctx context.Context, key coord.ClaimKey, attempt coord.AttemptID) error {
	_, err := c.take(ctx, "release", key, func(stands claimRecord, _ time.Time) (claimRecord, bool) {
		if stands.claim.State != coord.ClaimReserved || stands.claim.Attempt != attempt {
			return stands, false
		}
		return claimRecord{}, true
	})
	return err
}

// Ping implements coord.Idempotency.
func (c *Claims) Ping(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		err = c.refusal()
	}
	if err == nil {
		var v view
		if v, err = c.store.view(); err == nil {
			_, err = v.get([]byte(identityKey))
			v.release()
		}
	}
	if err != nil {
		return fmt.Errorf("%w: ping: %w", coord.ErrIdempotencyUnavailable, err)
	}
	return nil
}

var (
	errTooManySteps = errors.New("too many steps are waiting")
	errNoRoom       = errors.New("disk full")
)

func (c *Claims) refusal() error {
	if c.disk.full.Load() {
		return fmt.Errorf("%w: %d MiB are free, %d MiB are kept free", errNoRoom, c.disk.free.Load()>>20, c.disk.minFree>>20)
	}
	return nil
}

// take has a step taken and waits for it.
func (c *Claims) take(ctx context.Context, what string, key coord.ClaimKey, decide func(claimRecord, time.Time) (claimRecord, bool)) (coord.Claim, error) {
	fail := func(err error) (coord.Claim, error) {
		return coord.Claim{}, fmt.Errorf("%w: %s claim: %w", coord.ErrIdempotencyUnavailable, what, err)
	}
	if size := len(key.Tenant) + len(key.Key) + len(key.IdempotencyKey); size > maxKeyBytes {
		return coord.Claim{}, fmt.Errorf("%s claim: %w: its key has %d bytes, at most %d are accepted",
			what, coord.ErrInvalidRequest, size, maxKeyBytes)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	s := &step{key: claimKey(key), decide: decide, done: make(chan struct{})}
	if err := c.send(s); err != nil {
		return fail(err)
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		if s.taken.CompareAndSwap(false, true) {
			return fail(fmt.Errorf("not taken: %w", ctx.Err()))
		}
		return fail(ctx.Err())
	}
	if s.err != nil {
		return fail(s.err)
	}
	return s.stands.claim, nil
}

func (c *Claims) send(s *step) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return errClosed
	}
	select {
	case c.steps <- s:
		return nil
	default:
		return errTooManySteps
	}
}

func (c *Claims) run() {
	var batch []*step
	for first := range c.steps {
		batch = append(batch[:0], first)
	more:
		for len(batch) < maxStepBatch {
			select {
			case s, ok := <-c.steps:
				if !ok {
					break more
				}
				batch = append(batch, s)
			default:
				break more
			}
		}
		c.takeBatch(batch)
		clear(batch)
	}
}

// claimChange is what a batch makes of one claim.
type claimChange struct {
	record claimRecord
	steps  []*step // that wait for its commit
}

// takeBatch decides all steps in order, commits what they change, and lets
// their callers go on.
func (c *Claims) takeBatch(batch []*step) {
	changed := make(map[string]*claimChange)
	v, err := c.store.ownView()
	for _, s := range batch {
		if !s.taken.CompareAndSwap(false, true) {
			continue
		}
		if s.err = err; err == nil {
			s.err = c.decide(v, s, changed)
		}
		if changed[string(s.key)] == nil {
			close(s.done)
		}
	}
	if err == nil {
		v.release()
	}
	keys := make([]string, 0, len(changed))
	for key := range changed {
		keys = append(keys, key)
	}
	c.commit(keys, changed)
}

// decide takes one step on what the batch makes of its claim so far.
func (c *Claims) decide(v view, s *step, changed map[string]*claimChange) error {
	now := c.opts.Wall()
	var stands claimRecord
	change := changed[string(s.key)]
	if change != nil {
		stands = change.record
		change.steps = append(change.steps, s)
	} else {
		b, err := v.get(s.key)
		if err != nil {
			return err
		}
		if b != nil {
			if stands, err = decodeClaim(b); err != nil {
				return err
			}
		}
	}
	if stands.claim.State != 0 && !now.Before(stands.ends) {
		stands = claimRecord{}
	}
	next, ok := s.decide(stands, now)
	s.stands = next
	if !ok {
		return nil
	}
	if change == nil {
		if err := c.refusal(); err != nil {
			return err
		}
		change = &claimChange{steps: []*step{s}}
		changed[string(s.key)] = change
	}
	change.record = next
	return nil
}

// commit writes the changes of these keys in one transaction or, where that is
// too big, in as few as will do.
func (c *Claims) commit(keys []string, changed map[string]*claimChange) {
	if len(keys) == 0 {
		return
	}
	now := c.opts.Wall()
	changes := make([]change, 0, len(keys))
	for _, key := range keys {
		r := &changed[key].record
		if r.claim.State == 0 {
			changes = append(changes, change{key: []byte(key), remove: true})
			continue
		}
		left := max(r.ends.Sub(now), 0)
		value := appendClaim(nil, r)
		c.disk.spend(len(key) + len(value))
		changes = append(changes, change{
			key: []byte(key), value: value, expires: uint64(time.Now().Add(left + ttlSlack).Unix()),
		})
	}
	err := c.store.commit(changes, nil)
	if errors.Is(err, badger.ErrTxnTooBig) && len(keys) > 1 {
		c.commit(keys[:len(keys)/2], changed)
		c.commit(keys[len(keys)/2:], changed)
		return
	}
	for _, key := range keys {
		for _, s := range changed[key].steps {
			if s.err == nil {
				s.err = err
			}
			close(s.done)
		}
	}
}

func (c *Claims) tend() {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-look.C:
			c.store.forget()
			c.warn(c.disk.look())
			if fault := c.store.fault.Load(); fault != nil {
				c.warn(*fault)
				c.warn(c.store.reopen(func(view) error { return nil }))
			}
		}
	}
}

func (c *Claims) warn(err error) {
	if err != nil && c.opts.Warn != nil {
		c.opts.Warn(err.Error())
	}
}

// Close implements coord.Idempotency. Steps that wait are taken first; later
// ones fail. Calling it again does no harm.
func (c *Claims) Close() error {
	c.closeOnce.Do(func() {
		c.mu.Lock()
		c.closed = true
		close(c.steps)
		c.mu.Unlock()
		close(c.stop)
		c.running.Wait()
		if err := c.store.close(); err != nil {
			c.closeErr = fmt.Errorf("close idempotency store: %w", err)
		}
	})
	return c.closeErr
}
