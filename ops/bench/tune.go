package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// setting is an environment of the processes under test that is compared with
// none, or a program that is compared with another one.
type setting struct {
	name                 string
	coordinator, storage []string
	against              string // the other program; empty: the same one
}

var settings = []setting{
	{name: "coordinator-gogc-200", coordinator: []string{"GOGC=200"}},
	{name: "coordinator-gogc-400", coordinator: []string{"GOGC=400"}},
	{name: "coordinator-gogc-800", coordinator: []string{"GOGC=800"}},
	{name: "coordinator-limit-512MiB", coordinator: []string{"GOGC=off", "GOMEMLIMIT=512MiB"}},
	{name: "storage-gogc-200", storage: []string{"GOGC=200"}},
	{name: "storage-gogc-400", storage: []string{"GOGC=400"}},
	{name: "storage-limit-1GiB", storage: []string{"GOGC=off", "GOMEMLIMIT=1GiB"}},
	{name: "both-gogc-400", coordinator: []string{"GOGC=400"}, storage: []string{"GOGC=400"}},
}

func (s setting) caseName() string {
	if s.against != "" {
		return s.name
	}
	return "tune/" + s.name
}

// A setting and none take tuneTurns turns each, which are short, so that what
// else the machine does falls on both.
const (
	tuneTurns  = 12
	tuneWarmUp = 200 * time.Millisecond
)

// tuned is what a setting made of an operation, as ratios to none.
type tuned struct {
	Setting        string  `json:"setting"`
	Operation      string  `json:"operation"`
	Throughput     float64 `json:"throughput"`
	CoordinatorCPU float64 `json:"coordinator_cpu"`
	StorageCPU     float64 `json:"storage_cpu"`
	TotalCPU       float64 `json:"total_cpu"` // of all processes under test
	P99            float64 `json:"p99"`
	// The most memory that was resident, in MiB, of the coordinator and of the
	// largest storage node, with the setting and without.
	CoordinatorMiB     int64 `json:"coordinator_mib"`
	CoordinatorBaseMiB int64 `json:"coordinator_base_mib"`
	StorageMiB         int64 `json:"storage_mib"`
	StorageBaseMiB     int64 `json:"storage_base_mib"`
}

// tune measures a setting, in turns with none. Both are started afresh, since a
// store that was written to for longer is slower.
func (b *bench) tune(ctx context.Context, want setting) error {
	set := layouts[systemFast]
	set.name, set.binary = "tune-base", want.against
	base, err := b.launcher.launch(ctx, set)
	if err != nil {
		return err
	}
	defer base.close()
	set.name, set.binary, set.coordinatorEnv, set.storageEnv = "tune", "", want.coordinator, want.storage
	s, err := b.launcher.launch(ctx, set)
	if err != nil {
		return err
	}
	defer s.close()
	for _, do := range []operation{opWrite, opRead} {
		with, without := newSample(), newSample()
		for turn := range 2 * tuneTurns {
			on, into := base, without
			if turn%4 == 1 || turn%4 == 2 { // none, setting, setting, none
				on, into = s, with
			}
			got, err := b.load.run(ctx, on, on.unary, drive{do: do, warmUp: tuneWarmUp, length: b.length / 4})
			if err != nil {
				return fmt.Errorf("%s: %w", want.caseName(), err)
			}
			into.add(got)
		}
		t := tuned{Setting: want.name, Operation: string(do), Throughput: with.rate() / without.rate(),
			P99: with.quantile(99).Seconds() / without.quantile(99).Seconds()}
		coordinator, storage := with.perOp(with.cpu[s.server]), with.perOp(s.storageTime(with))
		baseCoordinator, baseStorage := without.perOp(without.cpu[base.server]), without.perOp(base.storageTime(without))
		t.CoordinatorCPU, t.StorageCPU = coordinator/baseCoordinator, storage/baseStorage
		t.TotalCPU = (coordinator + storage) / (baseCoordinator + baseStorage)
		if t.CoordinatorMiB, t.StorageMiB, err = s.mostMemory(); err != nil {
			return err
		}
		if t.CoordinatorBaseMiB, t.StorageBaseMiB, err = base.mostMemory(); err != nil {
			return err
		}
		b.report.Tuning = append(b.report.Tuning, t)
		b.report.progress("%s: %s: throughput %.2f, CPU %.2f", want.caseName(), do, t.Throughput, t.TotalCPU)
	}
	return nil
}

func (b *bench) tuneTook() time.Duration { return 4*tuneTurns*(b.length/4+tuneWarmUp) + 2*time.Second }

func (s *system) storageTime(of *sample) (sum time.Duration) {
	for _, p := range s.storage {
		sum += of.cpu[p]
	}
	return sum
}

// mostMemory is the most that was resident, in MiB, of the coordinator and of
// the largest storage node.
func (s *system) mostMemory() (coordinator, storage int64, err error) {
	for _, p := range s.processes() {
		_, most, err := memory(p.cmd.Process.Pid)
		if err != nil {
			return 0, 0, err
		}
		if p == s.server {
			coordinator = most >> 20
		} else {
			storage = max(storage, most>>20)
		}
	}
	return coordinator, storage, nil
}

func (r *report) printTuning() error {
	rows := [][]string{{"SETTING", "OPS", "THROUGHPUT", "COORD CPU", "STORAGE CPU", "ALL CPU", "P99", "COORD MIB", "STORAGE MIB"}}
	for _, t := range r.Tuning {
		rows = append(rows, []string{t.Setting, t.Operation, fmt.Sprintf("%.3f", t.Throughput), fmt.Sprintf("%.3f", t.CoordinatorCPU),
			fmt.Sprintf("%.3f", t.StorageCPU), fmt.Sprintf("%.3f", t.TotalCPU), fmt.Sprintf("%.2f", t.P99),
			fmt.Sprintf("%d (%d)", t.CoordinatorMiB, t.CoordinatorBaseMiB), fmt.Sprintf("%d (%d)", t.StorageMiB, t.StorageBaseMiB)})
	}
	if err := r.table(rows); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "\n%s\n\n", strings.TrimSpace(`
Ratios to the same system with the runtime's defaults, or of another program,
in turns with it. Memory is the most that was resident, in brackets the other's.`))
	return nil
}
