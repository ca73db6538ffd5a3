package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/rpc/client"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func benchCommand() command {
	return command{
		name: "bench", summary: "Measure throughput and latency",
		details: `
Workers send one request after another (a closed loop), or, with -rate, at set
times whether or not earlier ones were answered in time; latency then counts
from when a request was due. With -pipeline requests travel together on one
stream for each connection. Keys bench-0 and on of the tenant are overwritten.

With -count the measurement ends after so many requests, else after -duration.
With -interval each line tells of one interval: what follows #, and, with -json,
the time series.`,
		flags: bench,
	}
}

// benchOptions are the flags of bench.
type benchOptions struct {
	workers, connections int
	duration             time.Duration
	count                int64
	interval             time.Duration
	keys                 int
	distribution         string
	valueSize, mix       string
	rate                 float64
	pipeline             bool

	readPercent int   // from mix
	sizes       sizes // from valueSize
}

func bench(fs *flag.FlagSet) action {
	var o benchOptions
	fs.IntVar(&o.workers, "workers", 64, "requests under way at once")
	fs.IntVar(&o.connections, "connections", 4, "connections that they share")
	fs.DurationVar(&o.duration, "duration", 10*time.Second, "how long to measure")
	fs.Int64Var(&o.count, "count", 0, "end after so many requests; 0: after -duration")
	fs.DurationVar(&o.interval, "interval", 0, "report every so often; 0: only at the end")
	fs.IntVar(&o.keys, "keys", 10_000, "different keys")
	fs.StringVar(&o.distribution, "distribution", "uniform", "how requests fall on keys: uniform, or zipfian (a few popular ones, as in YCSB)")
	fs.StringVar(&o.valueSize, "value-size", "100", "`BYTES` of a value, or a range such as 100-4000")
	fs.StringVar(&o.mix, "mix", "mixed", "write, read, mixed (half and half), or the percentage of reads")
	fs.Float64Var(&o.rate, "rate", 0, "requests per second at set times; 0: as fast as answers come")
	fs.BoolVar(&o.pipeline, "pipeline", false, "send requests on streams, many in a message")
	return func(ctx context.Context, in *invocation) error {
		if err := o.check(); err != nil {
			return err
		}
		b, err := newBencher(in, o)
		if err != nil {
			return err
		}
		defer b.close()
		if o.readPercent > 0 {
			if err := b.prepare(ctx); err != nil {
				return fmt.Errorf("write the keys to read: %w", err)
			}
		}
		report := b.measure(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := report.print(in); err != nil {
			return err
		}
		if failed := report.failed(); failed > 0 {
			return fmt.Errorf("%d requests failed", failed)
		}
		return nil
	}
}

func (o *benchOptions) check() error {
	for _, f := range []struct {
		name      string
		n, lo, hi int
	}{
		{"-workers", o.workers, 1, 1000}, // each holds two histograms
		{"-connections", o.connections, 1, 1000},
		{"-keys", o.keys, 1, 100_000_000},
	} {
		if f.n < f.lo || f.n > f.hi {
			return wrongUsage("%s must be between %d and %d", f.name, f.lo, f.hi)
		}
	}
	if o.duration <= 0 || o.rate < 0 || o.count < 0 {
		return wrongUsage("-duration must be above 0, and -rate and -count not below it")
	}
	if o.interval != 0 && o.interval < minInterval {
		return wrongUsage("-interval must be 0, or at least %v", minInterval)
	}
	if o.distribution != "uniform" && o.distribution != "zipfian" {
		return wrongUsage("-distribution must be uniform or zipfian, not %q", o.distribution)
	}
	var err error
	if o.sizes, err = parseSizes(o.valueSize); err != nil {
		return err
	}
	switch o.mix {
	case "write":
		o.readPercent = 0
	case "read":
		o.readPercent = 100
	case "mixed":
		o.readPercent = 50
	default:
		n, err := strconv.Atoi(o.mix)
		if err != nil || n < 0 || n > 100 {
			return wrongUsage("-mix must be write, read, mixed or a percentage of reads from 0 to 100, not %q", o.mix)
		}
		o.readPercent = n
	}
	return nil
}

// minInterval bounds how often a measurement reports.
const minInterval = 10 * time.Millisecond

// bencher sends requests and measures them.
type bencher struct {
	benchOptions
	in        *invocation
	conns     []*grpc.ClientConn
	clients   []pb.CoordinatorServiceClient
	pipelined *client.Client // nil without -pipeline
	value     []byte         // the longest; others are its beginnings
	chooser   keys
}

func newBencher(in *invocation, o benchOptions) (*bencher, error) {
	b := &bencher{benchOptions: o, in: in, value: make([]byte, o.sizes.most), chooser: uniformKeys(o.keys)}
	if o.distribution == "zipfian" {
		b.chooser = newZipfKeys(o.keys)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range b.value {
		b.value[i] = byte(random.Uint32())
	}
	for range o.connections {
		conn, err := in.dial()
		if err != nil {
			b.close()
			return nil, err
		}
		b.conns = append(b.conns, conn)
		b.clients = append(b.clients, pb.NewCoordinatorServiceClient(conn))
	}
	if o.pipeline {
		pipelined, err := in.pipeline(b.conns...)
		if err != nil {
			b.close()
			return nil, err
		}
		b.pipelined = pipelined
	}
	return b, nil
}

func (b *bencher) close() {
	if b.pipelined != nil {
		_ = b.pipelined.Close() // the connections are not its own
	}
	for _, conn := range b.conns {
		_ = conn.Close() // it says only whether it was closed before
	}
}

func (b *bencher) write(ctx context.Context, unary pb.CoordinatorServiceClient, key string, value []byte) error {
	if b.pipelined != nil {
		return b.pipelined.Put(ctx, key, value)
	}
	ctx, cancel := context.WithTimeout(ctx, b.in.timeout)
	defer cancel()
	_, err := unary.WriteKeyValue(ctx, &pb.WriteKeyValueRequest{
		TenantId: b.in.tenant, Key: key, Value: value, Consistency: b.in.consistency,
	})
	return err
}

func (b *bencher) read(ctx context.Context, unary pb.CoordinatorServiceClient, key string) error {
	if b.pipelined != nil {
		_, err := b.pipelined.Get(ctx, key)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.in.timeout)
	defer cancel()
	_, err := unary.ReadKeyValue(ctx, &pb.ReadKeyValueRequest{TenantId: b.in.tenant, Key: key, Consistency: b.in.consistency})
	return err
}

func benchKey(i int) string { return "bench-" + strconv.Itoa(i) }

// prepare writes every key once.
func (b *bencher) prepare(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for w := range b.workers {
		unary := b.clients[w%len(b.clients)]
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= b.keys {
					return
				}
				err := b.in.retry(ctx, func(ctx context.Context) error { return b.write(ctx, unary, benchKey(i), b.value) })
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// measured is what one worker, or all together, saw of one operation.
type measured struct {
	latency *hdrhistogram.Histogram // microseconds, of requests that succeeded
	errors  map[string]int64        // by reason
}

// maxLatency bounds what the histograms tell apart.
const maxLatency = time.Minute

func newMeasured() measured {
	return measured{hdrhistogram.New(1, maxLatency.Microseconds(), 3), map[string]int64{}}
}

func (m *measured) add(err error, took time.Duration) {
	if err != nil {
		s := status.Convert(err)
		reason, _ := details(s)
		m.errors[cmp.Or(reason, codeName(s.Code()))]++
		return
	}
	// Clamped to the histogram's range, it cannot fail.
	_ = m.latency.RecordValue(min(max(took.Microseconds(), 1), maxLatency.Microseconds()))
}

func (m *measured) merge(other measured) {
	m.latency.Merge(other.latency)
	for reason, n := range other.errors {
		m.errors[reason] += n
	}
}

func (b *bencher) measure(ctx context.Context) *benchReport {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	end := start.Add(b.duration)
	if b.count > 0 {
		end = start.Add(longest)
	}
	report := &benchReport{options: b.benchOptions, writes: newMeasured(), reads: newMeasured()}
	series := newSeries(b.interval, b.workers)
	stopSeries := series.start(start, b.in)
	var next atomic.Int64 // requests begun, where they are counted
	var merging sync.Mutex
	var workers sync.WaitGroup
	for w := range b.workers {
		workers.Go(func() {
			unary := b.clients[w%len(b.clients)]
			random := rand.New(rand.NewPCG(uint64(w), 7))
			writes, reads := newMeasured(), newMeasured()
			for ctx.Err() == nil {
				begin := time.Now()
				if b.rate > 0 || b.count > 0 {
					n := next.Add(1) - 1
					if b.count > 0 && n >= b.count {
						break
					}
					if b.rate > 0 {
						begin = start.Add(time.Duration(float64(n) / b.rate * float64(time.Second)))
					}
				}
				if !begin.Before(end) || !waitUntil(ctx, begin) {
					break
				}
				key := benchKey(b.chooser.next(random))
				to, err := &writes, error(nil)
				if random.IntN(100) < b.readPercent {
					to = &reads
					err = b.read(ctx, unary, key)
				} else {
					err = b.write(ctx, unary, key, b.value[:b.sizes.pick(random)])
				}
				took := time.Since(begin)
				to.add(err, took)
				series.add(w, err, took)
			}
			merging.Lock()
			defer merging.Unlock()
			report.writes.merge(writes)
			report.reads.merge(reads)
		})
	}
	workers.Wait()
	report.took = time.Since(start)
	report.series = stopSeries()
	return report
}

// longest is how long a measurement of so many requests may take.
const longest = 1000 * time.Hour

// waitUntil sleeps until t, and tells whether ctx let it.
func waitUntil(ctx context.Context, t time.Time) bool {
	pause := time.Until(t)
	if pause <= 0 {
		return true
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// benchReport is the outcome of a measurement.
type benchReport struct {
	options       benchOptions
	took          time.Duration
	writes, reads measured
	series        []seriesLine
}

func (r *benchReport) failed() (n int64) {
	for _, m := range []measured{r.writes, r.reads} {
		for _, count := range m.errors {
			n += count
		}
	}
	return n
}

// benchLine is the report of one operation, as -json prints it.
type benchLine struct {
	Operation    string           `json:"operation"`
	Count        int64            `json:"count"`
	OpsPerSecond float64          `json:"ops_per_second"`
	MeanMicros   float64          `json:"mean_us"`
	P50Micros    int64            `json:"p50_us"`
	P90Micros    int64            `json:"p90_us"`
	P95Micros    int64            `json:"p95_us"`
	P99Micros    int64            `json:"p99_us"`
	P999Micros   int64            `json:"p99_9_us"`
	MaxMicros    int64            `json:"max_us"`
	Errors       map[string]int64 `json:"errors,omitempty"`
}

func (r *benchReport) line(operation string, m measured) benchLine {
	h := m.latency
	return benchLine{
		Operation: operation, Count: h.TotalCount(), OpsPerSecond: float64(h.TotalCount()) / r.took.Seconds(),
		MeanMicros: h.Mean(), P50Micros: h.ValueAtQuantile(50), P90Micros: h.ValueAtQuantile(90), P95Micros: h.ValueAtQuantile(95),
		P99Micros: h.ValueAtQuantile(99), P999Micros: h.ValueAtQuantile(99.9), MaxMicros: h.Max(), Errors: m.errors,
	}
}

func (r *benchReport) print(in *invocation) error {
	var operations []benchLine
	if r.options.readPercent < 100 {
		operations = append(operations, r.line("write", r.writes))
	}
	if r.options.readPercent > 0 {
		operations = append(operations, r.line("read", r.reads))
	}
	if in.json {
		out, err := json.MarshalIndent(struct {
			Seconds      float64      `json:"seconds"`
			Workers      int          `json:"workers"`
			Connections  int          `json:"connections"`
			Keys         int          `json:"keys"`
			Distribution string       `json:"distribution"`
			ValueSize    int          `json:"value_size"` // the greatest
			ValueSizeMin int          `json:"value_size_min"`
			Rate         float64      `json:"rate"`
			Pipeline     bool         `json:"pipeline"`
			Operations   []benchLine  `json:"operations"`
			Series       []seriesLine `json:"series,omitempty"`
		}{
			r.took.Seconds(), r.options.workers, r.options.connections, r.options.keys, r.options.distribution,
			r.options.sizes.most, r.options.sizes.least, r.options.rate, r.options.pipeline, operations, r.series,
		}, "", "  ")
		if err != nil {
			return fmt.Errorf("print the report as JSON: %w", err)
		}
		_, err = fmt.Fprintf(in.Stdout, "%s\n", out)
		return err
	}
	return r.text(in.Stdout, operations)
}

func (r *benchReport) text(w io.Writer, operations []benchLine) error {
	micros := func(n int64) string { return (time.Duration(n) * time.Microsecond).String() }
	rows := [][]string{{"OPERATION", "COUNT", "OPS/S", "MEAN", "P50", "P90", "P95", "P99", "P99.9", "MAX", "ERRORS"}}
	var failures []string
	for _, o := range operations {
		failed := int64(0)
		for _, reason := range slices.Sorted(maps.Keys(o.Errors)) {
			failed += o.Errors[reason]
			failures = append(failures, fmt.Sprintf("%s failed with %s: %d\n", o.Operation, reason, o.Errors[reason]))
		}
		rows = append(rows, []string{
			o.Operation, strconv.FormatInt(o.Count, 10), strconv.FormatFloat(o.OpsPerSecond, 'f', 0, 64),
			micros(int64(o.MeanMicros)), micros(o.P50Micros), micros(o.P90Micros), micros(o.P95Micros),
			micros(o.P99Micros), micros(o.P999Micros), micros(o.MaxMicros), strconv.FormatInt(failed, 10),
		})
	}
	err := table(w, rows)
	for _, f := range failures {
		_, printed := io.WriteString(w, f)
		err = errors.Join(err, printed)
	}
	return err
}
