package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc/status"
)

// operation is what the workers do.
type operation string

const (
	opWrite operation = "write"
	opRead  operation = "read"
	opMix   operation = "mix"   // half and half
	opKeyed operation = "keyed" // writes with idempotency keys of their own
)

// load is the load generator: workers that each send one request after another.
type load struct {
	workers, connections int
	keys                 []string
	value                []byte
	keyed                atomic.Int64 // numbers idempotency keys
}

// keyPrefix tells the load's keys apart from those of `coordinator bench`, which
// writes the large values beside it: a small operation must not read one of them.
const keyPrefix = "small-"

func newLoad(workers, connections, keys, valueSize int) *load {
	l := &load{workers: workers, connections: connections, keys: make([]string, keys), value: make([]byte, valueSize)}
	for i := range l.keys {
		l.keys[i] = keyPrefix + strconv.Itoa(i)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range l.value {
		l.value[i] = byte(random.Uint32())
	}
	return l
}

// prepare writes every key once.
func (l *load) prepare(ctx context.Context, way transport, tenant string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for w := range l.workers {
		workers.Go(func() {
			lane := way.lane(w, tenant)
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(l.keys) {
					return
				}
				if err := lane.write(ctx, l.keys[i], "", l.value); err != nil {
					cancel(fmt.Errorf("write the keys: %w", err))
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// drive says what to measure and for how long.
type drive struct {
	do     operation
	rate   float64 // requests a second at set times; 0: as fast as answers come
	warmUp time.Duration
	length time.Duration
}

// sample is what was measured.
type sample struct {
	ops     int64 // that succeeded
	took    time.Duration
	latency *hdrhistogram.Histogram // microseconds
	errors  map[string]int64        // by code
	cpu     map[*process]time.Duration
	own     time.Duration // processor time of the load generator
	calls   replicaCalls
}

func newSample() *sample {
	return &sample{latency: newHistogram(), errors: map[string]int64{}, cpu: map[*process]time.Duration{}}
}

func (s *sample) rate() float64 { return float64(s.ops) / s.took.Seconds() }

// perOp spreads processor time over operations, in microseconds.
func (s *sample) perOp(t time.Duration) float64 {
	if s.ops == 0 {
		return 0
	}
	return float64(t.Nanoseconds()) / 1000 / float64(s.ops)
}

// add takes another measurement of the same thing.
func (s *sample) add(o *sample) {
	s.ops += o.ops
	s.took += o.took
	s.latency.Merge(o.latency)
	for code, n := range o.errors {
		s.errors[code] += n
	}
	for p, t := range o.cpu {
		s.cpu[p] += t
	}
	s.own += o.own
	s.calls = replicaCalls{s.calls.head + o.calls.head, s.calls.read + o.calls.read,
		s.calls.apply + o.calls.apply, s.calls.requests + o.calls.requests}
}

func (s *sample) quantile(q float64) time.Duration {
	return time.Duration(s.latency.ValueAtQuantile(q)) * time.Microsecond
}

func (s *sample) failed() (n int64) {
	for _, count := range s.errors {
		n += count
	}
	return n
}

func (s *sample) failures() string {
	var b strings.Builder
	for _, code := range slices.Sorted(maps.Keys(s.errors)) {
		fmt.Fprintf(&b, " %d %s", s.errors[code], code)
	}
	return strings.TrimSpace(b.String())
}

// maxLatency bounds what the histograms tell apart. Two digits keep one in the
// processor's cache.
const maxLatency = time.Minute

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency.Microseconds(), 2) }

// stuckAfter is how long after the end of a measurement requests are given up.
const stuckAfter = 15 * time.Second

// run measures. Only requests that began and ended in the measured time count.
func (l *load) run(ctx context.Context, s *system, way transport, d drive) (*sample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	runtime.GC()
	begin := time.Now()
	from := begin.Add(d.warmUp)
	until := from.Add(d.length)
	defer time.AfterFunc(time.Until(until)+stuckAfter, cancel).Stop()

	total := newSample()
	var next atomic.Int64 // requests begun, at a set rate
	var merging sync.Mutex
	var workers sync.WaitGroup
	for w := range l.workers {
		workers.Go(func() {
			mine := newSample()
			lane := way.lane(w, s.tenant)
			random := rand.New(rand.NewPCG(uint64(w), uint64(begin.UnixNano())))
			now := time.Now()
			for now.Before(until) && ctx.Err() == nil {
				sent := now
				if d.rate > 0 {
					due := begin.Add(time.Duration(float64(next.Add(1)-1) / d.rate * float64(time.Second)))
					// A request counts from when it was due if its worker was busy
					// then. A timer that fires late is no latency of the system.
					if sent = due; due.After(now) {
						time.Sleep(due.Sub(now))
						sent = time.Now()
					}
				}
				pick := random.Uint64()
				key := l.keys[int(pick>>1)%len(l.keys)]
				var err error
				switch {
				case d.do == opRead, d.do == opMix && pick&1 == 0:
					err = lane.read(ctx, key)
				case d.do == opKeyed:
					err = lane.write(ctx, key, "bench-"+strconv.FormatInt(l.keyed.Add(1), 36), l.value)
				default:
					err = lane.write(ctx, key, "", l.value)
				}
				now = time.Now()
				if sent.Before(from) || now.After(until) {
					continue
				}
				if err != nil {
					mine.errors[status.Code(err).String()]++
					continue
				}
				mine.ops++
				// Clamped to the histogram's range, it cannot fail.
				_ = mine.latency.RecordValue(min(max(now.Sub(sent).Microseconds(), 1), maxLatency.Microseconds()))
			}
			merging.Lock()
			defer merging.Unlock()
			total.add(mine)
		})
	}
	err := l.watch(ctx, s, from, until, total, &merging)
	workers.Wait()
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", s.name, err)
	}
	total.took = d.length
	if total.ops == 0 {
		return nil, fmt.Errorf("measure %s: no request succeeded: %s", s.name, total.failures())
	}
	return total, nil
}

// watch adds up what processes use between two times.
func (l *load) watch(ctx context.Context, s *system, from, until time.Time, total *sample, adding *sync.Mutex) error {
	if err := sleepUntil(ctx, from); err != nil {
		return err
	}
	counted := s.server.ops != ""
	var calls, before replicaCalls
	var err error
	if counted {
		if before, err = s.server.replicaCalls(ctx); err != nil {
			return err
		}
	}
	first, own, err := s.cpu()
	if err != nil {
		return err
	}
	if err := sleepUntil(ctx, until); err != nil {
		return err
	}
	last, ownAfter, err := s.cpu()
	if err != nil {
		return err
	}
	if counted {
		if calls, err = s.server.replicaCalls(ctx); err != nil {
			return err
		}
	}
	adding.Lock()
	defer adding.Unlock()
	for p, t := range last {
		total.cpu[p] = t - first[p]
	}
	total.own = ownAfter - own
	total.calls = calls.minus(before)
	return nil
}

func sleepUntil(ctx context.Context, t time.Time) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Until(t)):
		return nil
	}
}

// cpu is the processor time that each process of the system has used, and this one.
func (s *system) cpu() (used map[*process]time.Duration, own time.Duration, err error) {
	used = map[*process]time.Duration{}
	for _, p := range s.processes() {
		if used[p], err = cpuTime(p.cmd.Process.Pid); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	own, err = cpuTime(os.Getpid())
	return used, own, err
}
