package health

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func get(t *testing.T, handler http.HandlerFunc) (int, readiness) {
	t.Helper()
	rec := httptest.NewRecorder()
	handler(rec, httptest.NewRequest("GET", "/", nil))
	var body readiness
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil {
		t.Fatalf("%v in %s", err, rec.Body)
	}
	if got := rec.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	return rec.Code, body
}

func TestReadyFromOpenedAndLoadedUntilDraining(t *testing.T) {
	h := New()
	expect := func(status int, state, reason string) {
		t.Helper()
		code, body := get(t, h.ServeReady)
		if code != status || body.Status != state || body.Reason != reason || body.Checks == nil {
			t.Errorf("got %d %+v, want %d %s %q", code, body, status, state, reason)
		}
		if code, body := get(t, h.ServeLive); code != 200 || body.Status != "alive" {
			t.Errorf("live: %d %+v", code, body)
		}
	}
	expect(503, "not_ready", "starting: the stores are not open yet")
	h.Opened()
	expect(503, "not_ready", "starting: the ring is not loaded yet")
	h.RingLoaded()
	expect(200, "ready", "")
	h.Draining()
	expect(503, "not_ready", "draining: the process is about to end")
}

func TestFailedDependencyShowsAndStaysReady(t *testing.T) {
	h := New()
	h.Opened()
	h.RingLoaded()
	h.Check("metadata", func(context.Context) error { return nil })
	h.Check("idempotency", func(context.Context) error { return errors.New("connection refused") })
	code, body := get(t, h.ServeReady)
	if code != 200 || len(body.Checks) != 2 {
		t.Fatalf("got %d %+v", code, body)
	}
	if c := body.Checks[0]; c.Name != "metadata" || c.State != "up" || c.Error != "" {
		t.Errorf("metadata: %+v", c)
	}
	if c := body.Checks[1]; c.Name != "idempotency" || c.State != "down" || c.Error != "connection refused" {
		t.Errorf("idempotency: %+v", c)
	}
}

func TestProbesRunAtOnceAndAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New()
		var probes atomic.Int32
		for _, name := range []string{"a", "b", "c"} {
			h.Check(name, func(context.Context) error {
				probes.Add(1)
				<-time.After(300 * time.Millisecond)
				return nil
			})
		}
		start := time.Now()
		_, body := get(t, h.ServeReady)
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if c := body.Checks[2]; c.State != "up" || c.LatencyMillis != 300 {
			t.Errorf("check: %+v", c)
		}
		get(t, h.ServeReady)
		if n := probes.Load(); n != 3 {
			t.Errorf("%d probes, want 3: the results are fresh", n)
		}
		<-time.After(keep)
		get(t, h.ServeReady)
		if n := probes.Load(); n != 6 {
			t.Errorf("%d probes, want 6", n)
		}
	})
}

func TestHangingProbeIsBoundedAndNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New()
		release := make(chan struct{})
		var probes atomic.Int32
		h.Check("stuck", func(context.Context) error { probes.Add(1); <-release; return nil })
		for range 3 {
			start := time.Now()
			_, body := get(t, h.ServeReady)
			if c := body.Checks[0]; c.State != "down" || c.Error != "no answer within 1s" {
				t.Errorf("check: %+v", c)
			}
			if took := time.Since(start); took > probeTimeout {
				t.Errorf("took %v", took)
			}
		}
		if n := probes.Load(); n != 1 {
			t.Errorf("%d probes under way, want 1", n)
		}
		close(release)
		synctest.Wait()
		if _, body := get(t, h.ServeReady); body.Checks[0].State != "up" {
			t.Errorf("check: %+v", body.Checks[0])
		}
	})
}

func TestProbesAreToldToStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New()
		h.Check("slow", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if _, body := get(t, h.ServeReady); body.Checks[0].State != "down" {
			t.Errorf("check: %+v", body.Checks[0])
		}
	})
}
