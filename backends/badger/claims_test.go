package badger

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
)

func openTestClaims(t testing.TB, opts ClaimsOptions) *Claims {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.MinFreeBytes == 0 {
		opts.MinFreeBytes = 1
	}
	c, err := OpenClaims(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// wall is a clock that a test moves.
type wall struct{ nanos atomic.Int64 }

func newWall() *wall {
	w := new(wall)
	w.nanos.Store(time.Now().UnixNano())
	return w
}

func (w *wall) now() time.Time          { return time.Unix(0, w.nanos.Load()) }
func (w *wall) advance(d time.Duration) { w.nanos.Add(int64(d)) }

func TestClaimsConformance(t *testing.T) {
	for name, sync := range map[string]bool{"without sync": false, "with sync": true} {
		t.Run(name, func(t *testing.T) {
			conformance.Idempotency(t, conformance.IdempotencySuite{
				Open: func(t *testing.T, ttl time.Duration) (coord.Idempotency, func(time.Duration)) {
					clock := newWall()
					return openTestClaims(t, ClaimsOptions{TTL: ttl, Wall: clock.now, Sync: sync}), clock.advance
				},
				Reopen: func(t *testing.T, store coord.Idempotency) coord.Idempotency {
					c := store.(*Claims)
					if err := c.Close(); err != nil {
						t.Fatal(err)
					}
					return openTestClaims(t, c.opts)
				},
			})
		})
	}
}

func TestClaimsInUse(t *testing.T) {
	dir := t.TempDir()
	openTestClaims(t, ClaimsOptions{Dir: dir})
	if _, err := OpenClaims(ClaimsOptions{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("got error %v, want ErrInUse", err)
	}
}

func TestClaimsDiskFull(t *testing.T) {
	var disk space
	disk.free.Store(900 << 20)
	c := openTestClaims(t, ClaimsOptions{MinFreeBytes: 100 << 20, Space: disk.probe})
	key := coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: "i"}
	if _, err := c.Reserve(t.Context(), key, coord.Fingerprint{}, coord.AttemptID{1}, time.Minute); err != nil {
		t.Fatal(err)
	}
	disk.free.Store(0)
	eventually(t, "the ping fails", func() bool { return errors.Is(c.Ping(t.Context()), coord.ErrIdempotencyUnavailable) })
	if _, err := c.Mint(t.Context(), key, coord.AttemptID{1}, testVersion(1, nil).Head); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Errorf("mint on a full disk: got error %v", err)
	}
	if claim, err := c.Reserve(t.Context(), key, coord.Fingerprint{}, coord.AttemptID{2}, time.Minute); err != nil || claim.Attempt != (coord.AttemptID{1}) {
		t.Errorf("reserve of a standing claim on a full disk: got %+v, error %v", claim, err)
	}
	disk.free.Store(900 << 20)
	eventually(t, "the ping answers", func() bool { return c.Ping(t.Context()) == nil })
}

func TestClaimsRecoverFromFailedCommit(t *testing.T) {
	c := openTestClaims(t, ClaimsOptions{})
	var failed atomic.Bool
	c.store.commitFault = func() error {
		if failed.CompareAndSwap(false, true) {
			return errors.New("input/output error")
		}
		return nil
	}
	key := coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: "i"}
	reserve := func() error {
		_, err := c.Reserve(t.Context(), key, coord.Fingerprint{}, coord.AttemptID{1}, time.Minute)
		return err
	}
	if err := reserve(); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Fatalf("got error %v, want ErrIdempotencyUnavailable", err)
	}
	eventually(t, "the store is open again", func() bool { return reserve() == nil })
}

func TestClaimsAfterClose(t *testing.T) {
	c := openTestClaims(t, ClaimsOptions{})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reserve(t.Context(), coord.ClaimKey{}, coord.Fingerprint{}, coord.AttemptID{}, time.Minute); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Errorf("reserve after close: got error %v", err)
	}
	if err := c.Ping(t.Context()); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Errorf("ping after close: got error %v", err)
	}
}
