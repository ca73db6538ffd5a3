// Package httpd serves everything that operators reach over HTTP: health,
// metrics, profiles, and a page that links to them.
package httpd

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// maxConnections bounds what health probes, scrapers and browsers can hold open.
	maxConnections = 256
	maxHeaderBytes = 16 << 10
)

// Options of a Server.
type Options struct {
	Title       string           // of the page at /
	Live, Ready http.HandlerFunc // at /health/live and /health/ready
	Metrics     http.Handler     // nil: none
	MetricsPath string           // as in "/metrics"
	PProf       bool             // serve /debug/pprof/
	Console     http.Handler     // at / and under /console/; nil: a page of links at /
	OnShutdown  func()           // called when Shutdown begins, to end streams; may be nil
	ErrorLog    *log.Logger      // nil: what the server itself complains of is dropped
}

// Server is an HTTP server. It is used once: Serve, then Shutdown.
type Server struct {
	http *http.Server
}

// New makes a server that does not listen yet.
func New(o Options) *Server {
	if o.ErrorLog == nil {
		o.ErrorLog = log.New(io.Discard, "", 0)
	}
	server := &http.Server{
		Handler:           newMux(o),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second, // profiles extend it by their length
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          o.ErrorLog,
	}
	if o.OnShutdown != nil {
		server.RegisterOnShutdown(o.OnShutdown)
	}
	return &Server{server}
}

func newMux(o Options) http.Handler {
	mux := http.NewServeMux()
	links := []string{"/health/live", "/health/ready"}
	mux.HandleFunc("GET /health/live", o.Live)
	mux.HandleFunc("GET /health/ready", o.Ready)
	if o.Metrics != nil {
		mux.Handle("GET "+o.MetricsPath, o.Metrics)
		links = append(links, o.MetricsPath)
	}
	if o.PProf {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		links = append(links, "/debug/pprof/")
	}
	if o.Console != nil {
		mux.Handle("/{$}", o.Console)
		mux.Handle("/console/", o.Console)
		return mux
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		// A browser that went away needs no page.
		_ = indexPage.Execute(w, struct {
			Title string
			Links []string
		}{o.Title, links})
	})
	return mux
}

var indexPage = template.Must(template.New("index").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem }</style>
<h1>{{.Title}}</h1>
<ul>
{{range .Links}}<li><a href="{{.}}">{{.}}</a></li>
{{end}}</ul>
</html>
`))

// Serve answers on l until Shutdown, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(netutil.LimitListener(l, maxConnections))
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown stops listening and waits for requests under way until ctx ends;
// then it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut HTTP down: %w", errors.Join(err, s.http.Close()))
	}
	return nil
}
