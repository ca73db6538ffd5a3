// Package e2e runs the real binary as users do: processes, signals, files.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "coordinator-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "coordinator")
		if err := build(binary); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// build makes the program.
func build(path string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "github.com/pairdb/coordinator")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// startTimeout bounds how long a process may take to be up, on a machine that
// builds and tests other things meanwhile.
const startTimeout = 20 * time.Second

// process is a running coordinator or storage node.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	grpc string
	ops  string // HOST:PORT
	dir  string
	took time.Duration // from the start to being up
	done chan struct{}
	err  error // of the end, once done is closed

	mu  sync.Mutex
	log bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start runs the binary; up reads its lines, of standard output or of the log,
// until it says that the process is up.
func start(t *testing.T, up func(p *process, line string) bool, args ...string) *process {
	t.Helper()
	return startProgram(t, binary, up, args...)
}

// startProgram is start with another build of the binary.
func startProgram(t *testing.T, program string, up func(p *process, line string) bool, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, args...), done: make(chan struct{})}
	lines, w := io.Pipe()
	p.cmd.Stdout = io.MultiWriter(w, p)
	p.cmd.Stderr = io.MultiWriter(w, p)
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		w.Close()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	ready := make(chan struct{})
	go func() {
		isUp := false
		for scan := bufio.NewScanner(lines); scan.Scan(); {
			if !isUp && up(p, scan.Text()) {
				isUp = true
				close(ready)
			}
		}
		io.Copy(io.Discard, lines)
	}()
	select {
	case <-ready:
	case <-p.done:
		t.Fatalf("%v ended early: %v\n%s", args, p.err, p.output())
	case <-time.After(startTimeout):
		t.Fatalf("%v is not up after %v\n%s", args, startTimeout, p.output())
	}
	p.took = time.Since(began)
	return p
}

// startDev runs dev mode on free ports.
func startDev(t *testing.T, args ...string) *process {
	t.Helper()
	return start(t, func(p *process, line string) bool {
		switch word, rest, _ := strings.Cut(line, " "); word {
		case "grpc":
			p.grpc = rest
		case "ops":
			p.ops = strings.TrimPrefix(rest, "http://")
		case "data":
			p.dir = rest
		}
		return p.dir != ""
	}, append([]string{"-dev", "-listen", "127.0.0.1:0", "-ops-listen", "127.0.0.1:0"}, args...)...)
}

// servingLine reads the addresses from the log line of a process that is up.
func servingLine(p *process, line string) bool {
	var entry struct {
		Message string `json:"@message"`
		GRPC    string `json:"grpc"`
		Ops     string `json:"ops"`
	}
	if json.Unmarshal([]byte(line), &entry) != nil || entry.Message != "serving" {
		return false
	}
	p.grpc, p.ops = entry.GRPC, entry.Ops
	return true
}

func startStorage(t *testing.T, id, dir string, args ...string) *process {
	t.Helper()
	p := start(t, servingLine, append([]string{"storage", "-id", id, "-data", dir, "-listen", "127.0.0.1:0", "-ops-listen", "127.0.0.1:0"}, args...)...)
	p.dir = dir
	return p
}

// startConfigured runs a coordinator from a configuration file with embedded
// stores in dir, plus what extra says.
func startConfigured(t *testing.T, id, dir, extra string) *process {
	t.Helper()
	return startConfiguredAt(t, id, dir, "127.0.0.1:0", extra)
}

func startConfiguredAt(t *testing.T, id, dir, listen, extra string, server ...string) *process {
	t.Helper()
	return start(t, servingLine, "-config", configuration(t, id, dir, listen, extra, server...))
}

// configuration writes a configuration file.
func configuration(t *testing.T, id, dir, listen, extra string, server ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "coordinator.hcl")
	if !strings.Contains(extra, "idempotency ") {
		extra += "\nidempotency \"badger\" {}\n"
	}
	text := fmt.Sprintf(`
node_id  = %q
data_dir = %q
server {
  listen = %q
%s
}
metrics { listen = "127.0.0.1:0" }
metadata "sqlite" { path = %q }
%s`, id, filepath.Join(dir, id), listen, strings.Join(server, ""), filepath.Join(dir, "metadata.db"), extra)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// kill ends the process at once, as kill -9 does.
func (p *process) kill() {
	p.cmd.Process.Signal(syscall.SIGCONT)
	p.cmd.Process.Kill()
	<-p.done
}

// terminate asks the process to end and returns its exit code.
func (p *process) terminate() int {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(startTimeout):
		p.t.Fatalf("still running %v after SIGTERM\n%s", startTimeout, p.output())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) dial() pb.CoordinatorServiceClient {
	p.t.Helper()
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return pb.NewCoordinatorServiceClient(conn)
}

// command runs a client command and returns what it printed and its exit code.
func (p *process) command(args ...string) (stdout, stderr string, code int) {
	return runCommand(p.t, nil, append(args, "-addr", p.grpc)...)
}

func runCommand(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func splitAddress(t *testing.T, address string) (host string, port int32) {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	n, portErr := strconv.Atoi(text)
	if err != nil || portErr != nil {
		t.Fatalf("address %q: %v, %v", address, err, portErr)
	}
	return host, int32(n)
}

func httpGet(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually polls until check returns nil; it fails with its last error.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("not within %v: %v", within, err)
}
