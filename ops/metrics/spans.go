package metrics

// Spans is what became of the spans of a process.
type Spans struct {
	Exported uint64
	Dropped  uint64 // too many waited already
	Failed   uint64 // the collector did not accept them
	Waiting  int64
}

// Spans adds what becomes of spans to the page; process is coordinator or
// storage. Read is called as for Gauge.
func (p *Page) Spans(process string, read func() Spans) {
	p.Counter(process+"_spans_exported_total", "Spans that the collector of traces has accepted.", func() uint64 { return read().Exported })
	dropped := process + "_spans_dropped_total"
	p.add(family{dropped, "counter", "Spans that were lost: too many waited, or the collector did not accept them.", func(w *writer) {
		s := read()
		w.count(dropped, label("reason", "queue_full"), s.Dropped)
		w.count(dropped, label("reason", "not_accepted"), s.Failed)
	}})
	p.Gauge(process+"_spans_waiting", "Spans that wait to be sent.", func() float64 { return float64(read().Waiting) })
}
