package coord

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Housekeeping is what one coordinator does for all of them: changes of
// topology, the comparison of replicas, and the removal of what is no longer
// needed. A lease chooses who. It only avoids double work: each step is safe,
// however many take it at once.

const (
	housekeepingLease = "housekeeping"
	leaseTTL          = 5 * time.Second
	leaseRenewal      = 1500 * time.Millisecond
	leaseTimeout      = time.Second
)

// term is the time for which this coordinator has the lease.
type term struct {
	stop   context.CancelFunc // nil: it has not
	chores sync.WaitGroup
	leads  *atomic.Bool
}

func (t *term) begin(ctx context.Context, chores []func(context.Context)) {
	if t.stop != nil {
		return
	}
	led, stop := context.WithCancel(ctx)
	t.stop = stop
	t.leads.Store(true)
	for _, chore := range chores {
		t.chores.Go(func() { chore(led) })
	}
}

func (t *term) end() {
	if t.stop != nil {
		t.stop()
		t.chores.Wait()
		t.stop = nil
		t.leads.Store(false)
	}
}

// keepHouse does the housekeeping whenever this coordinator has the lease,
// until ctx ends.
func (c *Coordinator) keepHouse(ctx context.Context) {
	name := c.options.Identity.Writer.ID + "/" + c.run
	tick := time.NewTicker(leaseRenewal)
	defer tick.Stop()
	mine := term{leads: &c.leads}
	defer func() {
		mine.end()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
		defer cancel()
		if err := c.metadata.ReleaseLease(last, housekeepingLease, name); err != nil {
			c.report("release the lease for housekeeping", err)
		}
	}()
	for renewed := time.Now(); ; {
		bounded, cancel := context.WithTimeout(ctx, leaseTimeout)
		owned, err := c.metadata.AcquireLease(bounded, housekeepingLease, name, leaseTTL)
		cancel()
		switch {
		case err == nil && owned:
			renewed = time.Now()
			mine.begin(ctx, c.chores())
		case err == nil || time.Since(renewed) > leaseTTL-leaseRenewal:
			mine.end()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ChoreStats counts what a coordinator has done of the housekeeping.
type ChoreStats struct {
	Leads       bool  // it does the housekeeping now
	KeysCopied  int64 // by changes of topology
	BytesCopied int64 // of their values
	Repairs     RepairStats
	Forgotten   int64 // tombstones and expired values
}

func (c *Coordinator) chored() ChoreStats {
	return ChoreStats{
		Leads:       c.leads.Load(),
		KeysCopied:  c.migrations.keys.Load(),
		BytesCopied: c.migrations.bytes.Load(),
		Repairs:     c.RepairStats(),
		Forgotten:   c.TombstonesCollected(),
	}
}

// chores are what the leader does, each until its context ends.
func (c *Coordinator) chores() []func(context.Context) {
	return []func(context.Context){c.migrations.lead, c.repairs.lead, c.collector.lead, c.purger.lead}
}

// report tells of what went wrong in the background.
func (c *Coordinator) report(what string, err error) {
	if f := c.events.Background; f != nil && err != nil {
		f(what, err)
	}
}
