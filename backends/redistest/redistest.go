// Package redistest starts throwaway Redis servers for tests, from the binaries
// on the machine: each on a free port of 127.0.0.1, with its files in a
// directory of its own. Servers can be stopped, killed, paused and brought back
// on the same port with the same files.
//
// Without a redis-server binary a test skips, loudly; where the environment says
// CI=true it fails. A server ends with its test and, on Linux, with the process.
package redistest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	driver "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options say what kind of server is started. The zero Options are a single
// server without password, TLS or anything on disk.
type Options struct {
	Password   string
	AppendOnly bool    // keep data across Restart, with appendfsync always
	ReplicaOf  *Server // a replica of this one, with the same password
	TLS        bool    // TLS only, with a certificate that Server.ClientTLS trusts
	// MutualTLS, where it is not nil, is TLS only, too, with the certificates
	// that Settings name: it is what a client needs then, a certificate included.
	MutualTLS func() *tls.Config
	// Settings are added to the configuration file, a line each.
	Settings []string
	// Dir holds the server's files. Start makes one where it is empty; Launch
	// needs it.
	Dir string
}

// ErrNoBinary means that there is no redis-server on the machine.
var ErrNoBinary = errors.New("redis-server is not on the PATH (apt-get install redis-server)")

// patience bounds starting and stopping a server.
const patience = 15 * time.Second

// Server is a Redis server, or a Sentinel, in a process of its own. Its methods
// must not be called concurrently, except Addr, Do and ClientTLS.
type Server struct {
	opts     Options
	binary   string
	sentinel bool
	port     int
	client   *tls.Config

	mu      sync.Mutex
	process *process // nil while it is down
}

// Start starts a server that ends with the test.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	return started(t, func() (*Server, error) { return Launch(opts) })
}

