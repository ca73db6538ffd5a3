package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startTimeout bounds how long a process may take to be up.
const startTimeout = 30 * time.Second

// process is a server that was started for the comparison.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string // file of its standard output and error
	done chan struct{}
	grpc string // HOST:PORT
	ops  string // HOST:PORT; empty: none
}

// start runs a program until kill, with env added to this process's own. Ready
// looks for its addresses in what it has printed, and tells whether it is up.
func start(ctx context.Context, dir, name string, env []string, ready func(p *process, line string) bool, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = dieWithParent()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // it is killed in the end
		close(p.done)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if text, err := os.ReadFile(p.log); err == nil {
			for line := range strings.Lines(string(text)) {
				if strings.HasSuffix(line, "\n") && ready(p, strings.TrimSpace(line)) {
					return p, nil
				}
			}
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("start %s: it ended:\n%s", name, p.tail())
		case <-ctx.Done():
			p.kill()
			return nil, fmt.Errorf("start %s: %w; it printed:\n%s", name, ctx.Err(), p.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tail is the end of what the process printed.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(len(text)-4096, 0):])
}

// kill ends the process at once and waits for its end.
func (p *process) kill() {
	// Both fail only for a process that has ended.
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Kill()
	<-p.done
}

// pause stops the process from running until resume.
func (p *process) pause() error  { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// tick is the unit of processor time in /proc, which is the same on every
// Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuTime is the processor time that a process has used, its own and the
// system's on its behalf.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return parseStat(text)
}

// parseStat reads utime and stime, the 14th and 15th field, of which the 2nd
// is in brackets and may hold anything.
func parseStat(text []byte) (time.Duration, error) {
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("read processor time: %q has too few fields", text)
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 63)
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// memory is a process's resident memory in bytes, now and the most so far.
func memory(pid int) (now, most int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if name != "VmRSS" && name != "VmHWM" || len(fields) == 0 {
			continue
		}
		kib, err := strconv.ParseInt(fields[0], 10, 53)
		if err != nil {
			return 0, 0, fmt.Errorf("read memory: %w", err)
		}
		if name == "VmRSS" {
			now = kib << 10
		} else {
			most = kib << 10
		}
	}
	return now, most, nil
}

// openFiles is how many file descriptors a process has open.
func openFiles(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("count open files: %w", err)
	}
	return len(entries), nil
}

var httpClient = &http.Client{Timeout: 2 * time.Minute}

// fetch gets a page of a process's operations address.
func (p *process) fetch(ctx context.Context, path string) ([]byte, error) {
	if p.ops == "" {
		return nil, fmt.Errorf("get %s of %s: it has no such address", path, p.name)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.ops+path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s of %s: %w", path, p.name, err)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get %s of %s: %w", path, p.name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s of %s: %w", path, p.name, err)
	}
	return body, nil
}

// gauge is the value of a metric without labels.
func (p *process) gauge(ctx context.Context, name string) (float64, error) {
	page, err := p.fetch(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for scan := bufio.NewScanner(bytes.NewReader(page)); scan.Scan(); {
		if text, ok := strings.CutPrefix(scan.Text(), name+" "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", p.name, name)
}

// replicaCalls counts the calls on storage nodes that a coordinator has made,
// by kind, and the requests that it has answered.
type replicaCalls struct {
	head, read, apply, requests float64
}

func (c replicaCalls) minus(o replicaCalls) replicaCalls {
	return replicaCalls{c.head - o.head, c.read - o.read, c.apply - o.apply, c.requests - o.requests}
}

func (p *process) replicaCalls(ctx context.Context) (replicaCalls, error) {
	page, err := p.fetch(ctx, "/metrics")
	if err != nil {
		return replicaCalls{}, err
	}
	return parseReplicaCalls(page)
}

func parseReplicaCalls(page []byte) (c replicaCalls, err error) {
	for line := range strings.Lines(string(page)) {
		var sum *float64
		switch {
		case strings.HasPrefix(line, "coordinator_requests_total{"):
			sum = &c.requests
		case !strings.HasPrefix(line, "coordinator_replica_call_duration_seconds_count{"):
			continue
		case strings.Contains(line, `kind="head"`):
			sum = &c.head
		case strings.Contains(line, `kind="read"`):
			sum = &c.read
		case strings.Contains(line, `kind="apply"`):
			sum = &c.apply
		default:
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			return c, fmt.Errorf("read metrics: %w", err)
		}
		*sum += n
	}
	return c, nil
}
