package limit

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pairdb/coordinator/coord"
)

func TestBucket(t *testing.T) {
	const second = int64(time.Second)
	var b bucket
	now := second
	for i := range 10 {
		if w := b.wait(1, 10, now); w != 0 {
			t.Fatalf("operation %d of the first second waits %v", i, w)
		}
		b.take(1, 10, now)
	}
	if w := b.wait(1, 10, now); w != 100*time.Millisecond {
		t.Errorf("beyond the first second's the wait is %v, want 100ms", w)
	}
	now += second / 10
	if w := b.wait(1, 10, now); w > time.Millisecond {
		t.Errorf("after that wait it is %v", w)
	}
	now += 100 * second
	b.fill(10, now)
	if b.tokens != 10 {
		t.Errorf("an unused bucket holds %v, want what a second gives", b.tokens)
	}
	// A debt is paid off at the same rate.
	b.take(25, 10, now)
	if w := b.wait(0, 10, now); w != 1500*time.Millisecond {
		t.Errorf("the wait for 15 tokens owed is %v", w)
	}
}

func enter(t *testing.T, l *Limiter, tenant string, bytes int) (Pass, *Refusal) {
	t.Helper()
	p, err := l.Enter(tenant, bytes)
	if err == nil {
		return p, nil
	}
	var r *Refusal
	if !errors.As(err, &r) || r.After <= 0 {
		t.Fatalf("refused with %v, want a Refusal that says when to try again", err)
	}
	return p, r
}

func TestTenantLimits(t *testing.T) {
	l := New(Options{
		Tenant: coord.TenantLimits{OperationsPerSecond: 5, Concurrency: 3, BytesPerSecond: 1000},
		Of: func(id string) (coord.TenantLimits, bool) {
			if id == "free" {
				return coord.TenantLimits{OperationsPerSecond: coord.NoLimit, Concurrency: coord.NoLimit, BytesPerSecond: coord.NoLimit}, true
			}
			return coord.TenantLimits{}, false
		},
	})
	var passes []Pass
	for range 3 {
		p, r := enter(t, l, "a", 0)
		if r != nil {
			t.Fatal(r)
		}
		passes = append(passes, p)
	}
	if _, r := enter(t, l, "a", 0); r == nil || !errors.Is(r, ErrRate) {
		t.Errorf("a fourth operation at once: %v", r)
	}
	if p, r := enter(t, l, "b", 0); r != nil {
		t.Errorf("another tenant: %v", r)
	} else {
		l.Leave(p, 0, nil)
	}
	for _, p := range passes {
		l.Leave(p, 0, nil)
	}
	for range 2 {
		if p, r := enter(t, l, "a", 0); r != nil {
			t.Errorf("within the rate: %v", r)
		} else {
			l.Leave(p, 0, nil)
		}
	}
	if _, r := enter(t, l, "a", 0); r == nil || r.After > 200*time.Millisecond {
		t.Errorf("beyond 5 a second: %v", r)
	}
	for range 100 {
		if p, r := enter(t, l, "free", 1<<20); r != nil {
			t.Fatalf("a tenant without limits: %v", r)
		} else {
			l.Leave(p, 1<<20, nil)
		}
	}
	// A large value goes through, and is paid for afterwards; so is what was read.
	for _, c := range []struct {
		tenant         string
		written, found int
	}{{"writes", 5000, 0}, {"reads", 0, 5000}} {
		p, r := enter(t, l, c.tenant, c.written)
		if r != nil {
			t.Fatal(r)
		}
		l.Leave(p, c.found, nil)
		if _, r := enter(t, l, c.tenant, 1); r == nil || r.After < 3*time.Second || r.After > 5*time.Second {
			t.Errorf("after %+v: %v", c, r)
		}
	}
	if rate, load := l.Refused(); rate != 4 || load != 0 {
		t.Errorf("%d refused for rates and %d for load, want 4 and 0", rate, load)
	}
	if l.InFlight() != 0 || l.Bytes() != 0 || l.busy.Load() != 0 {
		t.Errorf("left: %d operations, %d bytes, %d tenants", l.InFlight(), l.Bytes(), l.busy.Load())
	}
}

// New limits are in force soon, and stay while the tenant is not at hand.
func TestLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits, known := coord.TenantLimits{}, true
		l := New(Options{Of: func(string) (coord.TenantLimits, bool) { return limits, known }})
		burst := func() (admitted int) {
			for range 50 {
				if p, err := l.Enter("a", 0); err == nil {
					admitted++
					l.Leave(p, 0, nil)
				}
			}
			return admitted
		}
		want := func(what string, n int) {
			t.Helper()
			if got := burst(); got != n {
				t.Errorf("%s: %d of 50 operations are admitted, want %d", what, got, n)
			}
		}
		want("without limits", 50)
		limits.OperationsPerSecond = 2
		time.Sleep(2 * time.Second)
		want("with a limit", 2)
		known = false
		time.Sleep(2 * time.Second)
		want("while the tenant is not at hand", 2)
		known, limits.OperationsPerSecond = true, coord.NoLimit
		time.Sleep(refresh + time.Millisecond)
		want("when the limit was lifted", 50)
	})
}

