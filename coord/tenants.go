package coord

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// tenantCache keeps tenants in memory: bounded, each for a time, one load for
// however many wait for it. A tenant stays usable past its time for as long as
// metadata does not answer, so that an outage costs only unknown tenants.
type tenantCache struct {
	metadata Metadata
	ttl      instant
	now      func() instant
	looked   func(hit bool)
	cache    *otter.Cache[string, cachedTenant]
	// changes counts how often everything may have changed unnoticed: what was
	// loaded before the last time is outdated.
	changes atomic.Uint64
	evicted atomic.Uint64 // tenants, for lack of room
}

type cachedTenant struct {
	tenant     *Tenant
	freshUntil instant
	changes    uint64 // when it was loaded
}

func (t *tenantCache) fresh(c cachedTenant) bool {
	return t.now() < c.freshUntil && c.changes == t.changes.Load()
}

// doubt makes every tenant outdated.
func (t *tenantCache) doubt() { t.changes.Add(1) }

const (
	// tenantLoadTimeout bounds one load, whoever waits for it.
	tenantLoadTimeout = 2 * time.Second
	// tenantPatience is how long a request waits for a tenant to be loaded
	// again while it has an outdated one at hand.
	tenantPatience = 100 * time.Millisecond
	// tenantRetry is how long an outdated tenant is used after metadata failed
	// before it is asked again.
	tenantRetry = time.Second
)

func (t *tenantCache) open(m Metadata, ttl time.Duration, size int, now func() instant, looked func(bool)) {
	t.metadata, t.ttl, t.now, t.looked = m, instant(ttl), now, looked
	if t.looked == nil {
		t.looked = func(bool) {}
	}
	t.cache = otter.Must(&otter.Options[string, cachedTenant]{
		MaximumSize: size,
		// Refresh is called by hand, since a tenant past its time must be
		// loaded before it is used, not after.
		RefreshCalculator: otter.RefreshWriting[string, cachedTenant](1 << 62),
		Logger:            &otter.NoopLogger{},
		OnDeletion: func(e otter.DeletionEvent[string, cachedTenant]) {
			if e.WasEvicted() {
				t.evicted.Add(1)
			}
		},
	})
}

// ready returns a tenant that get would return without waiting. Nobody changes it.
func (t *tenantCache) ready(id string) (*Tenant, bool) {
	cached, have := t.cache.GetIfPresent(id)
	if !have || !t.fresh(cached) {
		return nil, false
	}
	t.looked(true)
	return cached.tenant, true
}

// get returns the tenant, from memory where it is fresh. With atLeast it is
// read as of that epoch of the topology or a later one.
func (t *tenantCache) get(ctx context.Context, id string, atLeast uint64) (*Tenant, error) {
	cached, have := t.cache.GetIfPresent(id)
	have = have && cached.tenant.AsOf >= atLeast
	if have && t.fresh(cached) {
		t.looked(true)
		return cached.tenant, nil
	}
	t.looked(false)
	var patience <-chan time.Time
	if have {
		timer := time.NewTimer(tenantPatience)
		defer timer.Stop()
		patience = timer.C
	}
	loaded := t.cache.Refresh(context.WithoutCancel(ctx), id, otter.LoaderFunc[string, cachedTenant](t.load))
	select {
	case r := <-loaded:
		switch {
		case r.Err == nil:
			return r.Value.tenant, nil
		case errors.Is(r.Err, otter.ErrNotFound):
			return nil, fmt.Errorf("%w: %q", ErrTenantNotFound, id)
		case have:
			t.extend(id)
			return cached.tenant, nil
		}
		return nil, fmt.Errorf("load tenant %q: %w", id, r.Err)
	case <-patience:
		t.extend(id)
		return cached.tenant, nil
	case <-ctx.Done():
		return nil, abandonError(ctx)
	}
}

// extend keeps an outdated tenant in use for a moment, if it is still there.
func (t *tenantCache) extend(id string) {
	t.cache.ComputeIfPresent(id, func(old cachedTenant) (cachedTenant, otter.ComputeOp) {
		if t.fresh(old) {
			return old, otter.CancelOp // loaded meanwhile
		}
		old.freshUntil, old.changes = t.now().add(tenantRetry), t.changes.Load()
		return old, otter.WriteOp
	})
}

