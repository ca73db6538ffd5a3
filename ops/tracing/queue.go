package tracing

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// batchSize is how many spans a message holds at most.
	batchSize = 512
	// batchDelay is how long a span waits for others to be sent with.
	batchDelay = 2 * time.Second
	// warnEvery is the time between two warnings.
	warnEvery = time.Hour
)

// Stats is what became of the spans of a process.
type Stats struct {
	Exported uint64 // the collector has accepted them
	Dropped  uint64 // too many waited already
	Failed   uint64 // the collector did not accept them
	Waiting  int64
}

// queue hands spans to the library's own queue, and counts, which that does not:
// it bounds the spans that wait by itself, so that the library never drops one.
type queue struct {
	sdktrace.SpanProcessor
	most int64
	warn func(string, error)

	waiting, warned           atomic.Int64
	exported, dropped, failed atomic.Uint64
}

func newQueue(exporter sdktrace.SpanExporter, o Options) *queue {
	q := &queue{most: int64(o.QueueSize), warn: o.Warn}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(&counted{exporter, q},
		sdktrace.WithMaxQueueSize(o.QueueSize), sdktrace.WithMaxExportBatchSize(min(batchSize, o.QueueSize)),
		sdktrace.WithBatchTimeout(batchDelay), sdktrace.WithExportTimeout(o.Timeout))
	return q
}

var errQueueFull = errors.New("too many wait to be sent")

// OnEnd takes a span that has ended. It never waits.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.most {
		q.waiting.Add(-1)
		q.dropped.Add(1)
		q.lost(errQueueFull)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// lost warns, but not for each span.
func (q *queue) lost(err error) {
	now := time.Now().UnixNano()
	last := q.warned.Load()
	if q.warn == nil || last != 0 && now-last < int64(warnEvery) || !q.warned.CompareAndSwap(last, now) {
		return
	}
	q.warn("spans are lost; the metrics count how many", err)
}

func (q *queue) stats() Stats {
	return Stats{Exported: q.exported.Load(), Dropped: q.dropped.Load(), Failed: q.failed.Load(), Waiting: q.waiting.Load()}
}

// counted is the exporter of a queue.
type counted struct {
	sdktrace.SpanExporter
	queue *queue
}

// ExportSpans sends spans. It keeps errors from the library, whose handler of
// them is global.
func (c *counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	n := len(spans)
	c.queue.waiting.Add(-int64(n))
	if err != nil {
		c.queue.failed.Add(uint64(n))
		c.queue.lost(err)
		return nil
	}
	c.queue.exported.Add(uint64(n))
	return nil
}