// One tenant cannot use all that may be under way: another always finds room.
func TestNoisyTenantGoesFirst(t *testing.T) {
	l := New(Options{MaxInFlight: 80})
	var noisy []Pass
	for {
		p, r := enter(t, l, "noisy", 0)
		if r != nil {
			if !errors.Is(r, ErrOverloaded) {
				t.Fatal(r)
			}
			break
		}
		noisy = append(noisy, p)
	}
	if len(noisy) < 70 || len(noisy) >= 80 {
		t.Errorf("a tenant alone has %d under way of 80", len(noisy))
	}
	for i := range 8 {
		if _, r := enter(t, l, "quiet", 0); r != nil {
			t.Fatalf("operation %d of a quiet tenant: %v", i, r)
		}
		if _, r := enter(t, l, "noisy", 0); r == nil {
			t.Error("the noisy tenant takes the room of the others")
		}
	}
	for _, p := range noisy {
		l.Leave(p, 0, nil)
	}
}

func TestBytesAreBounded(t *testing.T) {
	l := New(Options{MaxBytes: 100})
	large, r := enter(t, l, "a", 1000)
	if r != nil {
		t.Fatalf("a single large value: %v", r)
	}
	if _, r := enter(t, l, "a", 1); r == nil || !errors.Is(r, ErrOverloaded) {
		t.Errorf("a value beside it: %v", r)
	}
	if p, r := enter(t, l, "a", 0); r != nil {
		t.Errorf("no value beside it: %v", r)
	} else {
		l.Leave(p, 0, nil)
	}
	l.Leave(large, 0, nil)

	// Answers that wait keep no value from coming in.
	if !l.HasRoom(1000) {
		t.Error("there is no room for a single large answer")
	}
	l.Hold(1000)
	if l.HasRoom(1) {
		t.Error("there is room for an answer beside it")
	}
	if p, r := enter(t, l, "a", 40); r != nil {
		t.Errorf("a value that comes in beside it: %v", r)
	} else {
		l.Leave(p, 0, nil)
	}
	l.Hold(-1000)
	if l.Bytes() != 0 {
		t.Errorf("%d bytes are left", l.Bytes())
	}
	// Large ones leave room for small ones.
	l = New(Options{MaxBytes: 16 * Large})
	l.Hold(4 * Large)
	if l.HasRoom(Large+1) || !l.HasRoom(Large) {
		t.Error("large answers take the room of small ones")
	}
}

// However many names come in, only so many tenants are told apart, and idle ones
// make room.
func TestTenantsAreBounded(t *testing.T) {
	l := New(Options{MaxTenants: 100, Tenant: coord.TenantLimits{OperationsPerSecond: 1000}})
	for i := range 10_000 {
		p, err := l.Enter(fmt.Sprint("tenant-", i), 0)
		l.Leave(p, 0, nil)
		if err != nil && !errors.Is(err, ErrRate) {
			t.Fatal(err)
		}
	}
	if n := l.Tenants(); n != 100 {
		t.Errorf("%d tenants are told apart, want 100", n)
	}
	now := int64(time.Since(l.origin) + time.Second)
	for i := range int64(1000) {
		l.tenant("made-up", now+i)
	}
	if at := l.swept.Load(); at != now {
		t.Errorf("a thousand new tenants had the idle ones looked for again after %v", time.Duration(at-now))
	}
	l.sweep(int64(time.Since(l.origin) + idle + 2*time.Second))
	if n := l.Tenants(); n != 0 {
		t.Errorf("%d idle tenants are left", n)
	}
}

// The window closes while even the fastest operations are slow, and opens again.
func TestWindow(t *testing.T) {
	var w window
	w.open(10_000)
	now := int64(0)
	spend := func(intervals int, underWay, took int64) {
		for range intervals {
			for range 100 {
				w.note(inTime, underWay, now, took)
			}
			now += int64(interval) + 1
		}
	}
	ms := int64(time.Millisecond)
	spend(20, 50, 2*ms)
	if got := w.allowed.Load(); got != 10_000 {
		t.Errorf("without load %d may be under way, want 10000", got)
	}
	spend(50, 8000, 800*ms)
	closed := w.allowed.Load()
	if closed > fewest {
		t.Errorf("after 5 s of operations that take 800 ms %d may be under way", closed)
	}
	for range 50 {
		spend(1, w.allowed.Load(), 40*ms)
	}
	if got := w.allowed.Load(); got < 4*closed {
		t.Errorf("after 5 s of operations that are fast enough %d may be under way, was %d", got, closed)
	}
	// What always takes long, as replicas far away do, is no sign of a queue.
	w = window{}
	w.open(10_000)
	now = 0
	spend(100, 5000, 200*ms)
	if got := w.allowed.Load(); got != 10_000 {
		t.Errorf("with replicas 200 ms away %d may be under way, want 10000", got)
	}
}

func TestConcurrently(t *testing.T) {
	l := New(Options{MaxInFlight: 64, MaxTenants: 8, Tenant: coord.TenantLimits{Concurrency: 20}})
	var wait sync.WaitGroup
	for g := range 16 {
		wait.Go(func() {
			for i := range 5000 {
				p, err := l.Enter(fmt.Sprint((g+i)%20), 10)
				if err == nil {
					l.Leave(p, 10, nil)
				}
			}
		})
	}
	wait.Wait()
	if l.InFlight() != 0 || l.Bytes() != 0 || l.busy.Load() != 0 {
		t.Errorf("left: %d operations, %d bytes, %d tenants", l.InFlight(), l.Bytes(), l.busy.Load())
	}
}

func BenchmarkEnterLeave(b *testing.B) {
	for name, limits := range map[string]coord.TenantLimits{"unlimited": {}, "limited": {OperationsPerSecond: 1 << 40, BytesPerSecond: 1 << 50}} {
		b.Run(name, func(b *testing.B) {
			l := New(Options{Tenant: limits})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p, err := l.Enter("tenant", 100)
					if err != nil {
						b.Fatal(err)
					}
					l.Leave(p, 0, nil)
				}
			})
		})
	}
}
