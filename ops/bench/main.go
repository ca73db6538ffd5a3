// Bench measures the product against a bare gRPC echo on the same machine, in
// one run, and prints what each operation costs each process. Figures of one
// machine say little; the ratios hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pairdb/coordinator/ops/tuning"
)

func main() {
	if len(os.Args) == 3 && (os.Args[1] == echoCommand || os.Args[1] == memoryCommand) {
		n, err := strconv.Atoi(os.Args[2])
		switch {
		case err != nil:
		case os.Args[1] == echoCommand:
			err = serveUntilKilled(newEcho(n))
		default:
			err = serveMemory(n)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// generatorMemory is more than a measurement of 10 s at the peak takes.
const generatorMemory = 3 << 30

// bench is one run of the comparison.
type bench struct {
	length   time.Duration // of one measurement
	rounds   int
	profiles string // directory; empty: none are taken
	load     *load
	launcher *launcher
	systems  map[string]*system
	report   *report
}

func run(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	var (
		seconds     = fs.Float64("seconds", 5, "length of one measurement")
		rounds      = fs.Int("rounds", 1, "how often each case is measured")
		pattern     = fs.String("run", "", "only cases whose name matches `REGEXP` (-list names them); tune/ needs naming")
		list        = fs.Bool("list", false, "print the names of the cases and end")
		jsonFile    = fs.String("json", "", "write the report to `FILE` as JSON, too")
		binary      = fs.String("binary", "", "the coordinator's program; default: it is built")
		against     = fs.String("against", "", "instead of the cases, compare with another `PROGRAM`, in turns, with three storage processes")
		dir         = fs.String("dir", "", "where data is kept meanwhile, on a real disk; default: the system's temporary directory")
		workers     = fs.Int("workers", 64, "requests under way at once")
		connections = fs.Int("connections", 4, "connections that they share")
		keys        = fs.Int("keys", 10_000, "different keys")
		value       = fs.Int("value", 100, "bytes of a value")
		profiles    = fs.String("profile", "", "write profiles of the processes to `DIR`; the figures suffer")
		soak        = fs.Duration("soak", 0, "instead of the cases, load at half of peak for so long")
		soakFile    = fs.String("soak-results", "soak-results.jsonl", "where a soak is noted each minute, and goes on from")
	)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || *seconds <= 0 || *rounds < 1 || *workers < 1 || *connections < 1 || *keys < 1 || *value < 1 {
		return errors.New("bench: no arguments are taken, and every number must be positive")
	}
	selected, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("bench: -run: %w", err)
	}
	// What the load generator costs is part of every figure, and a request that
	// waits for its collector is no slower one of the system's: it collects
	// between measurements (load.run), within them only beyond this limit.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(generatorMemory)
	defer tuning.FollowLoad(tuning.Signs{})()

	b := &bench{
		length: time.Duration(*seconds * float64(time.Second)), rounds: *rounds, profiles: *profiles,
		load: newLoad(*workers, *connections, *keys, *value), systems: map[string]*system{},
		report: &report{Began: time.Now().UTC().Truncate(time.Second), Machine: machine(), Workers: *workers, Connections: *connections,
			Keys: *keys, ValueBytes: *value, Seconds: *seconds, Rounds: *rounds, out: os.Stdout},
	}
	todo := b.plan(func(name string) bool {
		return selected.MatchString(name) && (*pattern != "" || !strings.HasPrefix(name, "tune/"))
	})
	if *against != "" {
		other, err := filepath.Abs(*against)
		if err != nil {
			return fmt.Errorf("bench: -against: %w", err)
		}
		todo = []step{{"against", b.tuneTook(), func(ctx context.Context) error {
			return b.tune(ctx, setting{name: "against", against: other})
		}}}
	}
	if *soak > 0 {
		todo = []step{{"soak", *soak + 2*b.length, func(ctx context.Context) error { return b.soak(ctx, *soak, *soakFile) }}}
	}
	if *list {
		for _, s := range b.plan(func(string) bool { return true }) {
			fmt.Println(s.name)
		}
		return nil
	}
	if len(todo) == 0 {
		return fmt.Errorf("bench: no case matches %q", *pattern)
	}
	if *profiles != "" {
		if err := os.MkdirAll(*profiles, 0o755); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}

	work, err := os.MkdirTemp(*dir, "pairdb-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(work)
	if b.launcher, err = newLauncher(ctx, work, *binary, b.load); err != nil {
		return err
	}
	defer b.closeAll()
	b.report.Build = buildOf(ctx, b.launcher.binary)
	expected := 10 * time.Second // to start what is measured
	for _, s := range todo {
		expected += s.took
	}
	b.report.progress("%d cases, about %v", len(todo), expected.Round(time.Second))
	for _, s := range todo {
		if err = s.run(ctx); err != nil {
			err = fmt.Errorf("bench: %w", err)
			break // what was measured before is shown all the same
		}
	}
	b.report.note("took %v", time.Since(b.report.Began).Round(time.Second))
	err = errors.Join(err, b.report.print())
	if *jsonFile != "" {
		err = errors.Join(err, b.report.save(*jsonFile))
	}
	return err
}

// step is one thing to measure.
type step struct {
	name string
	took time.Duration // about
	run  func(context.Context) error
}

// plan is the selected steps in order.
func (b *bench) plan(selected func(name string) bool) []step {
	var all []step
	for i := range items {
		c := &items[i]
		all = append(all, step{c.name(), b.took(), func(ctx context.Context) error { return b.compare(ctx, c) }})
	}
	for _, s := range settings {
		all = append(all, step{s.caseName(), b.tuneTook(), func(ctx context.Context) error { return b.tune(ctx, s) }})
	}
	for _, c := range checks {
		all = append(all, step{c.name, c.took(b), func(ctx context.Context) error { return c.run(b, ctx) }})
	}
	var chosen []step
	for _, s := range all {
		if selected(s.name) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// system starts a system of the comparison, or finds it running.
func (b *bench) system(ctx context.Context, name string) (*system, error) {
	if s := b.systems[name]; s != nil {
		return s, nil
	}
	s, err := b.launcher.launch(ctx, layouts[name])
	if err != nil {
		return nil, err
	}
	b.systems[name] = s
	return s, nil
}

func (b *bench) drop(name string) {
	if s := b.systems[name]; s != nil {
		s.close()
		delete(b.systems, name)
	}
}

func (b *bench) closeAll() {
	for name := range b.systems {
		b.drop(name)
	}
}

func newLauncher(ctx context.Context, dir, binary string, load *load) (*launcher, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("bench: find this program: %w", err)
	}
	if binary == "" {
		binary = filepath.Join(dir, "coordinator")
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/pairdb/coordinator")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("bench: build the coordinator: %w\n%s", err, out)
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return &launcher{dir: dir, self: self, binary: binary, load: load}, nil
}

// runOutput runs a program and returns its first line.
func runOutput(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), err
}
