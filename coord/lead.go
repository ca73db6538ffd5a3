package coord

import (
	"context"
	"sync"
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

// keepHouse does the housekeeping whenever this coordinator has the lease,
// until ctx ends.
func (c *Coordinator) keepHouse(ctx context.Context) {
	holder := c.options.Identity.Writer
	name := holder.ID + "/" + c.run
	tick := time.NewTicker(leaseRenewal)
	defer tick.Stop()
	var stop context.CancelFunc
	var chores sync.WaitGroup
	resign := func() {
		if stop != nil {
			stop()
			chores.Wait()
			stop = nil
		}
	}
	renewed := time.Now()
	for {
		bounded, cancel := context.WithTimeout(ctx, leaseTimeout)
		mine, err := c.metadata.AcquireLease(bounded, housekeepingLease, name, leaseTTL)
		cancel()
		switch {
		case err == nil && mine:
			renewed = time.Now()
			if stop == nil {
				var led context.Context
				led, stop = context.WithCancel(ctx)
				for _, chore := range c.chores() {
					chores.Go(func() { chore(led) })
				}
			}
		case err == nil || time.Since(renewed) > leaseTTL-leaseRenewal:
			resign()
		}
		select {
		case <-ctx.Done():
			resign()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
			defer cancel()
			if err := c.metadata.ReleaseLease(last, housekeepingLease, name); err != nil {
				c.report("release the lease for housekeeping", err)
			}
			return
		case <-tick.C:
		}
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
