package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// target is one fuzz target.
type target struct {
	path, dir string // of its package
	function  string
	// build makes the package's test binary for fuzzing when it is first called,
	// and returns its path.
	build func() (string, error)
}

// name is unique in a module.
func (t *target) name() string { return t.path + "." + t.function }

// declared are the fuzz targets of a test file.
func declared(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && fuzzName.MatchString(f.Name.Name) {
			names = append(names, f.Name.Name)
		}
	}
	return names, nil
}

var fuzzName = regexp.MustCompile(`^Fuzz(\P{Ll}|$)`)

// list finds the targets of packages. What runs them is built into dir.
func list(ctx context.Context, dir string, packages []string, only *regexp.Regexp) ([]target, error) {
	const each = `{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}}	{{$p.Dir}}	{{.}}
{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}}	{{$p.Dir}}	{{.}}
{{end}}`
	files, err := command(ctx, append([]string{"list", "-f", each, "--"}, packages...)...)
	if err != nil {
		return nil, err
	}
	var all []target
	builds := map[string]func() (string, error){}
	for line := range strings.Lines(files) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if len(fields) != 3 {
			continue
		}
		names, err := declared(filepath.Join(fields[1], fields[2]))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			t := target{path: fields[0], dir: fields[1], function: name}
			if !only.MatchString(t.name()) {
				continue
			}
			if builds[t.path] == nil {
				binary := filepath.Join(dir, strconv.Itoa(len(builds))+".test")
				builds[t.path] = sync.OnceValues(func() (string, error) {
					// Whatever target is named here: it is made ready for all.
					_, err := command(ctx, "test", "-c", "-fuzz=Fuzz", "-o", binary, t.path)
					return binary, err
				})
			}
			t.build = builds[t.path]
			all = append(all, t)
		}
	}
	return all, nil
}

// progress is what the testing package says while it fuzzes.
var progress = regexp.MustCompile(`fuzz: elapsed: [^,]+, execs: (\d+) .*, new interesting: (\d+) \(total: (\d+)\)`)

// fuzz runs a target for a time.
func (t *target) fuzz(ctx context.Context, binary string, d time.Duration, workers int, cache string) result {
	// By default what is new is made small for a minute, in which nothing else is run.
	args := []string{"-test.run=^$", "-test.fuzz=^" + t.function + "$", "-test.fuzztime=" + d.String(), "-test.fuzzminimizetime=1s",
		"-test.fuzzcachedir=" + filepath.Join(cache, "fuzz", t.path)}
	if workers > 0 {
		args = append(args, "-test.parallel="+strconv.Itoa(workers))
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	// It ends in good order on an interrupt: its workers are processes of their own.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Dir = t.dir // where findings go
	if workers > 0 {
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	return judge(t.name(), began, time.Since(began), string(out), err)
}

// judge tells what came of a chunk.
func judge(name string, began time.Time, took time.Duration, out string, err error) result {
	r := result{at: began, target: name, took: took.Truncate(time.Second), result: clean, output: out}
	if all := progress.FindAllStringSubmatch(out, -1); len(all) > 0 {
		m := all[len(all)-1]
		r.execs, _ = strconv.ParseInt(m[1], 10, 64)
		r.fresh, _ = strconv.ParseInt(m[2], 10, 64)
		r.known, _ = strconv.ParseInt(m[3], 10, 64)
	}
	switch {
	// An input of the corpus that fails, or a new one.
	case strings.Contains(out, "--- FAIL: Fuzz") && !strings.Contains(out, "context deadline exceeded\n"), strings.Contains(out, "Failing input written to"):
		r.result = finding
	case err != nil:
		r.result = fmt.Sprintf("ended early: %v", err)
	case r.execs == 0:
		r.result = "ended early: nothing was run"
	}
	return r
}
