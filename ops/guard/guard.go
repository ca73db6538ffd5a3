// Package guard opens what protects a coordinator or a storage node, as its
// configuration says: certificates, and the keys of tokens. It reads their
// files again when they change and on SIGHUP.
package guard

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc/credentials"

	"github.com/pairdb/coordinator/ops/audit"
	"github.com/pairdb/coordinator/ops/certs"
	"github.com/pairdb/coordinator/ops/config"
	"github.com/pairdb/coordinator/rpc/auth"
)

// Guard holds what was opened. What is nil was not asked for.
type Guard struct {
	Clients credentials.TransportCredentials // of clients' connections to this process
	Storage credentials.TransportCredentials // of this process's to storage nodes
	Traces  credentials.TransportCredentials // of this process's to the collector of traces
	// DialRedis connects to Redis.
	DialRedis func(ctx context.Context, network, address string) (net.Conn, error)

	// Tokens verifies clients' tokens.
	Tokens *auth.Verifier
	// Audit is where operations of administrators are written, apart from the log.
	Audit *audit.Log

	watcher certs.Watcher
}

// Open reads the files that cfg names.
func Open(cfg *config.Config, events Events) (*Guard, error) {
	g := newGuard(events)
	if t := cfg.Server.TLS; t != nil {
		c, err := g.server("server.tls", certs.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.ClientCAFile, Names: t.ClientNames})
		if err != nil {
			return nil, err
		}
		g.Clients = c
	}
	if cfg.Storage.TLS != nil {
		c, err := g.client("storage.tls", cfg.Storage.TLS)
		if err != nil {
			return nil, err
		}
		g.Storage = c
	}
	if r := cfg.Idempotency.Redis; r != nil && r.TLS != nil {
		c, err := g.client("idempotency.tls", r.TLS)
		if err != nil {
			return nil, err
		}
		g.DialRedis = c.DialTLS
	}
	if t := cfg.Tracing; t != nil && !t.Insecure {
		c, err := g.client("tracing.tls", &t.TLS)
		if err != nil {
			return nil, err
		}
		g.Traces = c
	}
	if cfg.Auth != nil {
		v, err := watched(g, "auth.jwt", auth.New, verifierOptions(&cfg.Auth.JWT))
		if err != nil {
			return nil, err
		}
		g.Tokens = v
	}
	if cfg.Audit.File != "" {
		l, err := watched(g, "audit", audit.Open, cfg.Audit.File)
		if err != nil {
			return nil, err
		}
		g.Audit = l
	}
	return g, nil
}

// Close closes what is written to.
func (g *Guard) Close() error {
	if g.Audit == nil {
		return nil
	}
	return g.Audit.Close()
}

func verifierOptions(j *config.JWT) auth.Options {
	o := auth.Options{
		Issuer: j.Issuer, Audience: j.Audience, Leeway: j.Leeway, JWKSFile: j.JWKSFile,
		TenantClaim: j.TenantClaim, RolesClaim: j.RolesClaim,
	}
	for _, k := range j.Keys {
		o.Keys = append(o.Keys, auth.Key{ID: k.ID, Algorithm: k.Algorithm, File: k.File})
	}
	return o
}

// OpenStorage reads the files of a storage node; traces is nil where it is not
// traced.
func OpenStorage(files certs.Files, traces *config.Tracing, events Events) (*Guard, error) {
	g := newGuard(events)
	if traces != nil && !traces.Insecure {
		c, err := g.client("-trace-ca", &traces.TLS)
		if err != nil {
			return nil, err
		}
		g.Traces = c
	}
	if files.Cert == "" {
		return g, nil
	}
	c, err := g.server("-tls-cert, -tls-key, -tls-client-ca", files)
	if err != nil {
		return nil, err
	}
	g.Clients = c
	return g, nil
}

// Events are told what becomes of files that have changed. Nil ones are not.
type Events struct {
	Loaded func(what string)
	Failed func(what string, err error) // what they held before stays in use
}

func newGuard(e Events) *Guard {
	return &Guard{watcher: certs.Watcher{Loaded: e.Loaded, Failed: e.Failed}}
}

func (g *Guard) server(what string, files certs.Files) (*certs.Credentials, error) {
	return watched(g, what, certs.NewServer, files)
}

func (g *Guard) client(what string, t *config.ClientTLS) (*certs.Credentials, error) {
	return watched(g, what, certs.NewClient, certs.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.CAFile})
}

// watched opens something, and has it read again when its files change.
func watched[O any, R certs.Reloader](g *Guard, what string, open func(O) (R, error), options O) (R, error) {
	r, err := open(options)
	if err != nil {
		return r, fmt.Errorf("%s: %w", what, err)
	}
	g.watcher.Add(what, r)
	return r, nil
}

// Watch reads files again when they change, and all of them on SIGHUP, until
// ctx ends. The returned function waits for that.
func (g *Guard) Watch(ctx context.Context) (wait func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer signal.Stop(hangup)
		g.watcher.Run(ctx, hangup)
	}()
	return func() { <-done }
}
