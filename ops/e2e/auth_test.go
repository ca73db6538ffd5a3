package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Tokens, limits and the audit log, as an operator meets them.
func TestTokens(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	const secret = "0123456789abcdef0123456789abcdef"
	token := func(key string, claims jwt.MapClaims) string {
		t.Helper()
		claims["exp"] = time.Now().Add(time.Hour).Unix()
		made := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
		made.Header["kid"] = "k"
		text, err := made.SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	admin := write("admin", token(secret, jwt.MapClaims{"sub": "root", "roles": "admin", "tenant_id": "*"}))
	shop := write("shop", token(secret, jwt.MapClaims{"sub": "shop", "tenant_id": "shop"}))
	key := write("key", secret)
	c := startConfigured(t, "coordinator-1", t.TempDir(), fmt.Sprintf(`
storage { embedded = 3 }
auth {
  jwt {
    key "k" {
      algorithm = "HS256"
      file      = %q
    }
  }
}
audit { file = %q }
`, key, at("audit.jsonl")))
	run := func(want int, contains string, args ...string) {
		t.Helper()
		out, stderr, code := c.command(args...)
		if code != want || !strings.Contains(out+stderr, contains) {
			t.Errorf("%v: exit %d, want %d with %q:\n%s%s", args, code, want, contains, out, stderr)
		}
	}
	run(0, "created", "tenant", "create", "shop", "-token-file", admin)
	run(0, "created", "tenant", "create", "other", "-token-file", admin)
	run(1, "unauthenticated", "put", "k", "v", "-tenant", "shop")
	run(1, "the token lacks the role admin", "tenant", "delete", "shop", "-token-file", shop)
	run(0, "", "put", "k", "v", "-tenant", "shop", "-token-file", shop)
	run(1, "forbidden", "put", "k", "v", "-tenant", "other", "-token-file", shop)
	run(1, "forbidden", "get", "k", "-tenant", "nobody", "-token-file", shop)

	run(0, "IN FORCE", "tenant", "set-limits", "shop", "-operations", "1", "-token-file", admin)
	run(0, "1", "tenant", "limits", "shop", "-token-file", admin, "-json")
	eventually(t, startTimeout, func() error {
		if _, stderr, code := c.command("get", "k", "-tenant", "shop", "-token-file", shop, "-timeout", "900ms"); code == 0 {
			return fmt.Errorf("not limited: %s", stderr)
		}
		return nil
	})
	run(0, "none", "tenant", "set-limits", "shop", "-operations", "none", "-token-file", admin)
	eventually(t, startTimeout, func() error {
		if _, stderr, code := c.command("get", "k", "-tenant", "shop", "-token-file", shop); code != 0 {
			return fmt.Errorf("limited: %s", stderr)
		}
		return nil
	})

	// The key is replaced: its tokens end, without a restart.
	const next = "fedcba9876543210fedcba9876543210"
	write("key", next)
	c.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, startTimeout, func() error {
		if _, stderr, _ := c.command("get", "k", "-tenant", "shop", "-token-file", shop); !strings.Contains(stderr, "unauthenticated") {
			return fmt.Errorf("the old token: %s", stderr)
		}
		return nil
	})
	run(0, "", "get", "k", "-tenant", "shop", "-token-file", write("new", token(next, jwt.MapClaims{"tenant_id": "shop"})))

	f, err := os.Open(at("audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		var e map[string]string
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil || e["time"] == "" || e["peer"] == "" || e["request_id"] == "" || e["key_id"] != "k" {
			t.Errorf("entry %s: %v", scan.Text(), err)
		}
		got = append(got, strings.Join([]string{e["subject"], e["operation"], e["target"], e["outcome"]}, " "))
	}
	want := []string{
		"root CreateTenant shop ok", "root CreateTenant other ok", "shop DeleteTenant shop FORBIDDEN",
		"root SetTenantLimits shop ok", "root SetTenantLimits shop ok",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if log := c.output(); strings.Contains(log, secret) || strings.Contains(log, "eyJ") {
		t.Errorf("the log holds a secret:\n%s", log)
	}
}
