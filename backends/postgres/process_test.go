package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
)

// childURL, set in the environment, makes the test binary a coordinator's
// stand-in: it opens the store, takes a node id, says which, and holds on until
// its standard input ends.
const (
	childURL  = "PAIRDB_TEST_POSTGRES_URL"
	childNode = "PAIRDB_TEST_POSTGRES_NODE"
)

func child(address string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(ctx, Options{URL: address})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	identity, err := s.AcquireIdentity(ctx, os.Getenv(childNode))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(identity.Writer.ID)
	_, _ = io.Copy(io.Discard, os.Stdin) // however it ends, it ends
	if err := errors.Join(identity.Release(), s.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// startChild returns a process that holds a node id, and which.
func startChild(t *testing.T, address, nodeID string) (*exec.Cmd, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childURL+"="+address, childNode+"="+nodeID)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the process has not said its id: %v", err)
	}
	return cmd, strings.TrimSpace(line)
}

func TestKilledHolderFreesItsID(t *testing.T) {
	address := postgrestest.Shared(t).Database(t)
	s := opened(t, Options{URL: address})
	first, id := startChild(t, address, coord.AutoNodeID)
	if id != "coordinator-1" {
		t.Fatalf("the first process has %s", id)
	}
	if _, id = startChild(t, address, coord.AutoNodeID); id != "coordinator-2" {
		t.Fatalf("the second process has %s", id)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := s.AcquireIdentity(ctx, "coordinator-1")
	if !errors.Is(err, coord.ErrNodeIDTaken) {
		t.Fatalf("while another process holds the id: got %v, want ErrNodeIDTaken", err)
	}
	if name := "process " + strconv.Itoa(first.Process.Pid); !strings.Contains(err.Error(), name) {
		t.Errorf("%q does not name %s", err, name)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it says that it was killed
	killed := time.Now()
	identity := must(s.AcquireIdentity(t.Context(), "coordinator-1"))(t)
	if took := time.Since(killed); took > time.Second {
		t.Errorf("the id was free %v after its holder was killed, want at once", took)
	}
	if identity.Writer.Incarnation != 2 {
		t.Errorf("incarnation %d, want 2", identity.Writer.Incarnation)
	}
}
