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
	tls        *TLS // nil: plain text

	mu        sync.Mutex
	process   *process // nil while it is stopped
	databases int      // that were made
	free      []string // that are empty and nobody's
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

func create(tb testing.TB) *Server { return createWith(tb, nil) }

func createWith(tb testing.TB, tls *TLS) *Server {
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
	s := &Server{bin: bin, dir: dir, credential: credential, tls: tls}
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
	if s.tls != nil {
		if err := errors.Join(s.writeTLS(), s.admitOnlyTLS()); err != nil {
			return err
		}
	}
	if s.port, err = freePort(); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	return s.administer(admin, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", User, Password))
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// guard tells a process to stop at once, and removes its directory, when
// standard input ends without a line: when the test's process was killed.
const guard = `read line && exit
kill -INT "$0"
for again in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$0" && sleep 0.2; done 2>/dev/null
rm -rf "$1"`

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
	args := []string{"-D", s.data()}
	settings := []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(s.port), "unix_socket_directories=" + s.dir,
		"max_connections=100", "shared_buffers=64MB", "fsync=off", "full_page_writes=off", "autovacuum=off",
	}
	if s.tls != nil {
		settings = append(settings, "ssl=on", "ssl_cert_file="+s.tlsFile("cert"), "ssl_key_file="+s.tlsFile("key"), "ssl_ca_file="+s.tlsFile("ca"))
	}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{pid: cmd.Process.Pid, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	s.process = p
	if err := p.watch(s.credential, s.dir); err != nil {
		return errors.Join(err, s.end())
	}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := s.answers(ctx)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
		case <-time.After(20 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		return errors.Join(fmt.Errorf("postgres does not start: %w\n%s", err, s.logged()), s.end())
	}
}

// process is a running server, and what ends it should this process be killed.
type process struct {
	pid     int
	exited  chan struct{} // closed when it has
	watcher *exec.Cmd
	line    io.WriteCloser // to the watcher
}

func (p *process) watch(credential *syscall.Credential, dir string) (err error) {
	cmd := exec.Command("/bin/sh", "-c", guard, strconv.Itoa(p.pid), dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Setpgid: true}
	if p.line, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.watcher = cmd
	return nil
}

// end sends a signal and waits until the server and its watcher are gone.
func (p *process) end(signal syscall.Signal) error {
	err := syscall.Kill(p.pid, signal)
	if errors.Is(err, syscall.ESRCH) {
		err = nil
	}
	<-p.exited
	if p.watcher == nil {
		return err
	}
	_, lineErr := p.line.Write([]byte("\n"))
	return errors.Join(err, lineErr, p.watcher.Wait())
}

func (s *Server) answers(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.url(admin, admin))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// logged is the end of the server's log.
func (s *Server) logged() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// end stops the server; where none runs, it does nothing.
func (s *Server) end() error { return s.endBy(syscall.SIGINT) }

func (s *Server) endBy(signal syscall.Signal) error {
	if s.process == nil {
		return nil
	}
	err := s.process.end(signal)
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
	if s.process == nil {
		tb.Fatal("kill postgres: it does not run")
	}
	others, err := s.processes()
	if err != nil {
		tb.Fatalf("kill postgres: list its processes: %v", err)
	}
	if err := s.endBy(syscall.SIGKILL); err != nil {
		tb.Fatalf("kill postgres: %v", err)
	}
	// They would end by themselves now, but answer until they notice.
	for _, pid := range others {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			tb.Fatalf("kill a process of postgres: %v", err)
		}
	}
}

// processes are the server's, but for the first.
func (s *Server) processes() ([]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url(admin, admin))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int])
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

func (s *Server) administer(database, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url(admin, database))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// Database returns the URL of an empty database that is the test's until it ends.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	s.mu.Lock()
	name := ""
	if n := len(s.free); n > 0 {
		name, s.free = s.free[n-1], s.free[:n-1]
	} else {
		s.databases++
	}
	number := s.databases
	s.mu.Unlock()
	if name == "" {
		name = fmt.Sprintf("test_%d", number)
		if err := s.administer(admin, fmt.Sprintf("CREATE DATABASE %s OWNER %s", name, User)); err != nil {
			tb.Fatalf("make a database: %v", err)
		}
	}
	tb.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.process == nil {
			return
		}
		if err := s.administer(name, empty); err != nil {
			tb.Errorf("empty a database: %v", err)
			return
		}
		s.free = append(s.free, name)
	})
	return s.url(User, name)
}

// empty makes a database as good as new, which is quicker than a new one.
const empty = `
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE
    name TEXT;
BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    EXECUTE 'CREATE SCHEMA public AUTHORIZATION ' || (SELECT datdba::regrole FROM pg_database WHERE datname = current_database());
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
END $$`

// Administer runs a statement in the database of a URL that Database returned,
// as a superuser.
func (s *Server) Administer(tb testing.TB, databaseURL, statement string) {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal("administer: the database's URL cannot be parsed")
	}
	if err := s.administer(strings.TrimPrefix(u.Path, "/"), statement); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}
