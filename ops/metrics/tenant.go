package metrics

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc/codes"
)

const (
	// maxTenants bounds the tenants that are counted by name. The rest are
	// counted together as other.
	maxTenants = 100
	// tenantSweep is how often places are given to tenants that have grown busy.
	tenantSweep = time.Minute
	// tenantIdle is how long a tenant without requests keeps its place while
	// others want it.
	tenantIdle = 10 * time.Minute
	// Of the requests of tenants without a place one in tenantSample is looked
	// at, and at most maxCandidates tenants are told apart between sweeps.
	tenantSample  = 16
	maxCandidates = 1000
)

// Tenant counts the requests of one tenant. Counters only rise while a tenant
// keeps its place; one that comes back begins at zero, as after a restart.
type Tenant struct {
	read, written metrics.Counter // requests
	failed        metrics.Counter // for a reason that is not the client's
	refused       metrics.Counter // for a limit
	micros        metrics.Counter // spent on all of them

	counted uint64    // requests at the last sweep
	recent  uint64    // requests between the last two sweeps
	busyAt  time.Time // the last sweep that found new requests
}

func (t *Tenant) requests() uint64 { return t.read.Get() + t.written.Get() }

// tenants counts by tenant: exactly, from the first request, as long as there
// are places; beyond that the busiest take the places of the least busy.
type tenants struct {
	places atomic.Pointer[map[string]*Tenant]
	other  Tenant
	now    func() time.Time

	mu         sync.Mutex // for what follows, and to change places
	candidates map[string]uint64
	nextSweep  atomic.Int64 // Unix nanoseconds
}

func newTenants(now func() time.Time) *tenants {
	t := &tenants{now: now, candidates: map[string]uint64{}}
	t.places.Store(&map[string]*Tenant{})
	t.nextSweep.Store(now().Add(tenantSweep).UnixNano())
	return t
}

// get is where id is counted. An id without a place may get one where it is
// known to be a tenant's.
func (t *tenants) get(id string, exists bool) *Tenant {
	places := *t.places.Load()
	if tenant, ok := places[id]; ok {
		return tenant
	}
	if !exists {
		return &t.other
	}
	if len(places) < maxTenants {
		return t.place(id)
	}
	if rand.Uint32N(tenantSample) == 0 && t.mu.TryLock() {
		if _, known := t.candidates[id]; known || len(t.candidates) < maxCandidates {
			t.candidates[strings.Clone(id)]++ // it may share its memory with a request
		}
		t.mu.Unlock()
	}
	return &t.other
}

func (t *tenants) place(id string) *Tenant {
	t.mu.Lock()
	defer t.mu.Unlock()
	places := *t.places.Load()
	if tenant, ok := places[id]; ok {
		return tenant
	}
	if len(places) >= maxTenants {
		return &t.other
	}
	tenant := &Tenant{busyAt: t.now()}
	grown := maps.Clone(places)
	grown[strings.Clone(id)] = tenant // it may share its memory with a request
	t.places.Store(&grown)
	return tenant
}

// sweep gives places to tenants that have grown busy, if it is time.
func (t *tenants) sweep() {
	now := t.now()
	due := t.nextSweep.Load()
	if now.UnixNano() < due || !t.nextSweep.CompareAndSwap(due, now.Add(tenantSweep).UnixNano()) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	places := maps.Clone(*t.places.Load())
	for _, tenant := range places {
		n := tenant.requests()
		tenant.recent, tenant.counted = n-tenant.counted, n
		if tenant.recent > 0 {
			tenant.busyAt = now
		}
	}
	// The least busy ones first, and the busiest candidates.
	byRest := slices.SortedFunc(maps.Keys(places), func(a, b string) int {
		return cmp.Or(cmp.Compare(places[a].recent, places[b].recent), cmp.Compare(a, b))
	})
	byTraffic := slices.SortedFunc(maps.Keys(t.candidates), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.candidates[b], t.candidates[a]), cmp.Compare(a, b))
	})
	for _, id := range byTraffic {
		if len(places) >= maxTenants {
			if len(byRest) == 0 {
				break
			}
			rest := places[byRest[0]]
			// Twice as busy, so that two of a kind do not swap for ever.
			idle := now.Sub(rest.busyAt) >= tenantIdle
			if !idle && t.candidates[id]*tenantSample < 2*rest.recent+2*tenantSample {
				break
			}
			delete(places, byRest[0])
			byRest = byRest[1:]
		}
		places[id] = &Tenant{busyAt: now}
	}
	clear(t.candidates)
	t.places.Store(&places)
}

// each calls f with the tenants by id, and then with other.
func (t *tenants) each(f func(id string, tenant *Tenant)) {
	t.sweep()
	places := *t.places.Load()
	for _, id := range slices.Sorted(maps.Keys(places)) {
		f(id, places[id])
	}
	f(other, &t.other)
}

// TenantRequest counts a read, or a write or delete. Only a success shows that
// there is such a tenant, and gives it a place of its own.
func (s *Set) TenantRequest(id string, write bool, c codes.Code, took time.Duration) {
	t := s.tenants.get(id, c == codes.OK)
	if write {
		t.written.Inc()
	} else {
		t.read.Inc()
	}
	switch {
	case c == codes.OK:
	case c == codes.ResourceExhausted:
		t.refused.Inc()
	case slices.Contains(faults, c):
		t.failed.Inc()
	}
	t.micros.AddInt64(max(took.Microseconds(), 0))
}

func (s *Set) addTenants() {
	s.add(family{"coordinator_tenant_requests_total", "counter",
		"Reads and writes by tenant; those of all but the busiest 100 are together under other.", func(w *writer) {
			s.tenants.each(func(id string, t *Tenant) {
				w.count("coordinator_tenant_requests_total", label("tenant", id)+`,operation="read"`, t.read.Get())
				w.count("coordinator_tenant_requests_total", label("tenant", id)+`,operation="write"`, t.written.Get())
			})
		}})
	each := func(name, help string, of func(*Tenant) uint64) {
		s.add(family{name, "counter", help, func(w *writer) {
			s.tenants.each(func(id string, t *Tenant) { w.count(name, label("tenant", id), of(t)) })
		}})
	}
	each("coordinator_tenant_failures_total", "Reads and writes of a tenant that failed for a reason that is not the client's.",
		func(t *Tenant) uint64 { return t.failed.Get() })
	each("coordinator_tenant_refusals_total", "Reads and writes of a tenant that were refused for a limit.",
		func(t *Tenant) uint64 { return t.refused.Get() })
	s.add(family{"coordinator_tenant_request_seconds_total", "counter", "Time that a tenant's reads and writes have taken, together.", func(w *writer) {
		s.tenants.each(func(id string, t *Tenant) {
			w.sample("coordinator_tenant_request_seconds_total", label("tenant", id), float64(t.micros.Get())/1e6)
		})
	}})
}

// TenantTotals are a tenant's counts since it got its place.
type TenantTotals struct {
	ID                             string
	Reads, Writes, Failed, Refused uint64
}

// Tenants lists the tenants that are counted by name.
func (s *Set) Tenants() []TenantTotals {
	var all []TenantTotals
	s.tenants.each(func(id string, t *Tenant) {
		if t != &s.tenants.other {
			all = append(all, TenantTotals{id, t.read.Get(), t.written.Get(), t.failed.Get(), t.refused.Get()})
		}
	})
	return all
}
