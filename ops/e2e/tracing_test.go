package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// collector receives spans as a real one does.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	address string
	mu      sync.Mutex
	spans   []*span
}

// span is one that was received, and who has sent it.
type span struct {
	*tracepb.Span
	instance string
}

func attribute(list []*commonpb.KeyValue, key string) string {
	for _, a := range list {
		if a.Key == key {
			switch v := a.Value.GetValue().(type) {
			case *commonpb.AnyValue_StringValue:
				return v.StringValue
			case *commonpb.AnyValue_BoolValue:
				return fmt.Sprint(v.BoolValue)
			}
		}
	}
	return ""
}

func (s *span) attribute(key string) string { return attribute(s.Attributes, key) }

func startCollector(t *testing.T) *collector {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{address: lis.Addr().String()}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(lis) }() // until Stop
	t.Cleanup(server.Stop)
	return c
}

func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, &span{s, attribute(resource.Resource.Attributes, "service.instance.id")})
			}
		}
	}
	return new(collectorpb.ExportTraceServiceResponse), nil
}

// of are the spans of a trace that have come until now.
func (c *collector) of(trace string) (spans []*span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == trace {
			spans = append(spans, s)
		}
	}
	return spans
}

// children are the spans below one, those that match.
func children(spans []*span, parent []byte, match func(*span) bool) (found []*span) {
	for _, s := range spans {
		if string(s.ParentSpanId) == string(parent) && match(s) {
			found = append(found, s)
		}
	}
	return found
}

func named(name string) func(*span) bool { return func(s *span) bool { return s.Name == name } }

// tree waits until a trace has what check wants below the span of the RPC, whose
// parent is the client's.
func (c *collector) tree(t *testing.T, trace, rpc string, check func(spans []*span, rpc *span) error) {
	t.Helper()
	eventually(t, startTimeout, func() (err error) {
		spans := c.of(trace)
		clients, _ := hex.DecodeString(clientSpan)
		top := children(spans, clients, named(rpc))
		if len(top) == 1 {
			err = check(spans, top[0])
		} else {
			err = fmt.Errorf("%d spans of %s under the client's", len(top), rpc)
		}
		if err != nil {
			var lines []string
			for _, s := range spans {
				lines = append(lines, fmt.Sprintf("%s: %s %x under %x, %s", s.instance, s.Name, s.SpanId, s.ParentSpanId, s.attribute("pairdb.node.id")))
			}
			slices.Sort(lines)
			err = fmt.Errorf("%w, of\n%s", err, strings.Join(lines, "\n"))
		}
		return err
	})
}

const clientSpan = "00f067aa0ba902b7"

const service = "pairdb.coordinator.v1.CoordinatorService/"

