package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// childPath, set in the environment, makes the test binary a coordinator's
// stand-in: it opens the store, takes the node id, says its incarnation, and
// holds on until its standard input ends.
const (
	childPath = "PAIRDB_TEST_SQLITE_PATH"
	childNode = "PAIRDB_TEST_SQLITE_NODE"
)

func child(path string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(ctx, Options{Path: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	identity, err := s.AcquireIdentity(ctx, os.Getenv(childNode))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(identity.Writer.Incarnation)
	_, _ = io.Copy(io.Discard, os.Stdin) // however it ends, it ends
	if err := errors.Join(identity.Release(), s.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

type process struct {
	*exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

func start(t *testing.T, path, nodeID string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self)}
	p.Env = append(os.Environ(), childPath+"="+path, childNode+"="+nodeID)
	p.Stderr = os.Stderr
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	return p
}

// incarnation waits until the process holds the id.
func (p *process) incarnation() (int, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

func (p *process) end() error {
	return errors.Join(p.in.Close(), p.Wait())
}

func TestKilledHolderFreesItsID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	s := opened(t, Options{Path: path})
	holder := start(t, path, "c1")
	if incarnation, err := holder.incarnation(); err != nil || incarnation != 1 {
		t.Fatalf("the holder's incarnation is %d, %v; want 1", incarnation, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.AcquireIdentity(ctx, "c1")
	if !errors.Is(err, coord.ErrNodeIDTaken) {
		t.Fatalf("while another process holds the id: got %v, want ErrNodeIDTaken", err)
	}
	if name := "process " + strconv.Itoa(holder.Process.Pid); !strings.Contains(err.Error(), name) {
		t.Errorf("%q does not name %s", err, name)
	}

	var acquired time.Time
	var group sync.WaitGroup
	group.Go(func() {
		identity, err := s.AcquireIdentity(t.Context(), "c1")
		acquired = time.Now()
		if err != nil {
			t.Error(err)
			return
		}
		if identity.Writer.Incarnation != 2 {
			t.Errorf("incarnation %d, want 2", identity.Writer.Incarnation)
		}
		if err := identity.Release(); err != nil {
			t.Error(err)
		}
	})
	killed := time.Now()
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // it says that it was killed
	group.Wait()
	if took := acquired.Sub(killed); took > 2*time.Second {
		t.Errorf("the id was free %v after its holder was killed, want at once", took)
	}
}

// TestProcessesStartTogether has several processes make, migrate and use one
// file at the same time.
func TestProcessesStartTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "m.db")
	const each = 3
	processes := make(map[string][]*process)
	for range each {
		for _, id := range []string{"c1", "c2"} {
			processes[id] = append(processes[id], start(t, path, id))
		}
	}
	var group sync.WaitGroup
	for id, contenders := range processes {
		// Those that contend for an id hold it one after another, in any order.
		incarnations := make(chan int, each)
		for _, p := range contenders {
			group.Go(func() {
				incarnation, err := p.incarnation()
				if err == nil {
					err = p.end()
				}
				if err != nil {
					t.Errorf("a process contending for %s: %v", id, err)
				}
				incarnations <- incarnation
			})
		}
		group.Go(func() {
			seen := make(map[int]bool)
			for range each {
				seen[<-incarnations] = true
			}
			if !seen[1] || !seen[2] || !seen[3] {
				t.Errorf("the lives of %s have the incarnations %v, want 1 to %d", id, seen, each)
			}
		})
	}
	group.Wait()
}
