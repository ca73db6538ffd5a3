// Package health tells orchestrators and operators whether the process lives,
// whether it should be sent requests, and how its dependencies are.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// probeTimeout bounds one probe of a dependency.
	probeTimeout = time.Second
	// keep is how long a probe's result stands: however often the endpoint is
	// asked, a dependency is not asked more often than this.
	keep = time.Second
)

// Health is what is known of this process. Its methods are safe for concurrent
// use. The process is ready once Opened and RingLoaded were called and until
// Draining is; how its dependencies are then does not matter to that, since
// what does not need a failed one is still served.
type Health struct {
	mu         sync.Mutex
	opened     bool
	ringLoaded bool
	draining   bool
	checks     []*check
	now        func() time.Time
}

// New returns the health of a process that is starting and has no checks.
func New() *Health { return &Health{now: time.Now} }

// Check adds a dependency. Probe returns nil where the dependency works; its
// context ends after a second. It is called from its own goroutine, never
// twice at once.
func (h *Health) Check(name string, probe func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, &check{name: name, probe: probe, now: h.now})
}

// Opened says that all stores have been opened.
func (h *Health) Opened() { h.set(&h.opened) }

// RingLoaded says that the ring of storage nodes is known.
func (h *Health) RingLoaded() { h.set(&h.ringLoaded) }

// Draining says that the process is about to end. There is no way back.
func (h *Health) Draining() { h.set(&h.draining) }

func (h *Health) set(what *bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*what = true
}

// Ready tells whether requests should be sent here, and if not, why.
func (h *Health) Ready() (ready bool, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.draining:
		return false, "draining: the process is about to end"
	case !h.opened:
		return false, "starting: the stores are not open yet"
	case !h.ringLoaded:
		return false, "starting: the ring is not loaded yet"
	}
	return true, ""
}

// ServeLive answers that the process lives: it could answer.
func (h *Health) ServeLive(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"alive"})
}

// readiness is the answer of ServeReady.
type readiness struct {
	Status string       `json:"status"` // ready or not_ready
	Reason string       `json:"reason,omitempty"`
	Checks []Dependency `json:"checks"`
}

// Dependency is how a dependency was when last probed.
type Dependency struct {
	Name          string  `json:"name"`
	State         string  `json:"state"` // up or down
	LatencyMillis float64 `json:"latency_ms"`
	Error         string  `json:"error,omitempty"`
}

// ServeReady answers 200 when ready and 503, with the reason, when not; in both
// cases with the state of each dependency.
func (h *Health) ServeReady(w http.ResponseWriter, _ *http.Request) {
	body := readiness{Status: "ready", Checks: h.Dependencies()}
	status := http.StatusOK
	if ready, reason := h.Ready(); !ready {
		status, body.Status, body.Reason = http.StatusServiceUnavailable, "not_ready", reason
	}
	answer(w, status, body)
}

// Dependencies tells how each dependency is, in the order in which they were
// added. It takes a second at most: what was asked lately is not asked again.
func (h *Health) Dependencies() []Dependency {
	h.mu.Lock()
	checks := h.checks[:len(h.checks):len(h.checks)]
	h.mu.Unlock()
	all := make([]Dependency, len(checks))
	var probes sync.WaitGroup
	for i, c := range checks {
		probes.Go(func() { all[i] = c.result() })
	}
	probes.Wait()
	return all
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a prober that went away needs no answer
}

// check is a dependency and its latest result.
type check struct {
	name  string
	probe func(context.Context) error
	now   func() time.Time

	mu      sync.Mutex
	latest  Dependency
	at      time.Time     // when latest came; zero before the first
	running chan struct{} // closed when the probe under way ends; nil without one
	since   time.Time     // when the probe under way began
}

// result returns the latest result where it is fresh, else that of a new
// probe. A probe that does not answer in time counts as down, and no other one
// is started until it has ended, so that a dependency that hangs holds one
// goroutine and not one a request.
func (c *check) result() Dependency {
	c.mu.Lock()
	if c.running == nil {
		if !c.at.IsZero() && c.now().Sub(c.at) < keep {
			defer c.mu.Unlock()
			return c.latest
		}
		c.running, c.since = make(chan struct{}), c.now()
		go c.run(c.running, c.since)
	}
	running, since := c.running, c.since
	c.mu.Unlock()

	timer := time.NewTimer(max(probeTimeout-c.now().Sub(since), 0))
	defer timer.Stop()
	select {
	case <-running:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.latest
	case <-timer.C:
		return Dependency{Name: c.name, State: "down", LatencyMillis: millis(c.now().Sub(since)),
			Error: fmt.Sprintf("no answer within %v", probeTimeout)}
	}
}

func (c *check) run(done chan struct{}, since time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	err := c.probe(ctx)
	r := Dependency{Name: c.name, State: "up", LatencyMillis: millis(c.now().Sub(since))}
	if err != nil {
		r.State, r.Error = "down", err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest, c.at, c.running = r, c.now(), nil
	close(done)
}

// millis is d in milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
