package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// item is one row of the comparison, with the bars that its figures must pass.
type item struct {
	system    string
	pipelined bool
	do        operation

	throughput  *bar // over the echo's
	coordinator *bar // processor time of an operation over the echo server's
	storage     *bar // of one replica's part in an operation, likewise
}

func (c *item) name() string {
	return c.system + "/" + c.transport() + "/" + string(c.do)
}

func (c *item) transport() string {
	if c.pipelined {
		return "pipelined"
	}
	return "unary"
}

// items is the comparison: what must be shown of how fast the product is.
var items = []item{
	{system: systemDev, do: opWrite},
	{system: systemDev, do: opRead},
	{system: systemDev, do: opMix},
	{system: systemDev, pipelined: true, do: opWrite},
	{system: systemDev, pipelined: true, do: opRead},
	{system: systemDev, pipelined: true, do: opMix},
	{system: systemFast, do: opWrite, throughput: atLeast(0.30, 0.45), coordinator: atMost(2.4, 1.8), storage: atMost(0.9, 0.5)},
	{system: systemFast, do: opRead, throughput: atLeast(0.40, 0.55), coordinator: atMost(2.2, 1.7), storage: atMost(0.4, 0.25)},
	{system: systemFast, do: opMix},
	{system: systemFast, do: opKeyed},
	{system: systemFast, pipelined: true, do: opWrite, throughput: atLeast(0.5, 1.0)},
	{system: systemFast, pipelined: true, do: opRead, throughput: atLeast(0.9, 1.5)},
	{system: systemFast, pipelined: true, do: opMix},
	{system: systemSafe, do: opWrite, throughput: atLeast(0.15, 0.25)},
	{system: systemSafe, do: opRead},
	{system: systemSafe, do: opMix},
	{system: systemSafe, do: opKeyed},
	{system: systemSafe, pipelined: true, do: opWrite},
	{system: systemSafe, pipelined: true, do: opRead},
	{system: systemSafe, pipelined: true, do: opMix},
}

// A case and the echo take turns, which begin and end with the echo, because
// the machine drifts. A turn begins with warmUp, which is not measured.
const (
	warmUp    = 500 * time.Millisecond
	caseTurns = 2
	echoTurns = caseTurns + 1
)

// took is how long a case takes.
func (b *bench) took() time.Duration {
	return time.Duration(b.rounds) * (2*b.length + (caseTurns+echoTurns)*warmUp)
}

// row is a case that was measured.
type row struct {
	System    string `json:"system"`
	Transport string `json:"transport"`
	Operation string `json:"operation"`
	Skipped   string `json:"skipped,omitempty"`
	*figures
}

// figures are the results of a case. Processor time is in microseconds.
type figures struct {
	OpsPerSecond     float64 `json:"ops_per_second"`
	P50              int64   `json:"p50_us"`
	P95              int64   `json:"p95_us"`
	P99              int64   `json:"p99_us"`
	P999             int64   `json:"p99_9_us"`
	CoordinatorCPU   float64 `json:"coordinator_cpu_us_per_op"`
	StorageCPU       float64 `json:"storage_cpu_us_per_replica_op"` // of each replica that takes part
	StorageTotalCPU  float64 `json:"storage_cpu_us_per_op"`         // of all storage nodes
	LoadCPU          float64 `json:"load_generator_cpu_us_per_op"`
	CallsPerOp       float64 `json:"replica_calls_per_op"`
	ReplicasPerOp    float64 `json:"replicas_per_op"`
	EchoOpsPerSecond float64 `json:"echo_ops_per_second"`
	EchoCPU          float64 `json:"echo_cpu_us_per_op"`
	Throughput       float64 `json:"throughput_over_echo"`
	CoordinatorRatio float64 `json:"coordinator_cpu_over_echo"`
	StorageRatio     float64 `json:"storage_cpu_over_echo"`
	Errors           string  `json:"errors,omitempty"`
}

// compare measures a case and the echo around it.
func (b *bench) compare(ctx context.Context, c *item) error {
	r := row{System: c.system, Transport: c.transport(), Operation: string(c.do)}
	s, err := b.system(ctx, c.system)
	if err != nil {
		return err
	}
	way := transport(s.unary)
	if c.pipelined {
		pipelined, err := dialPipeline(s, b.load.connections)
		if errors.Is(err, errNoPipeline) {
			r.Skipped = err.Error()
			b.report.add(r)
			return nil
		}
		if err != nil {
			return err
		}
		defer pipelined.close()
		way = pipelined
	}
	echo, err := b.system(ctx, systemEcho)
	if err != nil {
		return err
	}
	echoed, got := newSample(), newSample()
	asked := c.do
	if asked == opKeyed {
		asked = opWrite
	}
	for range b.rounds {
		for turn := range caseTurns + echoTurns {
			run, into := drive{do: asked, warmUp: warmUp, length: b.length / echoTurns}, echoed
			on, by := echo, transport(echo.unary)
			if turn%2 == 1 {
				run.do, run.length, into = c.do, b.length/caseTurns, got
				on, by = s, way
				if turn == 1 {
					b.profile(ctx, s, c.name(), warmUp+run.length)
				}
			}
			taken, err := b.load.run(ctx, on, by, run)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name(), err)
			}
			into.add(taken)
		}
	}
	r.figures = figuresOf(s, c.do, got, echo, echoed)
	b.report.add(r)
	judge := func(b *bar, what string, figure float64, report *report) {
		if b != nil {
			report.judge(b.judge(c.name()+": "+what, figure))
		}
	}
	judge(c.throughput, "throughput over the echo's", r.Throughput, b.report)
	judge(c.coordinator, "coordinator CPU over the echo server's", r.CoordinatorRatio, b.report)
	judge(c.storage, "CPU of one replica over the echo server's", r.StorageRatio, b.report)
	return nil
}

func figuresOf(s *system, do operation, got *sample, echo *system, echoed *sample) *figures {
	f := &figures{
		OpsPerSecond: got.rate(),
		P50:          got.quantile(50).Microseconds(), P95: got.quantile(95).Microseconds(),
		P99: got.quantile(99).Microseconds(), P999: got.quantile(99.9).Microseconds(),
		CoordinatorCPU:   got.perOp(got.cpu[s.server]),
		LoadCPU:          got.perOp(got.own),
		EchoOpsPerSecond: echoed.rate(),
		EchoCPU:          echoed.perOp(echoed.cpu[echo.server]),
		Errors:           got.failures(),
	}
	var storage time.Duration
	for _, p := range s.storage {
		storage += got.cpu[p]
	}
	f.StorageTotalCPU = got.perOp(storage)
	if n := got.calls.requests; n > 0 {
		f.CallsPerOp = (got.calls.head + got.calls.read + got.calls.apply) / n
		// Every replica of a write gets the value, some are asked for their
		// clocks before; those of a read are asked once.
		switch do {
		case opRead:
			f.ReplicasPerOp = (got.calls.head + got.calls.read) / n
		case opWrite, opKeyed:
			f.ReplicasPerOp = got.calls.apply / n
		}
	}
	if f.ReplicasPerOp > 0 {
		f.StorageCPU = f.StorageTotalCPU / f.ReplicasPerOp
	}
	f.Throughput = f.OpsPerSecond / f.EchoOpsPerSecond
	if f.EchoCPU > 0 {
		f.CoordinatorRatio, f.StorageRatio = f.CoordinatorCPU/f.EchoCPU, f.StorageCPU/f.EchoCPU
	}
	return f
}
