package coord_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// until polls: the keeper of the identity works in the background.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10s", what)
		}
	}
}

// A clock that ran an hour ahead and was set right leaves the process clock
// where replicas refuse it; a new incarnation starts from the wall clock.
func TestWallClockJumpsBack(t *testing.T) {
	cluster := newCluster(t, 3)
	var ahead atomic.Int64
	c := cluster.start(t, "c1", func(o *coord.Options) {
		o.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	put(t, c, "before", "v", coord.Quorum)
	ahead.Store(int64(time.Hour))
	_, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "ahead", Value: []byte("v")})
	if outcome(err) != coord.NotApplied {
		t.Errorf("a write an hour ahead: %v", err)
	}
	ahead.Store(0)
	until(t, "writes are accepted again", func() bool {
		_, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "after", Value: []byte("v")})
		return err == nil
	})
	if s := c.Status(t.Context()); s.NodeID != "c1" || s.Incarnation != 2 {
		t.Errorf("running as %s in incarnation %d, want c1 in 2", s.NodeID, s.Incarnation)
	}
}

// A node id that was cut off is taken back; one that another process has taken
// meanwhile ends this one.
func TestNodeIDIsLost(t *testing.T) {
	cluster := newCluster(t, 3)
	lost := make(chan struct{})
	c := cluster.start(t, "c1", func(o *coord.Options) { o.Identity.Lost = lost })
	close(lost)
	until(t, "a new incarnation", func() bool { return c.Status(t.Context()).Incarnation == 2 })
	put(t, c, "k", "v", coord.Quorum)

	other := newCluster(t, 3)
	cut := make(chan struct{})
	var stolen coord.Identity
	d := other.start(t, "c1", func(o *coord.Options) {
		// Its lock was lost to another process before it knew.
		if err := o.Identity.Release(); err != nil {
			t.Fatal(err)
		}
		var err error
		if stolen, err = other.metadata.AcquireIdentity(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
		o.Identity.Lost = cut
	})
	defer stolen.Release()
	close(cut)
	select {
	case err := <-d.Failed():
		if !errors.Is(err, coord.ErrNodeIDTaken) {
			t.Errorf("failed with %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("it goes on under an id that another process holds")
	}
}
