// Package metrics counts what the coordinator does, and writes the counts in
// the Prometheus text format.
//
// Observing is lock-free and allocates nothing once a label value is known;
// label values that come from outside are bounded in number, the rest counted
// under "other".
package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Page is a set of metric families. The zero Page is empty and ready. Its
// methods are safe for concurrent use.
type Page struct {
	mu       sync.Mutex
	families []family // by name
}

// family is the samples of one name, with the two lines above them.
type family struct {
	name, kind, help string
	write            func(*writer)
}

// add registers a family, in place of one of the same name.
func (p *Page) add(f family) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, found := slices.BinarySearchFunc(p.families, f.name, func(f family, name string) int {
		return strings.Compare(f.name, name)
	})
	if found {
		p.families[i] = f
		return
	}
	p.families = slices.Insert(p.families, i, f)
}

// Gauge adds a value that rises and falls. Read is called for each page, from
// any goroutine. It must be quick and may not use the Page.
func (p *Page) Gauge(name, help string, read func() float64) {
	p.add(family{name, "gauge", help, func(w *writer) { w.sample(name, "", read()) }})
}

// Counter adds a value that only rises; its name ends in _total. Read is
// called as for Gauge.
func (p *Page) Counter(name, help string, read func() uint64) {
	p.add(family{name, "counter", help, func(w *writer) { w.count(name, "", read()) }})
}

// Write appends the page in the Prometheus text format: families by name.
func (p *Page) Write(dst []byte) []byte {
	p.mu.Lock()
	families := slices.Clone(p.families)
	p.mu.Unlock()
	w := writer{buf: dst}
	for _, f := range families {
		start := len(w.buf)
		w.text("# HELP ", f.name, " ", f.help, "\n# TYPE ", f.name, " ", f.kind, "\n")
		head := len(w.buf)
		f.write(&w)
		if len(w.buf) == head { // a family without samples is not shown
			w.buf = w.buf[:start]
		}
	}
	return w.buf
}

// ServeHTTP answers with the page.
func (p *Page) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(p.Write(nil)) // a scraper that went away needs no answer
}

// writer is one page as it is written.
type writer struct {
	buf     []byte
	process map[string][]string // lines by family, once readProcess was called

	// What several families share, once it was asked for.
	stored       *Store
	dependencies []Dependency
}

func (w *writer) text(parts ...string) {
	for _, part := range parts {
		w.buf = append(w.buf, part...)
	}
}

// open writes a sample up to its value. Labels are as label makes them.
func (w *writer) open(name, labels string) {
	w.text(name)
	if labels != "" {
		w.text("{", labels, "}")
	}
	w.text(" ")
}

func (w *writer) sample(name, labels string, value float64) {
	w.open(name, labels)
	w.buf = strconv.AppendFloat(w.buf, value, 'g', -1, 64)
	w.text("\n")
}

func (w *writer) count(name, labels string, value uint64) {
	w.open(name, labels)
	w.buf = strconv.AppendUint(w.buf, value, 10)
	w.text("\n")
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// label writes NAME="VALUE".
func label(name, value string) string {
	return name + `="` + labelEscapes.Replace(strings.ToValidUTF8(value, "\uFFFD")) + `"`
}
