package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report gathers what was measured.
type report struct {
	Began       time.Time `json:"began"`
	Machine     string    `json:"machine"`
	Build       string    `json:"build"`
	Workers     int       `json:"workers"`
	Connections int       `json:"connections"`
	Keys        int       `json:"keys"`
	ValueBytes  int       `json:"value_bytes"`
	Seconds     float64   `json:"seconds"`
	Rounds      int       `json:"rounds"`
	Rows        []row     `json:"rows,omitempty"`
	Tuning      []tuned   `json:"tuning,omitempty"`
	Verdicts    []verdict `json:"verdicts,omitempty"`
	Notes       []string  `json:"notes,omitempty"`

	out io.Writer
}

func (r *report) add(line row) {
	r.Rows = append(r.Rows, line)
	if line.Skipped != "" {
		r.progress("%s/%s/%s: skipped: %s", line.System, line.Transport, line.Operation, line.Skipped)
		return
	}
	r.progress("%s/%s/%s: %.0f ops/s, %.2f of the echo's", line.System, line.Transport, line.Operation, line.OpsPerSecond, line.Throughput)
}

func (r *report) judge(v verdict) { r.Verdicts = append(r.Verdicts, v) }

func (r *report) note(format string, a ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, a...))
	r.progress(format, a...)
}

// progress shows that the measurement goes on.
func (r *report) progress(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...)
}

func (r *report) table(rows [][]string) error {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	for _, cells := range rows {
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// print writes the report as text.
func (r *report) print() error {
	fmt.Fprintf(r.out, "%s; %s\n%d closed-loop workers, %d connections, %d keys, %d-byte values, RF %d, quorum; %v a measurement, %d round(s)\n\n",
		r.Machine, r.Build, r.Workers, r.Connections, r.Keys, r.ValueBytes, replicationFactor, time.Duration(r.Seconds*float64(time.Second)), r.Rounds)
	if len(r.Rows) > 0 {
		if err := r.printRows(); err != nil {
			return err
		}
	}
	if len(r.Tuning) > 0 {
		if err := r.printTuning(); err != nil {
			return err
		}
	}
	if len(r.Verdicts) > 0 {
		rows := [][]string{{"BAR", "FIGURE", "PASS", "AIM", ""}}
		for i := range r.Verdicts {
			rows = append(rows, r.Verdicts[i].cells())
		}
		if err := r.table(rows); err != nil {
			return err
		}
		fmt.Fprintln(r.out)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(r.out, n)
	}
	return nil
}

func (r *report) printRows() error {
	head := []string{"SYSTEM", "CALLS", "OPS", "OPS/S", "P50", "P95", "P99", "P99.9", "/ECHO",
		"COORD CPU", "/ECHO", "REPLICA CPU", "/ECHO", "STORAGE CPU", "LOAD CPU", "REPLICA CALLS", "ECHO OPS/S", "ECHO CPU", "ERRORS"}
	rows := [][]string{head}
	number := func(f float64, digits int) string { return strconv.FormatFloat(f, 'f', digits, 64) }
	micros := func(n int64) string { return (time.Duration(n) * time.Microsecond).String() }
	for _, l := range r.Rows {
		cells := []string{l.System, l.Transport, l.Operation}
		if l.figures == nil {
			for len(cells) < len(head)-1 {
				cells = append(cells, "-")
			}
			rows = append(rows, append(cells, "skipped: "+l.Skipped))
			continue
		}
		replica := []string{"-", "-", "-"}
		if l.StorageTotalCPU > 0 {
			replica[2] = number(l.StorageTotalCPU, 1)
			if l.StorageCPU > 0 {
				replica[0], replica[1] = number(l.StorageCPU, 1), number(l.StorageRatio, 2)
			}
		}
		cells = append(cells, number(l.OpsPerSecond, 0), micros(l.P50), micros(l.P95), micros(l.P99), micros(l.P999), number(l.Throughput, 3),
			number(l.CoordinatorCPU, 1), number(l.CoordinatorRatio, 2))
		cells = append(cells, replica...)
		rows = append(rows, append(cells, number(l.LoadCPU, 1), number(l.CallsPerOp, 2), number(l.EchoOpsPerSecond, 0), number(l.EchoCPU, 1), l.Errors))
	}
	if err := r.table(rows); err != nil {
		return err
	}
	fmt.Fprint(r.out, `
CPU is microseconds of processor time an operation, user and system. REPLICA CPU
is that of one storage node for its part in one operation: a write takes part
on every replica, a read on those that were asked. /ECHO is over the unary
gRPC echo, measured right before and after with the same messages: ops/s over
its ops/s, CPU over that of the echo's server. In dev, COORD CPU is all of it.

`)
	return nil
}

// save writes the report as JSON.
func (r *report) save(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("save the report: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("save the report: %w", err)
	}
	return nil
}

// machine describes where it runs.
func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range bytes.Lines(text) {
			if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // left out where it is not told
	return strings.TrimSpace(fmt.Sprintf("%d x %s, %s %s", runtime.NumCPU(), model, runtime.GOOS, bytes.TrimSpace(kernel)))
}

// build describes the program under test.
func buildOf(ctx context.Context, binary string) string {
	version, err := runOutput(ctx, binary, "version")
	if err != nil {
		return runtime.Version()
	}
	return version + ", " + runtime.Version()
}
