package coord_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// waiter takes one answer and counts how often it was told.
type waiter struct {
	told    chan struct{}
	times   atomic.Int32
	written coord.WriteResult
	found   coord.ReadResult
	err     error
}

func newWaiter() *waiter { return &waiter{told: make(chan struct{}, 1)} }

func (w *waiter) Written(r coord.WriteResult, err error) {
	w.times.Add(1)
	w.written, w.err = r, err
	w.told <- struct{}{}
}

func (w *waiter) Found(r coord.ReadResult, err error) {
	w.times.Add(1)
	w.found, w.err = r, err
	w.told <- struct{}{}
}

func (w *waiter) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-w.told:
		return w.err
	case <-time.After(10 * time.Second):
		t.Fatal("no answer within 10 s")
		return nil
	}
}

func TestStartedOperations(t *testing.T) {
	c := newCluster(t, 3).start(t, "c1", nil)
	w := newWaiter()
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Value: []byte("v"), Level: coord.All, IdempotencyKey: "i"}, w)
	if err := w.wait(t); err != nil || w.written.Replicas != 3 || w.written.Level != coord.All || w.written.Clock.Counter("c1") != 1 {
		t.Fatalf("write: %+v, %v", w.written, err)
	}
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Value: []byte("v"), IdempotencyKey: "i"}, w)
	if err := w.wait(t); err != nil || !w.written.Duplicate {
		t.Fatalf("the same write again: %+v, %v", w.written, err)
	}
	c.StartRead(coord.ReadRequest{Tenant: "shop", Key: "k"}, w)
	if err := w.wait(t); err != nil || !bytes.Equal(w.found.Value, []byte("v")) {
		t.Fatalf("read: %+v, %v", w.found, err)
	}
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Delete: true}, w)
	if err := w.wait(t); err != nil {
		t.Fatalf("delete: %v", err)
	}
	c.StartRead(coord.ReadRequest{Tenant: "shop", Key: "k"}, w)
	if err := w.wait(t); !errors.Is(err, coord.ErrKeyNotFound) {
		t.Errorf("read of a deleted key: %v", err)
	}
	c.StartWrite(coord.WriteRequest{Tenant: "nobody", Key: "k"}, w)
	if err := w.wait(t); !errors.Is(err, coord.ErrTenantNotFound) || outcome(err) != coord.NotApplied {
		t.Errorf("write of an unknown tenant: %v", err)
	}
	c.StartRead(coord.ReadRequest{Tenant: "nobody", Key: "k"}, w)
	if err := w.wait(t); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("read of an unknown tenant: %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k"}, w)
	if err := w.wait(t); !errors.Is(err, coord.ErrShuttingDown) || outcome(err) != coord.NotApplied {
		t.Errorf("write after Close: %v", err)
	}
	c.StartRead(coord.ReadRequest{Tenant: "shop", Key: "k"}, w)
	if err := w.wait(t); !errors.Is(err, coord.ErrShuttingDown) {
		t.Errorf("read after Close: %v", err)
	}
}

// A deadline ends the wait like a context's end: what was sent goes on.
func TestDeadlineOfARequest(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	put(t, c, "k", "before", coord.All)
	hold := func() {
		for _, n := range cluster.nodes {
			n.hold()
		}
	}
	release := func() {
		for _, n := range cluster.nodes {
			n.release()
		}
	}
	const soon = 30 * time.Millisecond
	late := func(what string, err error, want coord.Outcome) {
		t.Helper()
		if !errors.Is(err, coord.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) || outcome(err) != want {
			t.Errorf("%s: %v, %v; want %v", what, err, outcome(err), want)
		}
	}
	hold()
	_, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "k", Value: []byte("x"), Deadline: time.Now().Add(soon)})
	late("write that has sent nothing", err, coord.NotApplied)
	if _, err = c.Read(t.Context(), coord.ReadRequest{Tenant: "shop", Key: "k", Deadline: time.Now().Add(soon)}); !errors.Is(err, coord.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	w := newWaiter()
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Value: []byte("x"), Deadline: time.Now().Add(soon)}, w)
	late("started write that has sent nothing", w.wait(t), coord.NotApplied)
	c.StartRead(coord.ReadRequest{Tenant: "shop", Key: "k", Deadline: time.Now().Add(soon)}, w)
	if err := w.wait(t); !errors.Is(err, coord.ErrDeadlineExceeded) {
		t.Errorf("started read: %v", err)
	}
	release()

	// At level one a single clock is asked for: answering just that leaves the
	// write itself held by every node it goes to.
	hold()
	w = newWaiter()
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "sent", Value: []byte("late"), Level: coord.One, Deadline: time.Now().Add(time.Second)}, w)
	asked := false
	for _, n := range cluster.nodes {
		if asked = n.let("sent"); asked {
			break
		}
	}
	if !asked {
		t.Fatal("no node was asked for its clock")
	}
	late("started write that was sent", w.wait(t), coord.InDoubt)
	release()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if value, err := get(t, c, "sent", coord.Quorum); err == nil && value == "late" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the write that was sent has not come through: %q, %v", value, err)
		}
	}
	if w.times.Load() != 1 {
		t.Errorf("the waiter was told %d times", w.times.Load())
	}
}

