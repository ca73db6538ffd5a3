package postgrestest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pooler starts a PgBouncer in transaction mode in front of the server, which
// ends with the test, and returns the URL of the same database through it.
// Settings are more lines of its configuration.
func (s *Server) Pooler(tb testing.TB, databaseURL string, settings ...string) string {
	tb.Helper()
	binary, err := exec.LookPath("pgbouncer")
	if err != nil {
		binary = "/usr/sbin/pgbouncer" // where Debian has it, which not everyone's PATH names
		if !runnable(binary) {
			absent(tb, fmt.Errorf("no pgbouncer (Debian: apt-get install pgbouncer): %w", err))
		}
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal("start pgbouncer: the database's URL cannot be parsed")
	}
	port, err := freePort()
	if err != nil {
		tb.Fatal(err)
	}
	u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	dir, err := os.MkdirTemp("", "pairdb-pgbouncer-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	users, config, output := filepath.Join(dir, "users"), filepath.Join(dir, "ini"), filepath.Join(dir, "log")
	lines := append([]string{
		"[databases]", fmt.Sprintf("* = host=127.0.0.1 port=%d", s.port),
		"[pgbouncer]", "listen_addr = 127.0.0.1", fmt.Sprintf("listen_port = %d", port), "unix_socket_dir =",
		"auth_type = scram-sha-256", "auth_file = " + users, "pool_mode = transaction", "default_pool_size = 3",
	}, settings...)
	for name, text := range map[string]string{
		users: fmt.Sprintf("%q %q\n", User, Password), config: strings.Join(lines, "\n") + "\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	log, err := os.Create(output)
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential, Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p := &process{pid: cmd.Process.Pid, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	tb.Cleanup(func() {
		if err := p.end(syscall.SIGTERM); err != nil {
			tb.Error(err)
		}
	})
	if err := p.watch(s.credential, dir); err != nil {
		tb.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, u.String())
		if err == nil {
			err = conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return u.String()
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(output) // what there is of it
			tb.Fatalf("pgbouncer does not start: %v\n%s", err, text)
		}
	}
}
