package tracing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	grpccodes "google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const client = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"

// An operation joins the trace that its client names, does what that says about
// sampling, and else follows the ratio.
func TestOperationsAreSampled(t *testing.T) {
	c := startCollector(t)
	all, none := openAt(t, c.address, nil), openAt(t, c.address, func(o *Options) { o.SampleRatio = 0 })
	defer closed(t, none)
	stream := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
	}))
	for name, o := range map[string]struct {
		tracing *Tracing
		ctx     context.Context
		parent  string
		want    bool
	}{
		"by ratio":             {all, t.Context(), "", true},
		"by ratio, none":       {none, t.Context(), "", false},
		"sampled by client":    {none, t.Context(), client + "1", true},
		"not sampled":          {all, t.Context(), client + "0", false},
		"nonsense is no trace": {none, t.Context(), "nonsense", false},
		// Its span is no parent of all that the stream carries.
		"on a sampled stream": {none, stream, "", false},
	} {
		got, end := o.tracing.Operation(o.ctx, o.parent, "WriteKeyValue", "shop", "cart", coord.Quorum)
		if (got != nil) != o.want || (end != nil) != o.want {
			t.Errorf("%s: recorded %t, want %t", name, got != nil, o.want)
		}
		if end != nil {
			end(grpccodes.Unavailable, "QUORUM_NOT_REACHED")
		}
		if o.parent == client+"1" && got.Context.High != 0x4bf92f3577b34da6 {
			t.Errorf("%s: trace %x", name, got.Context)
		}
	}
	closed(t, all)
	if spans := c.received(); len(spans) != 1 || spans[0].Name != "WriteKeyValue" || spans[0].Status.GetMessage() != "QUORUM_NOT_REACHED" {
		t.Errorf("received %v", spans)
	}
}

// Nobody sees a key unless it was asked for.
func TestKeysStayOut(t *testing.T) {
	for _, keys := range []bool{false, true} {
		c := startCollector(t)
		tracing := openAt(t, c.address, func(o *Options) { o.Keys, o.Headers = keys, map[string]string{"x-api-key": "swordfish"} })
		_, end := tracing.Operation(t.Context(), "", "ReadKeyValue", "shop", "cart-of-alice", coord.One)
		end(grpccodes.OK, "")
		closed(t, tracing)
		spans := c.received()
		if text := fmt.Sprint(spans); len(spans) != 1 || !strings.Contains(text, "shop") || strings.Contains(text, "alice") != keys {
			t.Errorf("with keys %t: %s", keys, text)
		}
		if got := c.headers.Get("x-api-key"); len(got) != 1 || got[0] != "swordfish" {
			t.Errorf("header %v", got)
		}
		if s := tracing.Stats(); s != (Stats{Exported: 1}) {
			t.Errorf("stats %+v", s)
		}
	}
}

// A collector that is away or takes nothing costs nobody time or memory: what is
// beyond the queue is dropped, counted, and warned of once.
func TestCollectorIsAwayOrStuck(t *testing.T) {
	stuck := startCollector(t)
	stuck.block = make(chan struct{})
	defer close(stuck.block)
	for name, address := range map[string]string{"away": "127.0.0.1:1", "stuck": stuck.address} {
		t.Run(name, func(t *testing.T) {
			var warnings atomic.Int32
			tracing := openAt(t, address, func(o *Options) {
				o.QueueSize, o.Timeout = 10, 100*time.Millisecond
				o.Warn = func(string, error) { warnings.Add(1) }
			})
			began := time.Now()
			const spans = 1000
			for range spans {
				_, end := tracing.Operation(t.Context(), "", "ReadKeyValue", "shop", "cart", coord.One)
				end(grpccodes.OK, "")
				if s := tracing.Stats(); s.Waiting > 10 {
					t.Fatalf("%d spans wait", s.Waiting)
				}
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("%d spans took %v", spans, took)
			}
			closed(t, tracing)
			s := tracing.Stats()
			if s.Exported != 0 || s.Dropped+s.Failed != spans || s.Failed == 0 || s.Waiting != 0 {
				t.Errorf("stats %+v", s)
			}
			if n := warnings.Load(); n != 1 {
				t.Errorf("%d warnings", n)
			}
		})
	}
}

// Close ends when its context does, whatever the collector does.
func TestCloseDoesNotWaitLonger(t *testing.T) {
	c := startCollector(t)
	c.block = make(chan struct{})
	tracing := openAt(t, c.address, func(o *Options) { o.Timeout = time.Minute })
	_, end := tracing.Operation(t.Context(), "", "ReadKeyValue", "shop", "cart", coord.One)
	end(grpccodes.OK, "")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := tracing.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closed with %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	close(c.block)
	deadline := time.Now().Add(10 * time.Second)
	for tracing.Stats().Waiting > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
}
