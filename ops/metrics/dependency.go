package metrics

// Dependency is what a process needs, as it was when last asked.
type Dependency struct {
	Name    string
	Up      bool
	Seconds float64 // until it answered, or was given up
}

// Health puts readiness and dependencies on the page; what begins the names of
// the metrics. Both functions are called for each page, from any goroutine; the
// second may take a moment.
func (p *Page) Health(what string, ready func() bool, dependencies func() []Dependency) {
	p.Gauge(what+"_ready", "1 while requests should be sent here, else 0.", func() float64 { return oneIf(ready()) })
	each := func(name, help string, of func(Dependency) float64) {
		p.add(family{name, "gauge", help, func(w *writer) {
			for _, d := range w.dependenciesOnce(dependencies) {
				w.sample(name, label("dependency", d.Name), of(d))
			}
		}})
	}
	each(what+"_dependency_up", "1 while a dependency answers, else 0.", func(d Dependency) float64 { return oneIf(d.Up) })
	each(what+"_dependency_latency_seconds", "How long a dependency took to answer when last asked.",
		func(d Dependency) float64 { return d.Seconds })
}

// dependenciesOnce asks once for a page.
func (w *writer) dependenciesOnce(ask func() []Dependency) []Dependency {
	if w.dependencies == nil {
		w.dependencies = ask()
	}
	return w.dependencies
}
