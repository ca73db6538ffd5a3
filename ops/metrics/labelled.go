package metrics

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// other stands for the label values beyond a bound.
const other = "other"

// labelled holds one T for each value of a label, at most limit and one for
// other. Looking up takes no lock; adding copies the map, which is rare.
type labelled[T any] struct {
	limit int
	known atomic.Pointer[map[string]*T]
	mu    sync.Mutex // for adding
}

func newLabelled[T any](limit int, values ...string) *labelled[T] {
	l := &labelled[T]{limit: limit}
	known := make(map[string]*T, len(values))
	for _, v := range values {
		known[v] = new(T)
	}
	l.known.Store(&known)
	return l
}

func (l *labelled[T]) get(value string) *T {
	known := *l.known.Load()
	if t, ok := known[value]; ok {
		return t
	}
	if len(known) >= l.limit {
		if t, ok := known[other]; ok {
			return t
		}
	}
	return l.add(value)
}

func (l *labelled[T]) add(value string) *T {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := *l.known.Load()
	if len(known) >= l.limit {
		value = other
	}
	if t, ok := known[value]; ok {
		return t
	}
	grown := maps.Clone(known)
	t := new(T)
	grown[value] = t
	l.known.Store(&grown)
	return t
}

// each calls f with every label value, in order.
func (l *labelled[T]) each(f func(value string, t *T)) {
	known := *l.known.Load()
	for _, value := range slices.Sorted(maps.Keys(known)) {
		f(value, known[value])
	}
}

// counters adds a family of counters with one label.
func (p *Page) counters(name, help, labelName string, l *labelled[metrics.Counter]) {
	p.add(family{name, "counter", help, func(w *writer) {
		l.each(func(value string, c *metrics.Counter) { w.count(name, label(labelName, value), c.Get()) })
	}})
}

// counter adds one counter without labels.
func (p *Page) counter(name, help string) *metrics.Counter {
	c := new(metrics.Counter)
	p.Counter(name, help, c.Get)
	return c
}
