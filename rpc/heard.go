package rpc

import (
	"sync"
	"sync/atomic"
	"time"
)

// nodeTime is what a storage node has last said of its life and its clock.
type nodeTime struct {
	hearing sync.Mutex // of whoever changes it
	boot    atomic.Uint64
	clock   atomic.Int64
}

// hear takes in what came with a message. What two connections bring may cross,
// so within a life the clock only goes on.
func (t *nodeTime) hear(boot, clock uint64) {
	t.hearing.Lock()
	defer t.hearing.Unlock()
	if boot != t.boot.Load() {
		// A reader that finds the new life must not find the clock of the former.
		t.clock.Store(0)
		t.boot.Store(boot)
	}
	if int64(clock) > t.clock.Load() {
		t.clock.Store(int64(clock))
	}
}

// last is what was heard last, zeros where nothing was. It may pair a former
// life with a later clock, never the other way round.
func (t *nodeTime) last() (boot uint64, clock time.Duration) {
	boot = t.boot.Load()
	return boot, time.Duration(t.clock.Load())
}