// slowTenants is metadata that keeps back tenants until it is let go.
type slowTenants struct {
	coord.Metadata
	let chan struct{}
}

func (m slowTenants) Tenant(ctx context.Context, id string) (coord.Tenant, error) {
	select {
	case <-m.let:
		return m.Metadata.Tenant(ctx, id)
	case <-ctx.Done():
		return coord.Tenant{}, fmt.Errorf("%w: %w", coord.ErrMetadataUnavailable, ctx.Err())
	}
}

func TestStartDoesNotWaitForATenant(t *testing.T) {
	let := make(chan struct{})
	c := newCluster(t, 3).start(t, "c1", func(o *coord.Options) { o.Metadata = slowTenants{o.Metadata, let} })
	late, done := newWaiter(), newWaiter()
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Deadline: time.Now().Add(20 * time.Millisecond)}, late)
	c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Value: []byte("v")}, done)
	if err := late.wait(t); !errors.Is(err, coord.ErrDeadlineExceeded) || outcome(err) != coord.NotApplied {
		t.Errorf("while metadata is silent: %v", err)
	}
	close(let)
	if err := done.wait(t); err != nil {
		t.Errorf("once the tenant is known: %v", err)
	}
}

// Answers and deadlines that come at the same moment tell each waiter once.
func TestEachWaiterIsToldOnce(t *testing.T) {
	c := startOnMemory(t)
	put(t, c, "k", "v", coord.Quorum)
	var all sync.WaitGroup
	for g := range 8 {
		random := rand.New(rand.NewPCG(uint64(g), 1))
		all.Go(func() {
			for range 300 {
				w := newWaiter()
				due := time.Now().Add(time.Duration(random.IntN(60)) * time.Microsecond)
				if random.IntN(2) == 0 {
					c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Value: []byte("v"), Deadline: due}, w)
				} else {
					c.StartRead(coord.ReadRequest{Tenant: "shop", Key: "k", Deadline: due}, w)
				}
				if err := w.wait(t); err != nil && !errors.Is(err, coord.ErrDeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if n := w.times.Load(); n != 1 {
					t.Errorf("told %d times", n)
				}
			}
		})
	}
	all.Wait()
}

func TestAllocationBudgetOfStartedOperations(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates; the budget is checked without it")
		return
	}
	c := startOnMemory(t)
	put(t, c, "k", "v", coord.Quorum)
	w := newWaiter()
	value, due := []byte("value"), time.Now().Add(time.Hour)
	writes := testing.AllocsPerRun(2000, func() {
		c.StartWrite(coord.WriteRequest{Tenant: "shop", Key: "k", Value: value, Deadline: due}, w)
		<-w.told
	})
	reads := testing.AllocsPerRun(2000, func() {
		c.StartRead(coord.ReadRequest{Tenant: "shop", Key: "k", Deadline: due}, w)
		<-w.told
	})
	t.Logf("%.1f allocations per write, %.1f per read", writes, reads)
	if writes > writeAllocations || reads > readAllocations {
		t.Errorf("%.1f allocations per write, %.1f per read; the budget is %d and %d", writes, reads, writeAllocations, readAllocations)
	}
}
