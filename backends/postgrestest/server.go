package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// User owns the databases; it is no superuser.
	User = "coordinator"
	// Password is User's. It needs encoding in a URL, and is easy to find in
	// what must not show it.
	Password = "hush/hush@#?% 7c1"

	admin = "postgres"
	// patience bounds what the server takes to start, stop or make a database.
	patience = 30 * time.Second
)

// Server is a Postgres server. Its methods fail the test that they are given.
type Server struct {
	bin        string
	dir        string // its data is in data
	port       int
	credential *syscall.Credential

	mu        sync.Mutex
	process   *exec.Cmd // nil while it is stopped
	life      io.Closer // the process ends when this is closed, or this process ends
	databases int
}

var shared struct {
	sync.Mutex
	inUse  bool // by Main
	server *Server
}

// Main runs a package's tests and then stops the server that they share. It
// returns the exit code.
func Main(m *testing.M) int {
	shared.Lock()
	shared.inUse = true
	shared.Unlock()
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		if err := shared.server.remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}

// Shared is the server of all tests of a package, whose TestMain calls Main.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if !shared.inUse {
		tb.Fatal("postgrestest.Shared: the package's TestMain does not call postgrestest.Main")
	}
	if shared.server == nil {
		shared.server = create(tb)
	}
	return shared.server
}

// Start starts a server that is the test's own and removed when it ends.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := create(tb)
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func create(tb testing.TB) *Server {
	tb.Helper()
	bin, err := binaries()
	if err != nil {
		absent(tb, err)
	}
	credential, err := account()
	if err != nil {
		absent(tb, err)
	}
	dir, err := os.MkdirTemp("", "pairdb-postgres-")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{bin: bin, dir: dir, credential: credential}
	if err := s.initialise(); err != nil {
		tb.Fatal(errors.Join(err, s.remove()))
	}
	return s
}

func (s *Server) initialise() error {
	passwordFile := filepath.Join(s.dir, "password")
	if err := os.WriteFile(passwordFile, []byte(Password), 0o644); err != nil {
		return err
	}
	if s.credential != nil {
		if err := os.Chown(s.dir, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
			return err
		}
	}
	initdb := filepath.Join(s.bin, "initdb")
	help, err := run(s.credential, s.dir, initdb, "--help")
	if err != nil {
		return err
	}
	args := []string{"-D", s.data(), "-U", admin, "-A", "scram-sha-256", "--pwfile", passwordFile, "-E", "UTF8", "--locale", "C", "--no-sync"}
	if strings.Contains(help, "--icu-locale") {
		// An order of text that is not the bytes', as many servers have it.
		args = append(args, "--locale-provider", "icu", "--icu-locale", "en")
	}
	if _, err := run(s.credential, s.dir, initdb, args...); err != nil {
		return err
	}
	if s.port, err = freePort(); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	return s.administer(fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", User, Password))
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// untilEndOfInput runs a program, and tells it to stop at once when standard
// input ends: as it does when the test's process is killed.
const untilEndOfInput = `"$@" </dev/null & read line; kill -INT $! 2>/dev/null; wait $!`

// start starts the server and waits until it answers. Right after a kill its
// last processes may be in the way for a moment, so it tries again.
func (s *Server) start() error {
	deadline := time.Now().Add(patience)
	for {
		err := s.launch(deadline)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *Server) launch(deadline time.Time) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-c", untilEndOfInput, "sh", filepath.Join(s.bin, "postgres"), "-D", s.data()}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(s.port), "unix_socket_directories=" + s.dir,
		"max_connections=100", "shared_buffers=16MB", "fsync=off", "full_page_writes=off", "autovacuum=off",
	} {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential, Setpgid: true}
	life, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, life.Close())
	}
	s.process, s.life = cmd, life
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := s.answers(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if pid, pidErr := s.pid(); time.Now().After(deadline) || pidErr == nil && !alive(pid) {
			return errors.Join(fmt.Errorf("postgres does not start: %w\n%s", err, s.logged()), s.end())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *Server) answers(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.url(admin, admin))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// pid is that of the server's first process.
func (s *Server) pid() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(first)
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// logged is the end of the server's log.
func (s *Server) logged() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// end stops the server; where it has none, nothing.
func (s *Server) end() error {
	if s.process == nil {
		return nil
	}
	err := s.life.Close()
	_ = s.process.Wait() // it was told to stop
	s.process = nil
	return err
}

func (s *Server) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.end(), os.RemoveAll(s.dir))
}

// Stop shuts the server down as an operator does: connections are told, and ended.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.end(); err != nil {
		tb.Fatal(err)
	}
}

// Kill ends the server's processes as a crash does.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := s.pid()
	if err != nil {
		tb.Fatalf("kill postgres: %v", err)
	}
	// The others end by themselves when the first one is gone.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		tb.Fatalf("kill postgres: %v", err)
	}
	if err := s.end(); err != nil {
		tb.Fatal(err)
	}
}

// Start starts the server that was stopped or killed, at the same address and
// on the same data, and waits until it answers.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		tb.Fatal("start postgres: it runs already")
	}
	if err := s.start(); err != nil {
		tb.Fatal(err)
	}
}

// Address is the server's HOST:PORT.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

func (s *Server) url(user, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, Password), Host: s.Address(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

func (s *Server) administer(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url(admin, admin))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// Database makes an empty database, which is dropped when the test ends, and
// returns its URL.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	s.mu.Lock()
	s.databases++
	name := fmt.Sprintf("test_%d", s.databases)
	s.mu.Unlock()
	if err := s.administer(fmt.Sprintf("CREATE DATABASE %s OWNER %s", name, User)); err != nil {
		tb.Fatalf("make a database: %v", err)
	}
	tb.Cleanup(func() {
		s.mu.Lock()
		running := s.process != nil
		s.mu.Unlock()
		if !running {
			return
		}
		if err := s.administer(fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)); err != nil {
			tb.Errorf("drop a database: %v", err)
		}
	})
	return s.url(User, name)
}

// Administer runs a statement in the database of a URL that Database returned,
// as a superuser.
func (s *Server) Administer(tb testing.TB, databaseURL, statement string) {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal("administer: the database's URL cannot be parsed")
	}
	u.User = url.UserPassword(admin, Password)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		tb.Fatal(err)
	}
	_, err = conn.Exec(ctx, statement)
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}