// started runs launch, and has its server end with the test.
func started(t testing.TB, launch func() (*Server, error)) *Server {
	t.Helper()
	s, err := launch()
	if errors.Is(err, ErrNoBinary) && os.Getenv("CI") != "true" {
		fmt.Fprintf(os.Stderr, "SKIPPED %s: %v\n", t.Name(), err)
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Launch starts a server that its caller must stop. It is for what is not one
// test: a server that a package's TestMain shares among its tests.
func Launch(opts Options) (*Server, error) {
	return launch(&Server{opts: opts})
}

// portTries is how often another port is taken when somebody else was faster.
const portTries = 5

func launch(s *Server) (*Server, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, ErrNoBinary
	}
	s.binary = binary
	if s.opts.Dir == "" {
		return nil, errors.New("start redis-server: no directory is given")
	}
	if s.opts.TLS {
		if s.client, err = writeCertificate(s.opts.Dir); err != nil {
			return nil, fmt.Errorf("start redis-server: %w", err)
		}
	}
	for range portTries {
		if s.port, err = freePort(); err != nil {
			return nil, fmt.Errorf("start redis-server: %w", err)
		}
		if err = s.Restart(); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Addr is the server's address; it stays the same while the server is down.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// ClientTLS is what a client of a server with TLS needs, else nil.
func (s *Server) ClientTLS() *tls.Config {
	if s.opts.MutualTLS != nil {
		return s.opts.MutualTLS()
	}
	return s.client.Clone()
}

// Restart starts the server again where it is down, or for the first time, and
// returns once it answers and has loaded its data.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return errors.New("start redis-server: it is running")
	}
	file := filepath.Join(s.opts.Dir, "redis.conf")
	args := []string{file}
	if s.sentinel {
		args = append(args, "--sentinel")
	}
	// A Sentinel keeps what it has learnt in its file.
	if _, err := os.Stat(file); !s.sentinel || err != nil {
		if err := os.WriteFile(file, []byte(s.config()), 0o600); err != nil {
			return fmt.Errorf("start redis-server: %w", err)
		}
	}
	p, err := startProcess(s.binary, args, s.opts.Dir)
	if err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	if err := s.await(p); err != nil {
		p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("start redis-server on %s: %w\n%s", s.Addr(), err, p.output())
	}
	s.process = p
	return nil
}

func (s *Server) config() string {
	lines := []string{
		"bind 127.0.0.1", "daemonize no", "dir " + strconv.Quote(s.opts.Dir), "loglevel notice",
		"port " + strconv.Itoa(s.port),
	}
	if s.opts.TLS {
		lines[len(lines)-1] = "port 0"
		lines = append(lines, "tls-port "+strconv.Itoa(s.port), "tls-auth-clients no",
			"tls-cert-file "+certFile, "tls-key-file "+keyFile, "tls-ca-cert-file "+certFile)
	}
	if s.opts.MutualTLS != nil {
		lines[len(lines)-1] = "port 0"
		lines = append(lines, "tls-port "+strconv.Itoa(s.port), "tls-auth-clients yes")
	}
	if s.opts.Password != "" {
		lines = append(lines, "requirepass "+strconv.Quote(s.opts.Password))
	}
	if !s.sentinel {
		lines = append(lines, `save ""`, "repl-diskless-sync-delay 0")
		if s.opts.Password != "" {
			lines = append(lines, "masterauth "+strconv.Quote(s.opts.Password))
		}
	}
	if s.opts.AppendOnly {
		lines = append(lines, "appendonly yes", "appendfsync always")
	}
	if primary := s.opts.ReplicaOf; primary != nil {
		lines = append(lines, "replicaof 127.0.0.1 "+strconv.Itoa(primary.port))
	}
	lines = append(lines, s.opts.Settings...)
	return strings.Join(lines, "\n") + "\n"
}

// await waits until the server answers PING, and a replica receives what its
// primary does.
func (s *Server) await(p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, err := s.Do(ctx, "PING")
		if err == nil && s.opts.ReplicaOf != nil {
			err = s.awaitStream(ctx)
		}
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitStream fails unless a message from the primary arrives at the replica: a
// primary takes a replica for online some time before it sends it anything.
func (s *Server) awaitStream(ctx context.Context) error {
	primary := s.opts.ReplicaOf
	if _, err := primary.Do(ctx, "PUBLISH", "redistest", "ping"); err != nil {
		return err
	}
	sent, err := primary.replicationOffset(ctx, "master_repl_offset")
	if err != nil {
		return err
	}
	for range 10 {
		online, err := primary.Do(ctx, "INFO", "replication")
		if err != nil {
			return err
		}
		received, err := s.replicationOffset(ctx, "slave_repl_offset")
		if err != nil {
			return err
		}
		if received >= sent && strings.Contains(fmt.Sprint(online), fmt.Sprintf("port=%d,state=online", s.port)) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("it receives nothing from its primary")
}

func (s *Server) replicationOffset(ctx context.Context, name string) (int64, error) {
	info, err := s.Do(ctx, "INFO", "replication")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(fmt.Sprint(info)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("INFO tells no %s", name)
}

// Do sends one command on a connection of its own and returns its answer, as
// go-redis gives it.
func (s *Server) Do(ctx context.Context, args ...any) (any, error) {
	fail := func(err error) (any, error) { return nil, fmt.Errorf("%v on %s: %w", args[0], s.Addr(), err) }
	// The driver would go on dialling a server that is down, and say so on
	// standard error.
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", s.Addr())
	if err != nil {
		return fail(err)
	}
	_ = conn.Close()
	client := driver.NewClient(&driver.Options{
		Addr: s.Addr(), Password: s.opts.Password, TLSConfig: s.ClientTLS(), MaxRetries: -1, DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer client.Close()
	answer, err := client.Do(ctx, args...).Result()
	if err != nil {
		return fail(err)
	}
	return answer, nil
}

// Stop ends the server in good order (SIGTERM), and waits for it. A server that
// is down, or was paused, is no error.
func (s *Server) Stop() error {
	return s.end(syscall.SIGCONT, syscall.SIGTERM)
}

// Kill ends the server at once (SIGKILL), and waits for it.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(signals ...syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.process
	if p == nil {
		return nil
	}
	s.process = nil
	deadline := time.After(patience)
	for {
		// Redis does not heed the first one while it writes its initial append-only file.
		for _, signal := range signals {
			p.signal(signal)
		}
		select {
		case <-p.done:
			return nil
		case <-time.After(200 * time.Millisecond):
			continue
		case <-deadline:
		}
		p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("redis-server on %s had to be killed\n%s", s.Addr(), p.output())
	}
}

// Pause freezes the server (SIGSTOP): it keeps its connections, and answers
// nothing until Resume.
func (s *Server) Pause() error { return s.send(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() error { return s.send(syscall.SIGCONT) }

func (s *Server) send(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return fmt.Errorf("redis-server on %s is down", s.Addr())
	}
	s.process.signal(signal)
	return nil
}
