// Fuzz runs every fuzz target of the module for a length of time each, in
// chunks. With a file of results it goes on where it was stopped.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// session is one run of the tool.
type session struct {
	length, chunk time.Duration // of each target, and of what is run and noted at a time
	workers       int           // processes that fuzz a target
	cache         string        // directory of inputs that were found to be interesting
	results       *results
	out           io.Writer
}

// retries is how often a chunk may end early for a reason that is no finding.
const retries = 3

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	fs := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	length := fs.Duration("for", 30*time.Second, "how long each target is to run without a finding")
	chunk := fs.Duration("chunk", time.Minute, "how long it runs at a time; each is a line of the results")
	file := fs.String("results", "", "file of results, which is added to; what it holds is not run again")
	match := fs.String("run", "", "regular expression of the targets to run, as package.Target; empty: all")
	atOnce := fs.Int("parallel", 1, "targets that run at once")
	workers := fs.Int("workers", 0, "processes that fuzz a target, each on one processor; 0: as many as there are processors")
	if err := fs.Parse(args); err != nil {
		return err
	}
	only, err := regexp.Compile(*match)
	switch {
	case err != nil:
		return fmt.Errorf("-run: %w", err)
	case *length <= 0 || *chunk <= 0 || *atOnce < 1 || *workers < 0:
		return errors.New("-for, -chunk and -parallel want more than 0, -workers no less")
	}
	packages := fs.Args()
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	s := &session{length: *length, chunk: min(*chunk, *length), workers: *workers, out: out}
	if s.results, err = openResults(*file); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.results.close()) }()
	dir, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.cache, err = goEnv(ctx, "GOCACHE"); err != nil {
		return err
	}
	targets, err := list(ctx, dir, packages, only)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("no fuzz target matches")
	}
	return s.all(ctx, targets, *atOnce)
}

// all runs the targets, and tells of every finding at the end.
func (s *session) all(ctx context.Context, targets []target, atOnce int) error {
	next := make(chan *target)
	var wait sync.WaitGroup
	var mu sync.Mutex
	var found []error
	for range atOnce {
		wait.Go(func() {
			for t := range next {
				if err := s.one(ctx, t); err != nil {
					mu.Lock()
					found = append(found, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range targets {
		next <- &targets[i]
	}
	close(next)
	wait.Wait()
	return errors.Join(found...)
}

// one runs a target for what is missing of its length.
func (s *session) one(ctx context.Context, t *target) error {
	for again := 0; ; {
		left := s.length - s.results.clean(t.name())
		if left <= 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: stopped: %w", t.name(), err)
		}
		binary, err := t.build()
		if err != nil {
			return fmt.Errorf("%s: %w", t.name(), err)
		}
		r := t.fuzz(ctx, binary, min(left, s.chunk), s.workers, s.cache)
		if ctx.Err() != nil {
			continue // what was cut off counts for nothing
		}
		fmt.Fprintln(s.out, r.line())
		if r.result != clean {
			fmt.Fprintln(s.out, r.output)
		}
		if err := s.results.add(r); err != nil {
			return err
		}
		switch {
		case r.result == clean:
			again = 0
		case r.result == finding || again == retries:
			return fmt.Errorf("%s: %s", t.name(), r.result)
		default:
			again++
		}
	}
}

// command runs a program of the toolchain and returns what it writes.
func command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	out, err := cmd.Output()
	if err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			err = fmt.Errorf("%w: %s", err, ended.Stderr)
		}
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func goEnv(ctx context.Context, name string) (string, error) { return command(ctx, "env", name) }
