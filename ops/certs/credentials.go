// Package certs is TLS with files that may change: certificates, keys and
// authorities are read again when they do, and connections that are open stay
// as they are.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// maxFileBytes bounds a PEM file.
const maxFileBytes = 1 << 20

// Files name the PEM files of one end of connections.
type Files struct {
	// Cert and Key are this process's own certificate, with the intermediate
	// ones behind it, and its key. A client may do without.
	Cert, Key string
	// CA holds the authorities whose certificates the other end may have. For a
	// client empty means those of the system; for a server, that clients need
	// no certificate.
	CA string
	// Names, for a server: a client's certificate must be for one of these DNS
	// names. Empty: any that CA has signed for clients will do.
	Names []string
}

// Credentials secure connections with what the files held when they were last
// read. They are safe for concurrent use.
type Credentials struct {
	files   Files
	server  bool
	current atomic.Pointer[loaded]
	// serverName is what a client expects of the other end in place of the
	// address's host; empty: the host.
	serverName string
}

var _ credentials.TransportCredentials = (*Credentials)(nil)

// loaded is what was read at one time.
type loaded struct {
	config    *tls.Config
	transport credentials.TransportCredentials
}

// NewServer reads the files of a server, which needs Cert and Key.
func NewServer(files Files) (*Credentials, error) {
	if files.Cert == "" || files.Key == "" {
		return nil, errors.New("a server needs a certificate and its key")
	}
	return open(files, true)
}

// NewClient reads the files of a client.
func NewClient(files Files) (*Credentials, error) { return open(files, false) }

func open(files Files, server bool) (*Credentials, error) {
	c := &Credentials{files: files, server: server}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Paths are the files that were read.
func (c *Credentials) Paths() []string {
	return slices.DeleteFunc([]string{c.files.Cert, c.files.Key, c.files.CA}, func(s string) bool { return s == "" })
}

// Reload reads the files again. Connections that begin from now on use what
// they hold; where any of them is at fault, what was read before stays in use.
func (c *Credentials) Reload() error {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.files.Cert != "" {
		pair, err := readPair(c.files.Cert, c.files.Key)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if c.files.CA != "" {
		pool, err := readPool(c.files.CA)
		if err != nil {
			return err
		}
		if c.server {
			config.ClientCAs, config.ClientAuth = pool, tls.RequireAndVerifyClientCert
		} else {
			config.RootCAs = pool
		}
	}
	if c.server && len(c.files.Names) > 0 {
		names := c.files.Names
		config.VerifyConnection = func(state tls.ConnectionState) error { return checkNames(state, names) }
	}
	transport := credentials.NewTLS(config)
	c.current.Store(&loaded{config, transport})
	return nil
}

func readPair(cert, key string) (tls.Certificate, error) {
	certPEM, err := readFile(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := readFile(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s with key %s: %w", cert, key, err)
	}
	return pair, nil
}

func readPool(path string) (*x509.CertPool, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes", path, maxFileBytes)
	}
	return os.ReadFile(path)
}

// checkNames runs on resumed connections, too: names may have changed since.
func checkNames(state tls.ConnectionState, names []string) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("no client certificate")
	}
	for _, name := range names {
		if state.PeerCertificates[0].VerifyHostname(name) == nil {
			return nil
		}
	}
	return fmt.Errorf("the client's certificate is for none of the names %q", names)
}

// ServerHandshake secures a connection that was accepted.
func (c *Credentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.current.Load().transport.ServerHandshake(conn)
}

// ClientHandshake secures a connection that was made to authority.
func (c *Credentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.serverName != "" {
		authority = c.serverName
	}
	return c.current.Load().transport.ClientHandshake(ctx, authority, conn)
}

// Info describes the protocol.
func (c *Credentials) Info() credentials.ProtocolInfo { return c.current.Load().transport.Info() }

// Clone returns credentials of the same files as they were last read. Nobody
// reloads them but the caller.
func (c *Credentials) Clone() credentials.TransportCredentials {
	clone := &Credentials{files: c.files, server: c.server, serverName: c.serverName}
	clone.current.Store(c.current.Load())
	return clone
}

// OverrideServerName sets what a client expects in place of the address's host.
func (c *Credentials) OverrideServerName(name string) error {
	c.serverName = name
	return nil
}

// DialTLS connects to address, HOST:PORT, and secures the connection, for
// clients that speak something other than gRPC.
func (c *Credentials) DialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialTimeout, KeepAlive: dialKeepAlive},
		Config:    c.current.Load().config,
	}
	return dialer.DialContext(ctx, network, address)
}

const (
	dialTimeout   = 5 * time.Second
	dialKeepAlive = 5 * time.Minute
)
