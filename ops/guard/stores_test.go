package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/backends/postgres"
	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/backends/redis"
	"github.com/pairdb/coordinator/backends/redistest"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/config"
)

// identity is a certificate and its key, and who has signed it, in files.
type identity struct{ ca, cert, key string }

// identities are files in a directory of their own.
type identities struct {
	t   *testing.T
	dir string
}

// write puts a certificate that a signs into files with a prefix, and returns
// them; what was there before is replaced in one step.
func (i identities) write(prefix string, a *ca, name string) identity {
	i.t.Helper()
	pair := a.issue(i.t, name, time.Hour)
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		i.t.Fatal(err)
	}
	put := func(what, kind string, der []byte) string {
		path := filepath.Join(i.dir, prefix+what+".pem")
		writePEM(i.t, path+".new", kind, der)
		if err := os.Rename(path+".new", path); err != nil {
			i.t.Fatal(err)
		}
		return path
	}
	return identity{
		ca:   put("ca", "CERTIFICATE", a.cert.Raw),
		cert: put("cert", "CERTIFICATE", pair.Certificate[0]),
		key:  put("key", "PRIVATE KEY", private),
	}
}

// block is the identity as a tls block of the configuration.
func (i identity) block() string {
	text := fmt.Sprintf("tls {\n  ca_file = %q\n", i.ca)
	if i.cert != "" {
		text += fmt.Sprintf("  cert_file = %q\n  key_file = %q\n", i.cert, i.key)
	}
	return text + "}\n"
}

