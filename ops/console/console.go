// Package console is the page that operators look at: the ring, the nodes, what
// is going on, and where a key lives. It is one page without external parts,
// which reads a stream of server-sent events from the process that serves it.
package console

import (
	"context"
	"embed"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/health"
	"github.com/pairdb/coordinator/ops/metrics"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const (
	// interval is the time between two events of a stream.
	interval = time.Second
	// maxStreams bounds the pages that are open at once.
	maxStreams = 32
	// writeTimeout is how long a browser may take to accept an event.
	writeTimeout = 5 * time.Second
	// keyTimeout bounds a look at a key.
	keyTimeout = 5 * time.Second
)

// ErrForbidden marks an Authorize error of somebody who is known but may not look.
var ErrForbidden = errors.New("forbidden")

// Engine is what the console shows of; *coord.Coordinator is one.
type Engine interface {
	Status(context.Context) coord.Status
	Counters() coord.Counters
	Explain(ctx context.Context, tenant, key string, level coord.Level) (coord.Explanation, error)
	Read(context.Context, coord.ReadRequest) (coord.ReadResult, error)
	Inspect(ctx context.Context, tenant, key string) ([]coord.Copy, error)
}

// Options say what the console shows beside the engine. All functions must be
// safe for concurrent use.
type Options struct {
	Version  string
	Metrics  *metrics.Set
	Health   *health.Health
	Requests *Requests // recent slow and failed ones; nil: none are shown
	// Migrations under way; nil where there can be none.
	Migrations func() []metrics.Migration

	// TraceMessage is what a trace has recorded, as clients get it.
	TraceMessage func(*coord.Trace) *pb.Trace

	// Authorize tells whether a request may see everything: it returns nil, an
	// error that wraps ErrForbidden, or another one, after which the page asks
	// for a token and sends it as "Authorization: Bearer TOKEN". Where it is nil
	// nobody needs a token, and then keys are shown only with ShowKeys.
	Authorize func(*http.Request) error
	ShowKeys  bool
}

// Console serves the page. It is made once, and closed before its server is
// shut down: streams would hold that up.
type Console struct {
	options Options
	mux     *http.ServeMux
	engine  atomic.Pointer[Engine] // nil until Attach
	ring    ringPicture
	streams chan struct{} // a place for each

	closing sync.Once
	closed  chan struct{}
}

// Attach begins to show an engine. Until then the page waits.
func (c *Console) Attach(e Engine) { c.engine.Store(&e) }

//go:embed page
var page embed.FS

// New makes a console.
func New(o Options) *Console {
	c := &Console{options: o, mux: http.NewServeMux(), streams: make(chan struct{}, maxStreams), closed: make(chan struct{})}
	c.mux.HandleFunc("GET /{$}", c.file("index.html", "text/html; charset=utf-8"))
	c.mux.HandleFunc("GET /console/app.js", c.file("app.js", "text/javascript; charset=utf-8"))
	c.mux.HandleFunc("GET /console/draw.js", c.file("draw.js", "text/javascript; charset=utf-8"))
	c.mux.HandleFunc("GET /console/style.css", c.file("style.css", "text/css; charset=utf-8"))
	c.mux.HandleFunc("GET /console/events", c.authorized(c.serveEvents))
	c.mux.HandleFunc("POST /console/key", c.authorized(c.serveKey))
	c.mux.HandleFunc("POST /console/trace", c.authorized(c.serveTrace))
	return c
}

// ServeHTTP serves / and what lies under /console/.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	c.mux.ServeHTTP(w, r)
}

// Close ends all streams. It does not wait for them.
func (c *Console) Close() { c.closing.Do(func() { close(c.closed) }) }

// file serves a part of the page, which tells nothing of the cluster.
func (c *Console) file(name, contentType string) http.HandlerFunc {
	text, err := page.ReadFile("page/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // a browser that went away needs no page
	}
}

// authorized serves only who may see what h shows, once there is an engine.
func (c *Console) authorized(h func(http.ResponseWriter, *http.Request, Engine)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if c.options.Authorize != nil {
			if err := c.options.Authorize(r); err != nil {
				status := http.StatusUnauthorized
				if errors.Is(err, ErrForbidden) {
					status = http.StatusForbidden
				} else {
					w.Header().Set("WWW-Authenticate", "Bearer")
				}
				refuse(w, status, err.Error())
				return
			}
		}
		// A page of another site whose name has come to lead here would be of
		// the same origin as this one.
		if c.options.Authorize == nil && c.options.ShowKeys && !cannotBeRebound(r.Host) {
			refuse(w, http.StatusForbidden, "without authentication this is shown at localhost or an IP address alone, not at a name")
			return
		}
		engine := c.engine.Load()
		if engine == nil {
			refuse(w, http.StatusServiceUnavailable, "starting")
			return
		}
		h(w, r, *engine)
	}
}

// cannotBeRebound tells whether nobody else can make a host's name lead here.
func cannotBeRebound(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = strings.Trim(hostPort, "[]")
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil
}

// showsKeys tells whether keys and values may leave the process.
func (c *Console) showsKeys() bool { return c.options.Authorize != nil || c.options.ShowKeys }
