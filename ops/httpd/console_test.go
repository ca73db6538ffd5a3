package httpd

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// A console has / and /console/ to itself, and its streams outlive the limits
// of other requests, but not the server.
func TestConsoleIsServedAndItsStreamsEnd(t *testing.T) {
	closed := make(chan struct{})
	console := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.URL.Path+"\n")
		if r.URL.Path == "/console/events" {
			_ = http.NewResponseController(w).Flush()
			<-closed
		}
	})
	base := start(t, Options{Title: "unused", Console: console, OnShutdown: sync.OnceFunc(func() { close(closed) })})
	for path, want := range map[string]string{"/": "GET /\n", "/console/app.js": "GET /console/app.js\n", "/health/live": `"alive"`} {
		if status, body := get(t, base+path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if status, _ := get(t, base+"/other"); status != http.StatusNotFound {
		t.Errorf("/other: %d", status)
	}
	// Left open: the shutdown at the end of the test must end it, in good order.
	response, err := http.Get(base + "/console/events")
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil || line != "GET /console/events\n" {
		t.Errorf("%q, %v", line, err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}()
	_, body := get(t, base+"/health/ready")
	if !strings.Contains(body, "not_ready") {
		t.Errorf("beside an open stream: %s", body)
	}
}
