// Package tracing records requests as OpenTelemetry spans and sends them to a
// collector: each RPC, each operation of the RPCs that carry many, each call on
// a storage node, and what the node did for it. It sets nothing global.
//
// Spans hold the tenant, but not the key unless they are told to: keys name
// people and things, and a trace is read by more people, kept longer and in
// other places than the data, where no deletion of a key reaches it. Values are
// never in them.
package tracing

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
)

// Options say where spans go and which are made.
type Options struct {
	Service  string // the name of the service, unless OTEL_SERVICE_NAME is set
	Instance string // the node's id
	Version  string // of the software

	// Endpoint is the HOST:PORT of a collector that takes OTLP over gRPC.
	Endpoint string
	// TLS secures the connection to it; nil speaks plain text.
	TLS credentials.TransportCredentials
	// Headers go with each message. Where there are none, those of the
	// environment do: OTEL_EXPORTER_OTLP_HEADERS.
	Headers map[string]string
	// Timeout is how long the collector may take to accept a message.
	Timeout time.Duration
	// QueueSize bounds the spans that wait for the collector. Those beyond are
	// dropped.
	QueueSize int

	// SampleRatio is the part of the requests that is recorded, of those that
	// come without a trace context. The others are where theirs says so.
	SampleRatio float64
	// Keys puts the keys of requests into their spans.
	Keys bool

	// Warn is told that spans were lost, once for a long time. May be nil.
	Warn func(message string, err error)
}

// Tracing makes spans and sends them, both in the background of requests. Its
// methods are safe for concurrent use.
type Tracing struct {
	options Options
	queue   *queue
	rpcs    *sdktrace.TracerProvider // decides about each RPC
	tracer  trace.Tracer             // makes spans that were decided about before
}

// scope names what makes the spans.
const scope = "github.com/pairdb/coordinator/ops/tracing"

// Open begins to make spans. It does not wait for the collector, which may be
// away.
func Open(o Options) (*Tracing, error) {
	settings := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(o.Endpoint), otlptracegrpc.WithTimeout(o.Timeout)}
	if o.TLS == nil {
		settings = append(settings, otlptracegrpc.WithInsecure())
	} else {
		settings = append(settings, otlptracegrpc.WithTLSCredentials(o.TLS))
	}
	if len(o.Headers) > 0 {
		settings = append(settings, otlptracegrpc.WithHeaders(o.Headers))
	}
	ctx := context.Background() // nothing waits
	exporter, err := otlptracegrpc.New(ctx, settings...)
	if err != nil {
		return nil, fmt.Errorf("open the OTLP exporter to %s: %w", o.Endpoint, err)
	}
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithSchemaURL(semconv.SchemaURL),
		resource.WithAttributes(semconv.ServiceName(o.Service), semconv.ServiceInstanceID(o.Instance), semconv.ServiceVersion(o.Version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe this process in traces (OTEL_RESOURCE_ATTRIBUTES): %w", err)
	}
	return open(o, exporter, about), nil
}

func open(o Options, exporter sdktrace.SpanExporter, about *resource.Resource) *Tracing {
	t := &Tracing{options: o, queue: newQueue(exporter, o)}
	provider := func(s sdktrace.Sampler) *sdktrace.TracerProvider {
		return sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithSampler(s),
			sdktrace.WithIDGenerator(ids{}), sdktrace.WithSpanProcessor(t.queue))
	}
	t.rpcs = provider(sdktrace.ParentBased(&requests{sdktrace.TraceIDRatioBased(o.SampleRatio)}))
	t.tracer = provider(sdktrace.AlwaysSample()).Tracer(scope, trace.WithInstrumentationVersion(o.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return t
}

// Close sends the spans that wait, for as long as ctx allows, and ends.
func (t *Tracing) Close(ctx context.Context) error {
	if err := t.rpcs.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

// Stats tells what became of the spans.
func (t *Tracing) Stats() Stats { return t.queue.stats() }

// Handler is told of the RPCs that a server serves.
func (t *Tracing) Handler() stats.Handler { return otelgrpc.NewServerHandler(t.settings()...) }

// ClientHandler is told of the RPCs that this process sends. They join a trace,
// and begin none.
func (t *Tracing) ClientHandler() stats.Handler { return otelgrpc.NewClientHandler(t.settings()...) }

func (t *Tracing) settings() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.rpcs),
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return isRequest(info.FullMethodName) }),
	}
}
