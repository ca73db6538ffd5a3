package cli

import (
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// series is what a measurement saw in each interval. Each worker has a part of
// its own, which the reporter empties, so that workers do not wait for each other.
type series struct {
	interval time.Duration // 0: nothing is kept
	parts    []seriesPart
	lines    []seriesLine
}

type seriesPart struct {
	mu      sync.Mutex
	latency *hdrhistogram.Histogram // microseconds
	errors  int64
}

// seriesLine is one interval, as -json prints it. Requests count in the
// interval in which they end.
type seriesLine struct {
	Seconds      float64 `json:"seconds"` // since the start, at the interval's end
	Count        int64   `json:"count"`
	Errors       int64   `json:"errors"`
	OpsPerSecond float64 `json:"ops_per_second"`
	P50Micros    int64   `json:"p50_us"`
	P99Micros    int64   `json:"p99_us"`
	MaxMicros    int64   `json:"max_us"`
}

// maxSeries bounds the lines that are kept for -json.
const maxSeries = 100_000

func newSeries(interval time.Duration, workers int) *series {
	s := &series{interval: interval}
	if interval > 0 {
		s.parts = make([]seriesPart, workers)
		for i := range s.parts {
			s.parts[i].latency = hdrhistogram.New(1, maxLatency.Microseconds(), 2)
		}
	}
	return s
}

func (s *series) add(worker int, err error, took time.Duration) {
	if s.interval == 0 {
		return
	}
	p := &s.parts[worker]
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.errors++
		return
	}
	// Clamped to the histogram's range, it cannot fail.
	_ = p.latency.RecordValue(min(max(took.Microseconds(), 1), maxLatency.Microseconds()))
}

// start reports each interval until the returned function is called, which
// returns all lines.
func (s *series) start(began time.Time, in *invocation) (stop func() []seriesLine) {
	if s.interval == 0 {
		return func() []seriesLine { return nil }
	}
	last := began
	line := func(evenIfEmpty bool) {
		now := time.Now()
		l := s.take(now.Sub(began), now.Sub(last))
		last = now
		if l.Count == 0 && l.Errors == 0 && !evenIfEmpty {
			return
		}
		if len(s.lines) < maxSeries {
			s.lines = append(s.lines, l)
		}
		if !in.json {
			// A report that cannot be printed fails at its end.
			fmt.Fprintf(in.Stdout, "# %6.1fs %9.0f ops/s  p50 %-9v p99 %-9v max %-9v errors %d\n", l.Seconds, l.OpsPerSecond,
				time.Duration(l.P50Micros)*time.Microsecond, time.Duration(l.P99Micros)*time.Microsecond, time.Duration(l.MaxMicros)*time.Microsecond, l.Errors)
		}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(s.interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				line(true)
			case <-done:
				return
			}
		}
	}()
	return func() []seriesLine {
		close(done)
		<-ended
		line(false) // what came after the last whole interval
		return s.lines
	}
}

// take empties all parts into a line.
func (s *series) take(at, over time.Duration) seriesLine {
	all := hdrhistogram.New(1, maxLatency.Microseconds(), 2)
	l := seriesLine{Seconds: at.Seconds()}
	for i := range s.parts {
		p := &s.parts[i]
		p.mu.Lock()
		all.Merge(p.latency)
		p.latency.Reset()
		l.Errors += p.errors
		p.errors = 0
		p.mu.Unlock()
	}
	l.Count, l.OpsPerSecond = all.TotalCount(), float64(all.TotalCount())/over.Seconds()
	l.P50Micros, l.P99Micros, l.MaxMicros = all.ValueAtQuantile(50), all.ValueAtQuantile(99), all.Max()
	return l
}
