package cli

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pairdb/coordinator/ops/health"
)

// serveHealth serves what h says, as the ops port does.
func serveHealth(t *testing.T, h *health.Health) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/live", h.ServeLive)
	mux.HandleFunc("GET /health/ready", h.ServeReady)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestHealthTellsByItsExitCode(t *testing.T) {
	h := health.New()
	h.Check("metadata", func(context.Context) error { return errors.New("connection refused") })
	ops := serveHealth(t, h)
	expect := func(what string, code int, stdout, stderr string, args ...string) {
		t.Helper()
		o := run(t, "", "", append([]string{"health", "-ops", ops}, args...)...)
		if o.code != code || !strings.Contains(o.out, stdout) || !strings.Contains(o.stderr, stderr) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", what, o.code, o.out, o.stderr)
		}
	}
	expect("starting", ExitFailed, "", "error: not_ready: starting: the stores are not open yet")
	expect("starting, alive", ExitDone, "alive\n", "", "-live")
	h.Opened()
	h.RingLoaded()
	expect("ready", ExitDone, "ready\nmetadata down", "")
	if o := run(t, "", "", "health", "-quiet", "-ops", ops); o.code != ExitDone || o.out != "" {
		t.Errorf("quiet: exit %d, stdout %q", o.code, o.out)
	}
	h.Draining()
	expect("draining", ExitFailed, "", "error: not_ready: draining")
	expect("draining, alive", ExitDone, "alive\n", "", "-live")
}

func TestHealthOfWhatIsNoCoordinator(t *testing.T) {
	stranger := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(stranger.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, test := range []struct {
		ops, stderr string
		code        int
	}{
		{stranger.URL, "answered 404 Not Found, and not with the health", ExitFailed},
		{gone.URL, "connection refused", ExitFailed},
		{"localhost:9090", "is not a URL such as http://127.0.0.1:9090", ExitUsage},
	} {
		if o := run(t, "", "", "health", "-ops", test.ops); o.code != test.code || !strings.Contains(o.stderr, test.stderr) {
			t.Errorf("%s: exit %d, %q", test.ops, o.code, o.stderr)
		}
	}
}
