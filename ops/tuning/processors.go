package tuning

import (
	"os"
	"runtime"
	"time"
)

// How often the load is looked at: rarely while there is none, for a laptop's
// battery.
const (
	watchBusy = 20 * time.Millisecond
	watchIdle = 100 * time.Millisecond
	idleUse   = 0.05 // of one processor
)

// Signs are what a process tells of its load that the runtime does not know. Nil
// functions tell nothing. They are called often, and by one goroutine.
type Signs struct {
	// Syncs counts how often the process has waited for a disk in system calls.
	Syncs func() uint64
	// Messages counts the messages of operations that it has exchanged with other
	// processes, and the operations in them.
	Messages func() (messages, operations uint64)
	// Thrifty gives processors back at once where messages hold many operations.
	// Sweeping garbage then takes its time, until which CollectRarely does not
	// follow what is live: it is for a process that has no least garbage.
	Thrifty bool
}

// read takes in what was counted since the last reading.
func (s *Signs) read(into *sample, last *counts) {
	now := *last
	if s.Syncs != nil {
		now.syncs = s.Syncs()
	}
	if s.Messages != nil {
		now.messages, now.operations = s.Messages()
	}
	into.syncs = now.syncs != last.syncs
	into.messages, into.operations = now.messages-last.messages, now.operations-last.operations
	*last = now
}

type counts struct{ syncs, messages, operations uint64 }

// FollowLoad gives Go's scheduler as many processors as the process keeps busy,
// from one to all that it may use, until the function that it returns is called.
//
// A goroutine that becomes runnable while a processor is free wakes a thread to
// look for it, and one that goes idle searches for work before it sleeps. For
// goroutines that hand each other batches every few microseconds, that costs
// more than running them in turn: on two processors shared by a coordinator and
// three storage nodes, a coordinator used 0.79 of the time a write and 0.77 a
// read with one, a storage node 0.80 and 0.90. But where little waits in turn,
// those who do wait behind a collection or a compaction, and two processors bring
// the p99 at half of the peak from 5 to 17 ms down to 4 or 5.
//
// How many it may use is what the runtime found at the start: a cgroup's limit
// that is changed later is not followed. Only one may follow the load at a time.
func FollowLoad(signs Signs) (stop func()) {
	most := runtime.GOMAXPROCS(0)
	if most == 1 || os.Getenv("GOMAXPROCS") != "" {
		return func() {}
	}
	last, err := usageNow()
	if err != nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		d := newDemand(most)
		d.thrifty = signs.Thrifty
		follow(done, d, last, signs)
	}()
	return func() {
		close(done)
		<-ended
		runtime.GOMAXPROCS(most)
	}
}

func follow(done <-chan struct{}, d demand, last usage, signs Signs) {
	var counted counts
	signs.read(new(sample), &counted)
	waits, garbage := newWaits(), newGarbage()
	every := watchBusy
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-timer.C:
		}
		now, err := usageNow()
		if err != nil {
			return
		}
		s := sample{elapsed: now.at.Sub(last.at), used: now.cpu - last.cpu, faults: now.faults != last.faults}
		s.late, s.collecting = waits.late(), garbage.collecting(d.soon())
		signs.read(&s, &counted)
		last = now
		if before := d.n; d.next(s) != before {
			runtime.GOMAXPROCS(d.n)
		}
		every = watchBusy
		if s.used.Seconds() < idleUse*s.elapsed.Seconds() {
			every = watchIdle
		}
		timer.Reset(every)
	}
}

// usage is what a process has used since it began.
type usage struct {
	at     time.Time
	cpu    time.Duration
	faults int64 // that had to wait for a disk
}
