package postgrestest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestServer(t *testing.T) {
	s := Shared(t)
	if Shared(t) != s {
		t.Error("a second server was started")
	}
	address := s.Database(t)
	query := func(statement string) (n int, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, address)
		if err != nil {
			return 0, err
		}
		defer conn.Close(ctx)
		err = conn.QueryRow(ctx, statement).Scan(&n)
		return n, err
	}
	if n, err := query("WITH made AS (SELECT 1) SELECT count(*) FROM made"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	s.Administer(t, address, "CREATE TABLE kept (n INTEGER); INSERT INTO kept VALUES (7); GRANT SELECT ON kept TO PUBLIC")
	for what, end := range map[string]func(testing.TB){"stop": s.Stop, "kill": s.Kill} {
		end(t)
		if _, err := query("SELECT 1"); err == nil {
			t.Errorf("after %s it still answers", what)
		}
		s.Start(t)
		if n, err := query("SELECT n FROM kept"); n != 7 || err != nil {
			t.Errorf("after %s and start: %d, %v", what, n, err)
		}
	}
	if s.Database(t) == address {
		t.Error("two databases have one name")
	}
}

// TestKilledTest has a process that uses a server killed: nothing is left of it.
func TestKilledTest(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	Shared(t) // where there is no server to be had, this says so
	cmd := exec.Command(self, "-test.run=^TestHold$")
	cmd.Env = append(os.Environ(), hold+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	dir := strings.TrimSpace(line)
	if _, statErr := os.Stat(dir); err != nil || dir == "" || statErr != nil {
		t.Fatalf("the process holds %q, %v, %v; want its server's directory", line, err, statErr)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", dir)
		}
	}
}

// hold, set in the environment, makes TestHold the process that is killed.
const hold = "PAIRDB_TEST_HOLD_POSTGRES"

func TestHold(t *testing.T) {
	if os.Getenv(hold) == "" {
		return
	}
	s := Shared(t)
	fmt.Println(s.dir)
	time.Sleep(time.Minute)
}
