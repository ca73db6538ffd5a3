package coord_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

// outline is the steps of a trace without times, sorted where several happen at once.
func outline(t *testing.T, trace *coord.Trace) []string {
	t.Helper()
	steps, left, _ := trace.Steps()
	if left != 0 {
		t.Errorf("%d steps were left out", left)
	}
	var lines []string
	for _, s := range steps {
		line := strings.TrimSpace(fmt.Sprintf("%v %s %s", s.Kind, s.What, s.Node))
		switch {
		case s.Err != nil:
			line += " failed"
		case s.Kind == coord.TraceReply && !s.Held.Exists():
			line += " absent"
		case s.Kind == coord.TraceReply:
			line += " " + s.Relation.String()
		case s.Hedge:
			line += " hedge"
		}
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func count(lines []string, begin string) (n int) {
	for _, l := range lines {
		if strings.HasPrefix(l, begin) {
			n++
		}
	}
	return n
}

// unhedged counts lines without those of hedges, which a slow machine makes.
func unhedged(lines []string, prefix string) (n int) {
	for _, l := range lines {
		if strings.HasPrefix(l, prefix) && !strings.HasSuffix(l, "hedge") {
			n++
		}
	}
	return n
}

func TestTraceOfAWriteAndARead(t *testing.T) {
	c := newCluster(t, 3)
	engine := c.start(t, "coordinator-1", nil)
	trace := new(coord.Trace)
	if _, err := engine.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "cart", Value: []byte("v"), Level: coord.Quorum, IdempotencyKey: "k", Trace: trace}); err != nil {
		t.Fatal(err)
	}
	lines := outline(t, trace)
	answer := slices.Index(lines, "answer")
	if unhedged(lines, "send clocks") != 2 || count(lines, "reply clocks") < 2 || count(lines, "send send") != 3 || answer < 0 ||
		count(lines[:answer], "reply send") < 2 || count(lines, "claim reserve") != 1 || count(lines, "claimed mint") != 1 {
		t.Errorf("a keyed write:\n%s", strings.Join(lines, "\n"))
	}
	if mint, send := slices.Index(lines, "claimed mint"), slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "send send") }); mint > send {
		t.Errorf("sent before it was minted:\n%s", strings.Join(lines, "\n"))
	}
	if _, _, winner := trace.Steps(); !winner.Exists() || winner.Clock.Counter("coordinator-1") != 1 {
		t.Errorf("the version is %s", winner.String())
	}
	trace = new(coord.Trace)
	if _, err := engine.Read(t.Context(), coord.ReadRequest{Tenant: "shop", Key: "cart", Level: coord.Quorum, Trace: trace}); err != nil {
		t.Fatal(err)
	}
	lines = outline(t, trace)
	if unhedged(lines, "send read") != 2 || count(lines, "reply read") < 2 || count(lines, "answer") != 1 {
		t.Errorf("a read:\n%s", strings.Join(lines, "\n"))
	}
	steps, _, _ := trace.Steps()
	for i, s := range steps {
		if s.At < 0 || i > 0 && s.Kind == coord.TraceAnswer && s.At < steps[0].At {
			t.Errorf("step %d at %v", i, s.At)
		}
	}
}

// A node that is down is skipped and gets a hint; an outdated one is dominated
// and repaired.
func TestTraceWithANodeDownAndThenBehind(t *testing.T) {
	c := newCluster(t, 3)
	engine := c.start(t, "coordinator-1", nil)
	put(t, engine, "cart", "old", coord.All) // storage-2 is behind later, not without the key
	down := errors.New("cut off")
	c.nodes["storage-2"].down.Store(&down)
	trace := new(coord.Trace)
	if _, err := engine.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "cart", Value: []byte("new"), Level: coord.Quorum, Trace: trace}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the hint", func() bool { return count(outline(t, trace), "hint storage-2") == 1 })
	if lines := outline(t, trace); lines[0] != "skip storage-2 failed" || count(lines, "send send") != 2 {
		t.Errorf("a write with a node down:\n%s", strings.Join(lines, "\n"))
	}
	c.nodes["storage-2"].down.Store(nil)
	trace = new(coord.Trace)
	if _, err := engine.Read(t.Context(), coord.ReadRequest{Tenant: "shop", Key: "cart", Level: coord.All, Trace: trace}); err != nil {
		t.Fatal(err)
	}
	lines := outline(t, trace)
	if count(lines, "reply read storage-2 before") != 1 || count(lines, "send repair storage-2") != 1 {
		t.Errorf("a read that meets an outdated replica:\n%s", strings.Join(lines, "\n"))
	}
}

