package httpd

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pairdb/coordinator/ops/health"
	"github.com/pairdb/coordinator/ops/metrics"
)

// start serves until the test ends, and returns the base URL.
func start(t *testing.T, o Options) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if o.Live == nil {
		h := health.New()
		o.Live, o.Ready = h.ServeLive, h.ServeReady
	}
	s := New(o)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(t)
	})
	return "http://" + l.Addr().String()
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestRoutes(t *testing.T) {
	base := start(t, Options{Title: "coordinator-1 <dev>", Metrics: &metrics.New("1", "c").Page, MetricsPath: "/m"})
	for _, test := range []struct {
		path   string
		status int
		holds  string
	}{
		{"/health/live", 200, `"alive"`},
		{"/health/ready", 503, `"not_ready"`},
		{"/m", 200, "coordinator_requests_total"},
		{"/", 200, `<h1>coordinator-1 &lt;dev&gt;</h1>`},
		{"/", 200, `<a href="/m">`},
		{"/metrics", 404, ""},
		{"/debug/pprof/", 404, ""},
		{"/health", 404, ""},
	} {
		status, body := get(t, base+test.path)
		if status != test.status || !strings.Contains(body, test.holds) {
			t.Errorf("%s: %d %.200s, want %d with %s", test.path, status, body, test.status, test.holds)
		}
	}
	resp, err := http.Post(base+"/health/live", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestProfilesAndNoMetrics(t *testing.T) {
	base := start(t, Options{PProf: true, MetricsPath: "/metrics"})
	if status, body := get(t, base+"/debug/pprof/"); status != 200 || !strings.Contains(body, "goroutine") {
		t.Errorf("pprof: %d %.200s", status, body)
	}
	if status, _ := get(t, base+"/metrics"); status != 404 {
		t.Errorf("metrics: %d, want 404 where they are off", status)
	}
	if status, body := get(t, base+"/"); status != 200 || strings.Contains(body, "/metrics") {
		t.Errorf("index: %d %s", status, body)
	}
}

func TestShutdownWaitsForRequestsAndThenCuts(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "done")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Live: slow, Ready: slow})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	answers := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String() + "/health/live")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		answers <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err == nil {
		t.Error("a request is under way: the shutdown cannot have been clean")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	close(release)
	if err := <-answers; err == nil {
		t.Error("the request was not cut off")
	}
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t)
}