func (t *tenantCache) load(ctx context.Context, id string) (cachedTenant, error) {
	ctx, cancel := context.WithTimeout(ctx, tenantLoadTimeout)
	defer cancel()
	changes := t.changes.Load()
	tenant, err := t.metadata.Tenant(ctx, id)
	if errors.Is(err, ErrTenantNotFound) {
		return cachedTenant{}, otter.ErrNotFound
	}
	if err != nil {
		return cachedTenant{}, err
	}
	return cachedTenant{&tenant, t.now() + t.ttl, changes}, nil
}

// Tenant returns a tenant as metadata has it or, while that does not answer, as
// it was last known.
func (c *Coordinator) Tenant(ctx context.Context, id string) (Tenant, error) {
	t, err := c.metadata.Tenant(ctx, id)
	if errors.Is(err, ErrMetadataUnavailable) {
		if known, ok := c.tenants.cache.GetIfPresent(id); ok {
			return *known.tenant, nil
		}
	}
	return t, err
}

// Tenants lists tenants by id, at most limit of those greater than after.
func (c *Coordinator) Tenants(ctx context.Context, after string, limit int) ([]Tenant, error) {
	return c.metadata.Tenants(ctx, after, limit)
}

// CreateTenant makes a tenant whose keys are kept on replicationFactor nodes.
func (c *Coordinator) CreateTenant(ctx context.Context, id string, replicationFactor int) (Tenant, error) {
	for attempt := 1; ; attempt++ {
		v := c.view.Load()
		if err := v.checkReplicationFactor(replicationFactor); err != nil {
			return Tenant{}, err
		}
		t, err := c.metadata.CreateTenant(ctx, id, replicationFactor, v.topology.Epoch)
		if errors.Is(err, ErrMigrationConflict) && attempt < changeAttempts {
			// There may be fewer nodes by now.
			if err := c.Refresh(ctx); err != nil {
				return Tenant{}, err
			}
			continue
		}
		if err == nil {
			c.tenants.cache.Invalidate(id)
		}
		return t, err
	}
}

// DeleteTenant makes a tenant unknown to every request.
func (c *Coordinator) DeleteTenant(ctx context.Context, id string) error {
	err := c.metadata.DeleteTenant(ctx, id)
	if err == nil {
		c.tenants.cache.Invalidate(id)
	}
	return err
}

// serves tells whether a tenant may be used in a view: it was read since a
// replication factor last changed, and the view is as new as its own.
func (v *view) serves(t *Tenant) bool {
	if mutant == mutantStaleFactor {
		return true
	}
	return t.AsOf >= v.topology.TenantsEpoch && t.Since <= v.topology.Epoch
}

// awaitTenant looks up a tenant that is not at hand, with a view that serves
// it, until due at the latest.
func (c *Coordinator) awaitTenant(ctx context.Context, id string, due time.Time) (*view, *Tenant, error) {
	if !due.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, due)
		defer cancel()
	}
	for {
		v := c.view.Load()
		t, err := c.tenants.get(ctx, id, v.topology.TenantsEpoch)
		if err != nil {
			return nil, nil, err
		}
		if v.serves(t) {
			return v, t, nil
		}
		// The tenant is of a newer topology than this coordinator knows.
		if err := c.Refresh(ctx); err != nil {
			return nil, nil, err
		}
		if now := c.view.Load(); now == v {
			return nil, nil, fmt.Errorf("%w: tenant %q is of epoch %d, the topology of epoch %d", ErrMetadataUnavailable, id, t.Since, v.topology.Epoch)
		}
	}
}

func (v *view) checkReplicationFactor(rf int) error {
	if rf < 1 || rf > MaxReplicationFactor {
		return fmt.Errorf("%w: %d, want 1 to %d", ErrInvalidReplicationFactor, rf, MaxReplicationFactor)
	}
	nodes := v.ring.Len()
	if v.next != nil {
		nodes = min(nodes, v.next.Len())
	}
	if rf > nodes {
		return fmt.Errorf("%w: %d, but there are %d active nodes", ErrInvalidReplicationFactor, rf, nodes)
	}
	return nil
}
