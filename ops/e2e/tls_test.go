package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// makeCerts makes certificates as people do, and returns a function that names
// one of the files.
func makeCerts(t *testing.T) func(name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	if out, stderr, code := runCommand(t, nil, "certs", "-dev", dir); code != 0 || !strings.Contains(out, "ca.pem") {
		t.Fatalf("certs -dev: exit %d\n%s%s", code, out, stderr)
	}
	return func(name string) string { return filepath.Join(dir, name+".pem") }
}

func (p *process) logged(text string) func() error {
	return func() error {
		if !strings.Contains(p.output(), text) {
			return fmt.Errorf("the log does not hold %q:\n%s", text, p.output())
		}
		return nil
	}
}

// Clients, coordinator and storage nodes all want each other's certificates.
func TestMutualTLS(t *testing.T) {
	cert := makeCerts(t)
	identity := func(name string) []string {
		return []string{"-ca", cert("ca"), "-cert", cert(name), "-key", cert(name + "-key")}
	}
	served := filepath.Join(t.TempDir(), "served.pem")
	copyFile(t, cert("server"), served)
	c := startConfiguredAt(t, "coordinator-1", t.TempDir(), "127.0.0.1:0", fmt.Sprintf(`
storage {
  tls {
    ca_file   = %q
    cert_file = %q
    key_file  = %q
  }
}
`, cert("ca"), cert("coordinator"), cert("coordinator-key")), fmt.Sprintf(`
  tls {
    cert_file      = %q
    key_file       = %q
    client_ca_file = %q
  }
`, served, cert("server-key"), cert("ca")))
	var node *process
	for i := range 3 {
		node = startStorage(t, fmt.Sprintf("storage-%d", i+1), t.TempDir(), append([]string{
			"-sync=false", "-join", c.grpc,
			"-tls-cert", cert("storage"), "-tls-key", cert("storage-key"), "-tls-client-ca", cert("ca"),
		}, identity("storage")...)...)
	}
	client := func(args ...string) error {
		out, stderr, code := c.command(append(args, identity("client")...)...)
		if code != 0 {
			return fmt.Errorf("%v: exit %d: %s%s", args, code, out, stderr)
		}
		return nil
	}
	eventually(t, startTimeout, func() error { return client("tenant", "create", "default") })
	eventually(t, startTimeout, func() error { return client("put", "k", "v", "-consistency", "all") })

	if _, stderr, code := c.command("get", "k"); code != 1 {
		t.Errorf("a client in plain text: exit %d, %s", code, stderr)
	}
	// The server says why, but may have gone before the client has read it.
	refused := func(what, want string, command func() (string, string, int)) {
		t.Helper()
		eventually(t, startTimeout, func() error {
			_, stderr, code := command()
			if code != 1 {
				t.Fatalf("%s: exit %d, %s", what, code, stderr)
			}
			if !strings.Contains(stderr, want) {
				return fmt.Errorf("%s: %s, want %q", what, stderr, want)
			}
			return nil
		})
	}
	refused("a client without a certificate", "certificate required", func() (string, string, int) {
		return c.command("get", "k", "-ca", cert("ca"))
	})
	// A client's certificate opens no storage node. What it would answer to a
	// coordinator's is that it serves another API.
	for name, want := range map[string]string{"client": "bad certificate", "coordinator": "unknown service"} {
		refused("the certificate "+name+" at a storage node", want, func() (string, string, int) {
			return runCommand(t, nil, append([]string{"get", "k", "-addr", node.grpc}, identity(name)...)...)
		})
	}

	// A certificate that does not fit its key is not taken, one that does is.
	other := makeCerts(t)
	copyFile(t, other("server"), served)
	c.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, startTimeout, c.logged("files could not be read again"))
	if err := client("get", "k"); err != nil {
		t.Error(err)
	}
	copyFile(t, cert("server"), served)
	eventually(t, startTimeout, c.logged("files read again"))
	if err := client("get", "k"); err != nil {
		t.Error(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err := errors.Join(err, os.WriteFile(to+".new", text, 0o600), os.Rename(to+".new", to)); err != nil {
		t.Fatal(err)
	}
}
