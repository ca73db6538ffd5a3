package tuning

import (
	"math"
	"time"
)

// Thresholds of demand, in shares of the processors that the scheduler has. What
// runs on one processor more costs up to a quarter more, for the goroutines
// that are handed from one to the other: so the same load must not both be too
// much for n and little enough for n+1 to give one back.
const (
	saturated = 0.90 // in one sample: something runs on and on
	busy      = 0.75 // for busyFor: queues would begin to show in latencies
	idle      = 0.90 // of one processor less, for idleFor

	// spare processors, more than there are, take goroutines that run on and on,
	// as compactions do. Go lets each run for 10 ms before the next one's turn,
	// and a request is handed on several times; the kernel lets a thread that
	// has slept run at once.
	spare = 2

	busyFor = 200 * time.Millisecond
	idleFor = time.Second
)

// demand follows how many processors a process needs. Growing takes a sample
// or a few, giving back takes idleFor: too few cost latency, too many a little
// processor time.
type demand struct {
	most int // processors that there are
	n    int // that the scheduler has

	lately, longer float64       // processors in use, decaying means over busyFor and idleFor
	kept           time.Duration // for which n is not lowered yet
}

func newDemand(most int) demand {
	return demand{most: most, n: most, lately: float64(most), longer: float64(most), kept: idleFor}
}

// sample is what a process did for some time.
type sample struct {
	elapsed time.Duration
	used    time.Duration // of processors
	// faults: it waited for pages of mapped files, which keeps a processor.
	faults bool
	// late: goroutines that could run waited for lateAfter or longer.
	late bool
	// collecting: garbage is being collected or will be soon, which on a single
	// processor is done between requests, and for long.
	collecting bool
	// syncs: it waited for a disk in system calls, each of which keeps a
	// processor until the runtime's monitor takes it away.
	syncs bool
}

// next is how many processors the scheduler should have from now on.
func (d *demand) next(s sample) int {
	if s.elapsed <= 0 {
		return d.n
	}
	used := s.used.Seconds() / s.elapsed.Seconds()
	d.lately += (used - d.lately) * (1 - math.Exp(-s.elapsed.Seconds()/busyFor.Seconds()))
	d.longer += (used - d.longer) * (1 - math.Exp(-s.elapsed.Seconds()/idleFor.Seconds()))
	d.kept -= s.elapsed
	n, least := float64(d.n), 1
	if s.collecting {
		least = 2
	}
	switch {
	case s.late:
		d.grow(d.n+2, d.most+spare)
	case used > saturated*n, d.lately > busy*n, s.faults:
		d.grow(d.n+max(1, d.n/2), d.most)
	case s.syncs && d.n <= 2:
		d.grow(2, d.most)
	case d.n < least:
		d.n = least // and lower at once when the collection is over
	case d.n > least && d.kept <= 0 && d.longer < idle*(n-1) && d.lately < idle*(n-1):
		d.n--
		d.kept = busyFor
	}
	return d.n
}

func (d *demand) grow(n, most int) {
	d.n = max(d.n, min(most, n))
	d.kept = idleFor
}
