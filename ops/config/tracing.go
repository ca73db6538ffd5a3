package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Tracing is where spans of requests go, and of how many.
type Tracing struct {
	Endpoint    string // HOST:PORT
	Insecure    bool   // plain text
	TLS         ClientTLS
	Headers     map[string]Secret // none: those of the environment count
	SampleRatio float64           // 0 to 1
	RecordKeys  bool
	QueueSize   int // spans
	Timeout     time.Duration
}

// DefaultTracing is a Tracing where nothing else is said.
func DefaultTracing() *Tracing {
	return &Tracing{Endpoint: "localhost:4317", SampleRatio: 0.01, QueueSize: 4096, Timeout: 10 * time.Second}
}

func (d *decoder) tracing(c *Config, blocks []tracingBlock) {
	each(d, "tracing", blocks, func(t *tracingBlock) hcl.Range { return t.Range }, func(b block, t *tracingBlock) {
		to := DefaultTracing()
		c.Tracing = to
		b.text(&to.Endpoint, t.Endpoint, checkAddress)
		b.boolean(&to.Insecure, t.Insecure)
		b.secrets(&to.Headers, t.Headers)
		b.fraction(&to.SampleRatio, t.SampleRatio)
		b.boolean(&to.RecordKeys, t.RecordKeys)
		b.integer(&to.QueueSize, t.QueueSize, 1, 1_000_000)
		b.duration(&to.Timeout, t.Timeout, minTimeout, maxTimeout)
		var tls *ClientTLS
		d.clientTLS(&tls, "tracing.tls", t.TLS)
		if tls == nil {
			return
		}
		to.TLS = *tls
		if to.Insecure {
			b.report(t.TLS[0].Range, "TLS of a plain text connection", "tracing.insecure is true; remove it, or tracing.tls.")
		}
	})
}

// fraction takes a number from 0 to 1.
func (b block) fraction(dst *float64, attr *hcl.Attribute) {
	v, ok := b.constant(attr, cty.Number, "a number from 0 to 1")
	if !ok {
		return
	}
	f, _ := v.AsBigFloat().Float64()
	if f < 0 || f > 1 {
		b.report(attr.Expr.Range(), capital(words(attr.Name))+" must be between 0 and 1",
			fmt.Sprintf("%s is %s.", b.name(attr), v.AsBigFloat().Text('g', -1)))
		return
	}
	*dst = f
}

// headerName is what a gRPC header may be called; grpc- is the protocol's own.
var headerName = regexp.MustCompile(`^[0-9a-z_.-]+$`)

// secrets takes an object of strings, none of which is ever shown.
func (b block) secrets(dst *map[string]Secret, attr *hcl.Attribute) {
	if attr == nil {
		return
	}
	v, diags := attr.Expr.Value(nil)
	if diags.HasErrors() {
		b.add(diags)
		return
	}
	if v.IsNull() {
		return
	}
	if !v.Type().IsObjectType() {
		b.report(attr.Expr.Range(), "Wrong type", b.name(attr)+` must be headers by name, as in { "x-api-key" = "SECRET" }.`)
		return
	}
	all := map[string]Secret{}
	for it := v.ElementIterator(); it.Next(); {
		name, value := it.Element()
		switch {
		case !headerName.MatchString(name.AsString()) || strings.HasPrefix(name.AsString(), "grpc-"):
			b.report(attr.Expr.Range(), "Invalid header name", fmt.Sprintf("%s holds %q, want lower-case letters, digits and any of _.-, not beginning with grpc-.", b.name(attr), name.AsString()))
			return
		case value.IsNull() || value.Type() != cty.String:
			b.report(attr.Expr.Range(), "Wrong type", fmt.Sprintf("%s holds %q, which must be a string.", b.name(attr), name.AsString()))
			return
		}
		all[name.AsString()] = NewSecret(value.AsString())
	}
	*dst = all
}

// Variables of the environment that OpenTelemetry defines and that count here.
const (
	TracingEndpointVariable = "OTEL_EXPORTER_OTLP_ENDPOINT"
	TracingHeadersVariable  = "OTEL_EXPORTER_OTLP_HEADERS"
)

// tracingEnvironment applies the variables that say where spans go. They switch
// nothing on: they are often set for every process of a machine.
func (d *decoder) tracingEnvironment(c *Config, lookup func(string) (string, bool)) {
	get := func(name string) string {
		value, _ := lookup(name)
		return value
	}
	if c.Tracing == nil {
		if get(TracingEndpointVariable) != "" {
			c.Warnings = append(c.Warnings, TracingEndpointVariable+" is set but has no effect: there is no tracing block")
		}
		return
	}
	if get(TracingHeadersVariable) != "" {
		c.Tracing.Headers = nil // the exporter reads the variable
	}
	if value := get(TracingEndpointVariable); value != "" {
		if err := c.Tracing.SetEndpoint(value); err != nil {
			d.reportSetting("environment "+TracingEndpointVariable, "Invalid value", fmt.Sprintf("It is %q: %v.", value, err))
		}
	}
}

// SetEndpoint takes an endpoint as the environment gives it: a URL, whose scheme
// is http for plain text and https for TLS, or HOST:PORT.
func (t *Tracing) SetEndpoint(value string) error {
	if checkAddress(value) == nil {
		t.Endpoint = value
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Path != "" && u.Path != "/" || checkAddress(u.Host) != nil {
		return errors.New(`want http://HOST:PORT for plain text, https://HOST:PORT for TLS, or HOST:PORT`)
	}
	t.Endpoint, t.Insecure = u.Host, u.Scheme == "http"
	return nil
}
