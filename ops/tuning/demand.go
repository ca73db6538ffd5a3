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

// Operations that a message holds, where a process exchanges such. Many have
// gathered while others were served: what a processor more would cost is then
// missing. With few, nobody waits for a processor but behind what runs on and on,
// the collector's sweep or a compaction, and a second one lets them past it.
const (
	fewOperations  = 6.0 // and fewer: at least two processors
	manyOperations = 8.0 // and more: one, where that is enough
)

// gathered is how many operations messages have held lately.
type gathered uint8

const (
	gatheredUnknown gathered = iota // there was no message yet, or never few nor many in one
	gatheredFew
	gatheredMany
)

// demand follows how many processors a process needs. Growing takes a sample
// or a few, giving back takes idleFor, or busyFor: too few cost latency,
// too many processor time. At the peak of its load a storage node that kept a
// processor for idleFor after each page that it had waited for, or goroutine that
// was late, had two or more for half of the time, and used a tenth more for a
// write. At half of that load the p99 is what suffers without.
type demand struct {
	most    int  // processors that there are
	thrifty bool // with them where messages hold many operations
	n       int  // that the scheduler has

	lately, longer float64       // processors in use, decaying means over busyFor and idleFor
	kept           time.Duration // for which n is not lowered yet

	messages, operations float64 // a second, decaying means over idleFor
	gathered             gathered
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
	// messages were exchanged, with so many operations in them; none where the
	// process exchanges none.
	messages, operations uint64
}

// next is how many processors the scheduler should have from now on.
func (d *demand) next(s sample) int {
	if s.elapsed <= 0 {
		return d.n
	}
	used := s.rate(s.used.Seconds())
	d.lately += (used - d.lately) * s.weight(busyFor)
	d.longer += (used - d.longer) * s.weight(idleFor)
	d.kept -= s.elapsed
	d.batch(s)
	n, least := float64(d.n), 1
	if s.collecting || d.gathered == gatheredFew {
		least = 2
	}
	// Where many operations wait for each other anyway, what is soon over keeps
	// no processor for long.
	soonOver := idleFor
	if d.spares() {
		soonOver = busyFor
	}
	switch {
	case s.late:
		d.grow(d.n+2, d.most+spare, soonOver)
	case used > saturated*n, d.lately > busy*n:
		d.grow(d.n+max(1, d.n/2), d.most, idleFor)
	case s.faults:
		d.grow(d.n+max(1, d.n/2), d.most, soonOver)
	case s.syncs && d.n <= 2:
		d.grow(2, d.most, idleFor)
	case d.n < least:
		d.n = min(least, d.most) // and lower at once when that is over
	case d.n > least && d.kept <= 0 && d.longer < idle*(n-1) && d.lately < idle*(n-1):
		d.n--
		d.kept = busyFor
	}
	return d.n
}

// soon is the share of the heap's goal at which collecting is about to begin.
func (d *demand) soon() float64 {
	if d.spares() {
		return soonMany
	}
	return soon
}

// spares tells whether a processor more costs more than it gives.
func (d *demand) spares() bool { return d.thrifty && d.gathered == gatheredMany }

// batch follows how many operations a message holds.
func (d *demand) batch(s sample) {
	d.messages += (s.rate(float64(s.messages)) - d.messages) * s.weight(idleFor)
	d.operations += (s.rate(float64(s.operations)) - d.operations) * s.weight(idleFor)
	switch {
	case d.operations > manyOperations*d.messages:
		d.gathered = gatheredMany
	case s.messages > 0 && d.operations < fewOperations*d.messages:
		d.gathered = gatheredFew
	}
}

// rate is what a sample has counted, a second.
func (s sample) rate(count float64) float64 { return count / s.elapsed.Seconds() }

// weight is a sample's in a decaying mean over some time.
func (s sample) weight(over time.Duration) float64 {
	return 1 - math.Exp(-s.elapsed.Seconds()/over.Seconds())
}

// grow to n, or to most, for so long at least.
func (d *demand) grow(n, most int, keep time.Duration) {
	d.n = max(d.n, min(most, n))
	d.kept = max(d.kept, keep)
}
