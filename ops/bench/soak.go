package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// soakLine is one interval of a soak, a line of its results file.
type soakLine struct {
	Run       int64           `json:"run"` // when its processes were started, Unix seconds
	Minute    int             `json:"minute"`
	Rate      float64         `json:"ops_per_second"`
	P50       int64           `json:"p50_us"`
	P99       int64           `json:"p99_us"`
	Errors    string          `json:"errors,omitempty"`
	Processes []soakedProcess `json:"processes"`
}

type soakedProcess struct {
	Name       string  `json:"name"`
	RSS        int64   `json:"rss_bytes"`
	Heap       float64 `json:"heap_inuse_bytes"`
	Goroutines float64 `json:"goroutines"`
	Files      int     `json:"open_files"`
}

// soakInterval is the time between two lines.
const soakInterval = time.Minute

// soak runs a 50/50 mix at half of peak throughput until the file has as many
// lines as total has minutes. Begun again, it goes on where the file ends, with
// fresh processes.
func (b *bench) soak(ctx context.Context, total time.Duration, file string) error {
	lines, err := readSoak(file)
	if err != nil {
		return err
	}
	want := int(total / soakInterval)
	if len(lines) < want {
		b.report.progress("soak: %d of %d minutes are done, %d to go; results in %s", len(lines), want, want-len(lines), file)
		s, err := b.system(ctx, systemFast)
		if err != nil {
			return err
		}
		peak, err := b.peak(ctx, s, opMix)
		if err != nil {
			return err
		}
		out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("soak: %w", err)
		}
		defer out.Close()
		run := time.Now().Unix()
		for len(lines) < want {
			got, err := b.load.run(ctx, s, s.unary, drive{do: opMix, rate: peak.rate() / 2, length: soakInterval})
			if err != nil {
				return fmt.Errorf("soak: %w", err)
			}
			line := soakLine{Run: run, Minute: len(lines), Rate: got.rate(), P50: got.quantile(50).Microseconds(),
				P99: got.quantile(99).Microseconds(), Errors: got.failures()}
			for _, p := range s.processes() {
				now, err := p.soaked(ctx)
				if err != nil {
					return fmt.Errorf("soak: %w", err)
				}
				line.Processes = append(line.Processes, now)
			}
			text, err := json.Marshal(line)
			if err != nil {
				return fmt.Errorf("soak: %w", err)
			}
			if _, err := out.Write(append(text, '\n')); err != nil {
				return fmt.Errorf("soak: %w", err)
			}
			lines = append(lines, line)
			b.report.progress("soak: minute %d: %.0f ops/s, p99 %v", len(lines), line.Rate, got.quantile(99))
		}
	}
	b.judgeSoak(lines)
	return nil
}

func readSoak(file string) ([]soakLine, error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("soak: %w", err)
	}
	var lines []soakLine
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		var line soakLine
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("soak: line %d of %s: %w", len(lines)+1, file, err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func (p *process) soaked(ctx context.Context) (soakedProcess, error) {
	now := soakedProcess{Name: p.name}
	pid := p.cmd.Process.Pid
	var err error
	if now.RSS, _, err = memory(pid); err != nil {
		return now, err
	}
	if now.Files, err = openFiles(pid); err != nil {
		return now, err
	}
	if now.Goroutines, err = p.gauge(ctx, "go_goroutines"); err != nil {
		return now, err
	}
	now.Heap, err = p.gauge(ctx, "go_memstats_heap_inuse_bytes")
	return now, err
}

// soakSettles is how many minutes of the longest run are no evidence: caches
// and tables fill in them.
const soakSettles = 5

// judgeSoak compares the first with the last third of the longest run.
func (b *bench) judgeSoak(lines []soakLine) {
	runs := map[int64][]soakLine{}
	var longest []soakLine
	for _, l := range lines {
		runs[l.Run] = append(runs[l.Run], l)
		if len(runs[l.Run]) > len(longest) {
			longest = runs[l.Run]
		}
	}
	if len(longest) < soakSettles+3 {
		b.report.note("soak: %d minutes in one run are too few to judge", len(longest))
		return
	}
	longest = longest[soakSettles:]
	third := len(longest) / 3
	first, last := longest[:third], longest[len(longest)-third:]
	for i, p := range longest[0].Processes {
		for _, q := range []struct {
			what string
			of   func(soakedProcess) float64
		}{
			{"memory", func(p soakedProcess) float64 { return float64(p.RSS) }},
			{"goroutines", func(p soakedProcess) float64 { return p.Goroutines }},
			{"open files", func(p soakedProcess) float64 { return float64(p.Files) }},
		} {
			median := func(lines []soakLine) float64 {
				var all []float64
				for _, l := range lines {
					all = append(all, q.of(l.Processes[i]))
				}
				slices.Sort(all)
				return all[len(all)/2]
			}
			b.report.judge(atMost(1.1, 0).judge(fmt.Sprintf("soak, %s: %s, last third over first", p.Name, q.what), median(last)/median(first)))
		}
	}
	b.report.note("soak: %d minutes in one run, the first %d left out", len(longest)+soakSettles, soakSettles)
}
