package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TLS is a server's certificate, its key, and the authority whose certificates
// its clients must have, in PEM.
type TLS struct{ Cert, Key, CA []byte }

// StartTLS starts a server that is the test's own and removed when it ends. User
// gets in over TLS alone, with the password and a certificate whose common name
// is User.
func StartTLS(tb testing.TB, tls TLS) *Server {
	tb.Helper()
	s := createWith(tb, &tls)
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// ReplaceTLS gives the server other certificates for connections that begin
// from now on.
func (s *Server) ReplaceTLS(tb testing.TB, tls TLS) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tls == nil || s.process == nil {
		tb.Fatal("replace the certificates of postgres: it runs without TLS, or not at all")
	}
	s.tls = &tls
	if err := errors.Join(s.writeTLS(), syscall.Kill(s.process.pid, syscall.SIGHUP)); err != nil {
		tb.Fatalf("replace the certificates of postgres: %v", err)
	}
}

func (s *Server) tlsFile(name string) string { return filepath.Join(s.dir, name+".pem") }

// writeTLS writes the files that the server reads, which must be its own.
func (s *Server) writeTLS() error {
	for name, text := range map[string][]byte{"cert": s.tls.Cert, "key": s.tls.Key, "ca": s.tls.CA} {
		file := s.tlsFile(name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return err
		}
		if s.credential != nil {
			if err := os.Chown(file, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) admitOnlyTLS() error {
	rules := fmt.Sprintf("hostnossl all %s 127.0.0.1/32 scram-sha-256\n"+
		"hostssl all %s 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n", admin, User)
	return os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(rules), 0o600)
}