func (i identity) pem(t *testing.T) (cert, key, ca []byte) {
	t.Helper()
	for path, text := range map[string]*[]byte{i.cert: &cert, i.key: &key, i.ca: &ca} {
		var err error
		if *text, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, ca
}

func configured(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "coordinator.hcl")
	if err := os.WriteFile(file, []byte("data_dir = \"/nowhere\"\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Postgres is talked to over TLS alone, with certificates on both ends, and
// other ones for connections that begin after the files have changed.
func TestPostgresOverTLS(t *testing.T) {
	trusted, untrusted := newCA(t), newCA(t)
	files := identities{t, t.TempDir()}
	serverTLS := func(a *ca) postgrestest.TLS {
		cert, key, ca := files.write("server-", a, "db").pem(t)
		return postgrestest.TLS{Cert: cert, Key: key, CA: ca}
	}
	server := postgrestest.StartTLS(t, serverTLS(trusted))
	database := server.Database(t)
	plain, _, _ := strings.Cut(database, "?")
	url := func(address, tls string) string {
		return configured(t, fmt.Sprintf("metadata \"postgres\" {\n  url = %q\n%s}\nidempotency \"badger\" {}\n", address, tls)).Metadata.Postgres.URL.Reveal()
	}

	good := files.write("good-", trusted, postgrestest.User)
	strange := files.write("strange-", untrusted, postgrestest.User)
	byName := strings.Replace(plain, "127.0.0.1", "localhost", 1) // the server's certificate is for db and the address
	for _, c := range []struct {
		name, address string
		tls           identity
		want          string
	}{
		{"no certificate", plain, identity{ca: good.ca}, "certificate"},
		{"a certificate of an authority that the server does not trust", plain, identity{good.ca, strange.cert, strange.key}, ""},
		{"somebody else's certificate", plain, files.write("other-", trusted, "somebody"), postgrestest.User},
		{"a server of an authority that is not trusted", plain, identity{strange.ca, good.cert, good.key}, "certificate signed by unknown authority"},
		{"a server of another name", byName, good, "certificate is valid for db, not localhost"},
	} {
		awaited(t, c.name, func() error {
			s, err := postgres.Open(within(t), postgres.Options{URL: url(c.address, c.tls.block())})
			if err == nil {
				s.Close()
				t.Fatalf("%s: it is let in", c.name)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Fatalf("%s: %v, want it to say no password", c.name, err)
			}
			return says(err, c.want)
		})
	}
	if s, err := postgres.Open(within(t), postgres.Options{URL: url(database, "")}); err == nil {
		s.Close()
		t.Error("in plain text: it is let in")
	}

	s, err := postgres.Open(within(t), postgres.Options{URL: url(plain, good.block())})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.CreateTenant(within(t), "before", 3, 0); err != nil {
		t.Fatal(err)
	}
	// Everybody gets certificates of another authority, at the same paths. What
	// is connected stays so; what connects anew does so with them.
	next := newCA(t)
	files.write("good-", next, postgrestest.User)
	server.ReplaceTLS(t, serverTLS(next))
	if _, err := s.CreateTenant(within(t), "between", 3, 0); err != nil {
		t.Errorf("connections that were open: %v", err)
	}
	server.Administer(t, database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	awaited(t, "connections with the new certificates", func() error {
		_, err := s.CreateTenant(within(t), "after", 3, 0)
		if errors.Is(err, coord.ErrTenantExists) {
			err = nil // an attempt whose answer was lost
		}
		return err
	})
	old := files.write("old-", trusted, postgrestest.User)
	if s, err := postgres.Open(within(t), postgres.Options{URL: url(plain, old.block())}); err == nil {
		s.Close()
		t.Error("the certificates of before are let in after they were replaced")
	}
}

// says tells whether err holds text. It is to be awaited: a server says why it
// refuses, but may have closed the connection before that was read.
func says(err error, text string) error {
	if !strings.Contains(err.Error(), text) {
		return fmt.Errorf("%w, want it to say %q", err, text)
	}
	return nil
}

func awaited(t *testing.T, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// So is Redis, whose files this package reads again.
func TestRedisOverTLS(t *testing.T) {
	trusted, untrusted := newCA(t), newCA(t)
	files := identities{t, t.TempDir()}
	served := files.write("server-", trusted, "redis")
	good := files.write("good-", trusted, "coordinator")
	strange := files.write("strange-", untrusted, "coordinator")
	server := redistest.Start(t, redistest.Options{
		MutualTLS: func() *tls.Config {
			cert, key, ca := good.pem(t)
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Error(err)
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(ca)
			return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
		},
		Settings: []string{"tls-cert-file " + served.cert, "tls-key-file " + served.key, "tls-ca-cert-file " + served.ca},
	})
	_, port, err := net.SplitHostPort(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	open := func(address string, i identity) (*Guard, *redis.Store) {
		t.Helper()
		cfg := configured(t, fmt.Sprintf("metadata \"sqlite\" {}\nidempotency \"redis\" {\n  address = %q\n%s}\n", address, i.block()))
		g, err := Open(cfg, Events{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := redis.Open(redis.Options{Addresses: cfg.Idempotency.Redis.Addresses, Dial: g.DialRedis, MaxRetries: -1, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return g, s
	}
	for _, c := range []struct {
		name, address string
		tls           identity
		want          string
	}{
		{"no certificate", server.Addr(), identity{ca: good.ca}, "certificate required"},
		{"a certificate of an authority that the server does not trust", server.Addr(), identity{good.ca, strange.cert, strange.key}, "unknown certificate authority"},
		{"a server of an authority that is not trusted", server.Addr(), identity{strange.ca, good.cert, good.key}, "certificate signed by unknown authority"},
		{"a server of another name", "localhost:" + port, good, "certificate is valid for redis, not localhost"},
	} {
		_, s := open(c.address, c.tls)
		awaited(t, c.name, func() error {
			err := s.Ping(within(t))
			if !errors.Is(err, coord.ErrIdempotencyUnavailable) {
				t.Fatalf("%s: %v, want ErrIdempotencyUnavailable", c.name, err)
			}
			return says(err, c.want)
		})
	}

	g, s := open(server.Addr(), good)
	if err := s.Ping(within(t)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	wait := g.Watch(ctx)
	defer wait()
	defer stop()
	next := newCA(t)
	files.write("good-", next, "coordinator")
	if err := s.Ping(within(t)); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
	files.write("server-", next, "redis")
	if err := errors.Join(server.Stop(), server.Restart()); err != nil {
		t.Fatal(err)
	}
	awaited(t, "connections with the new certificates", func() error { return s.Ping(within(t)) })
}