// One trace goes from the client through the coordinator to storage nodes, each
// a process of its own.
func TestTracesGoThroughProcesses(t *testing.T) {
	collector := startCollector(t)
	c := startCluster(t, fmt.Sprintf(`
consistency {
  write_timeout = "1s"
  read_timeout  = "2s"
}
tracing {
  endpoint     = %q
  insecure     = true
  sample_ratio = 0
}`, collector.address), "-trace-endpoint", "http://"+collector.address)
	client := c.dial()
	traces := 0
	sampled := func() (ctx context.Context, trace string) {
		traces++
		trace = fmt.Sprintf("4bf92f3577b34da6a3ce929d%08x", traces)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		t.Cleanup(cancel)
		return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+trace+"-"+clientSpan+"-01"), trace
	}

	t.Run("write", func(t *testing.T) {
		ctx, trace := sampled()
		if _, err := client.WriteKeyValue(ctx, &pb.WriteKeyValueRequest{TenantId: "default", Key: "secret-cart", Value: []byte("v"), IdempotencyKey: "once"}); err != nil {
			t.Fatal(err)
		}
		collector.tree(t, trace, service+"WriteKeyValue", func(spans []*span, rpc *span) error {
			if rpc.attribute("pairdb.tenant.id") != "default" || rpc.attribute("rpc.method") == "" || rpc.instance != "coordinator-1" {
				return fmt.Errorf("the RPC's attributes are %v", rpc.Attributes)
			}
			nodes := map[string]bool{}
			for _, call := range children(spans, rpc.SpanId, named("replica send")) {
				for _, s := range children(spans, call.SpanId, named("storage apply")) {
					if s.instance == call.attribute("pairdb.node.id") {
						nodes[s.instance] = true
					}
				}
				if call.StartTimeUnixNano < rpc.StartTimeUnixNano || call.EndTimeUnixNano < call.StartTimeUnixNano {
					t.Errorf("a call from %d to %d in an RPC from %d", call.StartTimeUnixNano, call.EndTimeUnixNano, rpc.StartTimeUnixNano)
				}
			}
			clocks, claims := children(spans, rpc.SpanId, named("replica clocks")), children(spans, rpc.SpanId, named("claim mint"))
			if len(nodes) != 3 || len(clocks) < 2 || len(claims) != 1 {
				return fmt.Errorf("%d nodes have applied it below the coordinator's calls, %d were asked for clocks, %d mints", len(nodes), len(clocks), len(claims))
			}
			if text := fmt.Sprint(spans); strings.Contains(text, "secret-cart") {
				return fmt.Errorf("the key is in a span")
			}
			return nil
		})
	})

	t.Run("pipeline", func(t *testing.T) {
		_, trace := sampled()
		stream, err := client.Pipeline(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&pb.PipelineRequest{Operations: []*pb.PipelineOperation{{
			Id: 1, Kind: pb.PipelineOperation_KIND_READ, TenantId: "default", Key: "secret-cart", Traceparent: "00-" + trace + "-" + clientSpan + "-01", Trace: true,
		}}}); err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil || len(m.Answers) != 1 || len(m.Answers[0].Trace.GetSteps()) < 5 {
			t.Fatalf("answered %v, %v", m, err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		collector.tree(t, trace, "ReadKeyValue", func(spans []*span, op *span) error {
			calls := children(spans, op.SpanId, named("replica read"))
			if len(calls) < 2 || op.Kind != tracepb.Span_SPAN_KIND_SERVER {
				return fmt.Errorf("%d calls of a %v", len(calls), op.Kind)
			}
			return nil
		})
	})

	t.Run("hedged read", func(t *testing.T) {
		explained, err := client.Explain(t.Context(), &pb.ExplainRequest{TenantId: "default", Key: "secret-cart", Consistency: "quorum"})
		if err != nil {
			t.Fatal(err)
		}
		slow := explained.Replicas[0].NodeId
		process := c.storage[slow[len(slow)-1]-'1'].cmd.Process
		if err := process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer process.Signal(syscall.SIGCONT)
		ctx, trace := sampled()
		if _, err := client.ReadKeyValue(ctx, &pb.ReadKeyValueRequest{TenantId: "default", Key: "secret-cart", Consistency: "quorum"}); err != nil {
			t.Fatal(err)
		}
		collector.tree(t, trace, service+"ReadKeyValue", func(spans []*span, rpc *span) error {
			hedges := children(spans, rpc.SpanId, func(s *span) bool { return s.Name == "replica read" && s.attribute("pairdb.hedge") == "true" })
			stuck := children(spans, rpc.SpanId, func(s *span) bool {
				return s.Name == "replica read" && s.attribute("pairdb.node.id") == slow && s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR
			})
			if len(hedges) != 1 || len(stuck) != 1 {
				return fmt.Errorf("%d hedges, %d calls that %s did not answer", len(hedges), len(stuck), slow)
			}
			// The first call ended long after the answer: it is there all the same.
			if stuck[0].EndTimeUnixNano < rpc.EndTimeUnixNano {
				return fmt.Errorf("the call on %s ended before the answer", slow)
			}
			return nil
		})
	})

	t.Run("failed write", func(t *testing.T) {
		for _, p := range c.storage[1:] {
			p.kill()
		}
		ctx, trace := sampled()
		_, err := client.WriteKeyValue(ctx, &pb.WriteKeyValueRequest{TenantId: "default", Key: "secret-cart", Value: []byte("v"), Consistency: "quorum"})
		if reasonOf(err) != "QUORUM_NOT_REACHED" {
			t.Fatalf("the write: %v", err)
		}
		collector.tree(t, trace, service+"WriteKeyValue", func(spans []*span, rpc *span) error {
			if rpc.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || rpc.attribute("pairdb.error.reason") != "QUORUM_NOT_REACHED" {
				return fmt.Errorf("status %v, attributes %v", rpc.Status, rpc.Attributes)
			}
			skipped := children(spans, rpc.SpanId, named("replica skip"))
			failed := children(spans, rpc.SpanId, func(s *span) bool {
				return strings.HasPrefix(s.Name, "replica ") && s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR
			})
			if len(failed) < 2 {
				return fmt.Errorf("%d were skipped, %d failed", len(skipped), len(failed))
			}
			return nil
		})
	})

	// What was traced last is sent before the process ends; what was not sampled
	// never is.
	ctx, trace := sampled()
	if _, err := client.ReadKeyValue(ctx, &pb.ReadKeyValueRequest{TenantId: "default", Key: "secret-cart", Consistency: "one"}); err != nil {
		t.Fatal(err)
	}
	if code := c.terminate(); code != 0 {
		t.Errorf("exit code %d\n%s", code, c.output())
	}
	if len(collector.of(trace)) == 0 {
		t.Error("the last span is lost")
	}
	collector.mu.Lock()
	defer collector.mu.Unlock()
	for _, s := range collector.spans {
		if !strings.HasPrefix(hex.EncodeToString(s.TraceId), "4bf92f3577b34da6a3ce929d") {
			t.Errorf("%s of %s was not asked for", s.Name, s.instance)
		}
	}
}
