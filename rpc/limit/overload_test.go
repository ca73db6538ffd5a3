package limit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// backend does 1000 operations a second, one after the other, however many wait.
type backend struct {
	mu   sync.Mutex
	free time.Time
}

const service = time.Millisecond

// do waits its turn, and tells how long it took.
func (b *backend) do() time.Duration {
	b.mu.Lock()
	now := time.Now()
	if b.free.Before(now) {
		b.free = now
	}
	b.free = b.free.Add(service)
	wait := b.free.Sub(now)
	b.mu.Unlock()
	time.Sleep(wait)
	return wait
}

// late is when an answer is of no use any more.
const late = time.Second

// result is what became of a load: what was answered in time, per second, and
// how long those took that were let in.
type result struct {
	goodput float64
	p99     time.Duration
	shed    int
}

// offer begins so many operations a second for d, whatever becomes of them.
func offer(l *Limiter, b *backend, tenant string, perSecond int, d time.Duration) result {
	var mu sync.Mutex
	var wait sync.WaitGroup
	var took []time.Duration
	good, shed := 0, 0
	random := rand.New(rand.NewPCG(1, 2))
	for start := time.Now(); time.Since(start) < d; {
		pass, err := l.Enter(tenant, 0)
		if err != nil {
			shed++
		} else {
			wait.Go(func() {
				t := b.do()
				l.Leave(pass, 0, nil)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, t)
				if t < late {
					good++
				}
			})
		}
		time.Sleep(time.Duration(random.ExpFloat64() * float64(time.Second) / float64(perSecond)))
	}
	wait.Wait()
	r := result{goodput: float64(good) / d.Seconds(), shed: shed}
	if len(took) > 0 {
		slices.Sort(took)
		r.p99 = took[len(took)*99/100]
	}
	return r
}

// Ten times what the backend can do for 30 s: at least 80 % of what it can do is
// done in time, and normal latency is back within 5 s.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := New(Options{}), new(backend)
		normal := offer(l, b, "t", 500, 10*time.Second)
		flood := offer(l, b, "t", 10_000, 30*time.Second)
		t.Logf("normal %+v, flood %+v", normal, flood)
		if normal.shed > 0 {
			t.Errorf("%d are refused without overload", normal.shed)
		}
		if flood.goodput < 800 {
			t.Errorf("goodput is %.0f of 1000", flood.goodput)
		}
		offer(l, b, "t", 500, 5*time.Second)
		after := offer(l, b, "t", 500, 5*time.Second)
		if after.shed > 0 || after.p99 > 2*normal.p99 {
			t.Errorf("after the overload %+v, before %+v", after, normal)
		}
	})
}

// A tenant at twenty times its share, which is limited to it, leaves another
// tenant's latency as it is.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Of: func(id string) (coord.TenantLimits, bool) {
			return coord.TenantLimits{OperationsPerSecond: 200}, id == "noisy"
		}})
		b := new(backend)
		alone := offer(l, b, "quiet", 200, 10*time.Second)
		var noise sync.WaitGroup
		noise.Go(func() { offer(l, b, "noisy", 4000, 11*time.Second) })
		time.Sleep(time.Second) // what the first second gives at once is used up
		beside := offer(l, b, "quiet", 200, 10*time.Second)
		noise.Wait()
		t.Logf("alone %+v, beside %+v", alone, beside)
		if beside.shed > 0 || beside.p99 > 2*alone.p99 {
			t.Errorf("beside a noisy tenant %+v, alone %+v", beside, alone)
		}
	})
}

// Without limits of their own the noisiest of several tenants is shed first.
func TestNoisiestIsShedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := New(Options{}), new(backend)
		var noise sync.WaitGroup
		noise.Go(func() { offer(l, b, "noisy", 10_000, 20*time.Second) })
		time.Sleep(5 * time.Second)
		shed := 0
		var quiet sync.WaitGroup
		var mu sync.Mutex
		for i := range 4 {
			quiet.Go(func() {
				r := offer(l, b, fmt.Sprint("quiet-", i), 50, 10*time.Second)
				mu.Lock()
				shed += r.shed
				mu.Unlock()
			})
		}
		quiet.Wait()
		noise.Wait()
		t.Logf("%d of 2000 operations of quiet tenants were refused", shed)
		if shed > 100 {
			t.Errorf("%d of 2000 operations of quiet tenants were refused", shed)
		}
	})
}

// While a quorum is out, operations that wait for it in vain are no queue, and
// not one is refused for load, however many there are. The same ones would be
// if they were done so late, or had not been done when their time was up.
func TestWaitingForAQuorumIsNoOverload(t *testing.T) {
	const concurrent, wait = 3000, 2 * time.Second
	for _, c := range []struct {
		name    string
		failure error
		refused bool
	}{
		{"no quorum", &coord.WriteError{Err: &coord.QuorumError{}}, false},
		{"no idempotency store", fmt.Errorf("reserve: %w", coord.ErrIdempotencyUnavailable), false},
		{"done, but late", nil, true},
		{"not done in time", fmt.Errorf("read: %w", coord.ErrDeadlineExceeded), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(Options{})
				offer(l, new(backend), "t", 500, time.Second) // how long it takes without load
				var mu sync.Mutex
				refused := 0
				var all sync.WaitGroup
				for range concurrent {
					all.Go(func() {
						for start := time.Now(); time.Since(start) < 20*time.Second; {
							pass, err := l.Enter("t", 0)
							if err != nil {
								mu.Lock()
								refused++
								mu.Unlock()
								time.Sleep(wait)
								continue
							}
							time.Sleep(wait)
							l.Leave(pass, 0, c.failure)
						}
					})
					time.Sleep(wait / concurrent)
				}
				all.Wait()
				if refused > 0 != c.refused {
					t.Errorf("%d are refused", refused)
				}
			})
		})
	}
}

// Operations that fail at once do not hide a queue from the others.
func TestQuickFailuresHideNoQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := New(Options{}), new(backend)
		stop := make(chan struct{})
		var failing sync.WaitGroup
		failing.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				if pass, err := l.Enter("other", 0); err == nil {
					l.Leave(pass, 0, coord.ErrTenantNotFound)
				}
			}
		})
		flood := offer(l, b, "t", 10_000, 30*time.Second)
		close(stop)
		failing.Wait()
		t.Logf("flood %+v", flood)
		if flood.goodput < 800 {
			t.Errorf("goodput is %.0f of 1000", flood.goodput)
		}
	})
}
