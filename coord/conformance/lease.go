package conformance

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

func wantLease(t *testing.T, m *metadataTest, h coord.Metadata, name, holder string, ttl time.Duration, want bool) {
	t.Helper()
	if owned, err := h.AcquireLease(m.ctx, name, holder, ttl); err != nil || owned != want {
		t.Errorf("acquire lease %q for %q: %v, %v; want %v", name, holder, owned, err, want)
	}
}

func releaseLease(t *testing.T, m *metadataTest, h coord.Metadata, name, holder string) {
	t.Helper()
	if err := h.ReleaseLease(m.ctx, name, holder); err != nil {
		t.Errorf("release lease %q of %q: %v", name, holder, err)
	}
}

func leaseOwner(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	for i, name := range []string{"leader", "LEADER", "leader ", "", "%", strings.Repeat("l", 256), "\u65e5\u672c"} {
		owner, other := "c"+strconv.Itoa(i), "C"+strconv.Itoa(i)
		wantLease(t, m, a, name, owner, time.Hour, true)
		for _, h := range []coord.Metadata{a, b} {
			wantLease(t, m, h, name, other, time.Hour, false)
			wantLease(t, m, h, name, owner+" ", time.Hour, false)
			wantLease(t, m, h, name, owner, time.Hour, true) // it is the name that owns, not the handle
		}
	}
	for _, ttl := range []time.Duration{0, -time.Second} {
		if owned, err := a.AcquireLease(m.ctx, "never", "c1", ttl); owned || err == nil {
			t.Errorf("a lease of %v: %v, %v; want an error", ttl, owned, err)
		}
	}
	wantLease(t, m, b, "never", "c2", time.Hour, true)
}

func leaseRelease(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	releaseLease(t, m, a, "leader", "c1") // of no effect
	wantLease(t, m, a, "leader", "c1", time.Hour, true)
	wantLease(t, m, a, "other", "c1", time.Hour, true)
	releaseLease(t, m, b, "leader", "c2") // another's
	wantLease(t, m, b, "leader", "c2", time.Hour, false)
	releaseLease(t, m, b, "leader", "c1")
	wantLease(t, m, b, "leader", "c2", time.Hour, true)
	wantLease(t, m, b, "other", "c2", time.Hour, false)
	releaseLease(t, m, a, "leader", "c1") // no longer its own
	wantLease(t, m, a, "leader", "c1", time.Hour, false)
}

func leaseEndsByItself(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	const ttl = 300 * time.Millisecond
	began := time.Now()
	wantLease(t, m, a, "leader", "c1", ttl, true)
	renewed := time.Now()
	ended := awaitLease(t, m, b, "leader", "c2")
	if early := ended.Sub(began); early < ttl {
		t.Errorf("a lease of %v was another's after %v", ttl, early)
	}
	if late := ended.Sub(renewed); late > ttl+5*time.Second {
		t.Errorf("a lease of %v was free after %v", ttl, late)
	}
	wantLease(t, m, a, "leader", "c1", ttl, false)
}

// awaitLease asks for a lease until holder has it.
func awaitLease(t *testing.T, m *metadataTest, h coord.Metadata, name, holder string) time.Time {
	t.Helper()
	for {
		owned, err := h.AcquireLease(m.ctx, name, holder, time.Hour)
		if err != nil {
			t.Fatalf("acquire lease %q for %q: %v", name, holder, err)
		}
		if owned {
			return time.Now()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leaseRenewed: it is the last renewal that counts, longer or shorter.
func leaseRenewed(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	wantLease(t, m, a, "longer", "c1", 50*time.Millisecond, true)
	wantLease(t, m, a, "longer", "c1", time.Hour, true)
	wantLease(t, m, a, "shorter", "c1", time.Hour, true)
	wantLease(t, m, a, "shorter", "c1", 100*time.Millisecond, true)
	awaitLease(t, m, b, "shorter", "c2")
	wantLease(t, m, b, "longer", "c2", time.Hour, false)
}

func concurrentLeases(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const callers = 12
	owned := make([]bool, callers)
	for _, err := range concurrently(callers, func(i int) (err error) {
		owned[i], err = handles[i%2].AcquireLease(m.ctx, "leader", "c"+strconv.Itoa(i), time.Hour)
		return err
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	owner := -1
	for i, is := range owned {
		if is && owner >= 0 {
			t.Errorf("c%d and c%d both own the lease", owner, i)
		}
		if is {
			owner = i
		}
	}
	if owner < 0 {
		t.Fatal("nobody owns the lease")
	}
	wantLease(t, m, handles[owner%2], "leader", "c"+strconv.Itoa(owner), time.Hour, true)
}