func TestTraceShowsHedges(t *testing.T) {
	c := newCluster(t, 3)
	engine := c.start(t, "coordinator-1", nil)
	if _, err := engine.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "cart", Value: []byte("v"), Level: coord.All}); err != nil {
		t.Fatal(err)
	}
	first, err := engine.Explain(t.Context(), "shop", "cart", coord.Quorum)
	if err != nil {
		t.Fatal(err)
	}
	slow := c.nodes[first.Replicas[0].Node.ID]
	slow.hold()
	defer slow.release()
	trace := new(coord.Trace)
	if _, err := engine.Read(t.Context(), coord.ReadRequest{Tenant: "shop", Key: "cart", Level: coord.Quorum, Trace: trace}); err != nil {
		t.Fatal(err)
	}
	if lines := outline(t, trace); count(lines, "send read "+first.Replicas[2].Node.ID+" hedge") != 1 {
		t.Errorf("a read of a silent replica:\n%s", strings.Join(lines, "\n"))
	}
}

func TestTraceIsBounded(t *testing.T) {
	c := newCluster(t, 3)
	engine := c.start(t, "coordinator-1", nil)
	trace := new(coord.Trace) // of many writes, which no caller does
	for range 40 {
		if _, err := engine.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "cart", Level: coord.One, Trace: trace}); err != nil {
			t.Fatal(err)
		}
	}
	if steps, left, _ := trace.Steps(); len(steps) != 128 || left == 0 {
		t.Errorf("%d steps and %d left out", len(steps), left)
	}
}

// Where an operation is a span of a trace, each of its calls carries one of its
// own to the replica, and who follows is told once all of them have ended.
func TestTraceNamesCallsAndTellsItsEnd(t *testing.T) {
	c := newCluster(t, 3)
	engine := c.start(t, "coordinator-1", nil)
	if _, err := engine.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "cart", Level: coord.All}); err != nil {
		t.Fatal(err)
	}
	explained, err := engine.Explain(t.Context(), "shop", "cart", coord.Quorum)
	if err != nil {
		t.Fatal(err)
	}
	slow := c.nodes[explained.Replicas[2].Node.ID]
	slow.hold()
	ended := make(chan *coord.Trace, 2)
	trace := &coord.Trace{Context: coord.TraceContext{High: 1, Low: 2, Span: 3}, Ended: func(t *coord.Trace) { ended <- t }}
	if _, err := engine.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "cart", Level: coord.Quorum, Trace: trace}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("told of the end while a replica has not answered")
	default:
	}
	slow.release()
	if got := <-ended; got != trace {
		t.Error("told of the end of another trace")
	}
	steps, _, _ := trace.Steps()
	spans := map[uint64]coord.TraceKind{}
	for _, s := range steps {
		switch _, known := spans[s.Span]; s.Kind {
		case coord.TraceSend:
			if s.Span == 0 || s.Span == 3 || known {
				t.Errorf("a call is span %d, taken %t", s.Span, known)
			}
		case coord.TraceReply:
			if !known {
				t.Errorf("span %d has ended and never begun", s.Span)
			}
		default:
			continue
		}
		spans[s.Span] = s.Kind
	}
	for id, kind := range spans {
		if kind != coord.TraceReply {
			t.Errorf("span %d has not ended", id)
		}
	}
	if len(spans) < 5 || trace.Began().IsZero() {
		t.Errorf("%d spans since %v", len(spans), trace.Began())
	}
	if len(ended) != 0 {
		t.Error("told of the end twice")
	}
}
