package coord

import (
	"errors"
	"time"
)

type errandResult struct {
	bytes int
	err   error
}

// runErrands carries out one errand for each key, all at once, and waits for all of them; it
// returns how many bytes of values they met. Keys that have gone meanwhile are
// no failure.
func (c *Coordinator) runErrands(kind errand, v *view, keys []errandKey) (bytes int64, err error) {
	return c.runTransfers(kind, v, keys, nil)
}

// runTransfers is runErrands with, unless it is nil, a transfer for each key.
func (c *Coordinator) runTransfers(kind errand, v *view, keys []errandKey, transfers []*transfer) (bytes int64, err error) {
	results := make(chan errandResult, len(keys))
	started := 0
	var failures []error
	for i, k := range keys {
		if err := c.begin(); err != nil {
			failures = append(failures, err)
			break
		}
		o := c.open(opRead, v, k.tenant, k.key, Quorum, time.Time{})
		o.waiter = errandWaiter(results)
		o.takeRead(&ReadRequest{})
		o.read.errand, o.read.awaitRepair = kind, true
		if transfers != nil {
			o.read.transfer = transfers[i]
		}
		o.start()
		started++
	}
	for range started {
		r := <-results
		bytes += int64(r.bytes)
		if r.err != nil {
			failures = append(failures, r.err)
		}
	}
	if len(failures) > 0 {
		return bytes, failures[0]
	}
	return bytes, nil
}

type errandKey struct {
	tenant *Tenant
	key    string
}

// errandWaiter is told the end of errands; it has room for all of them.
type errandWaiter chan errandResult

// Written implements Waiter; errands write nothing of their own.
func (w errandWaiter) Written(WriteResult, error) {}

// Found implements Waiter.
func (w errandWaiter) Found(r ReadResult, err error) {
	if errors.Is(err, ErrKeyNotFound) {
		err = nil
	}
	w <- errandResult{len(r.Value), err}
}
