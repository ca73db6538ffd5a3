package config

import (
	"fmt"
	"strings"
	"testing"
)

// Nothing but the block switches tracing on; then the environment says where
// spans go.
func TestTracingAndTheEnvironment(t *testing.T) {
	env := environment(TracingEndpointVariable, "http://collector:4317", TracingHeadersVariable, "x-api-key=other")
	if c := mustParse(t, Source{Env: env}, minimal); c.Tracing != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "no tracing block") {
		t.Errorf("without a block: %+v, warnings %v", c.Tracing, c.Warnings)
	}
	const block = minimal + "tracing {\n headers = { \"x-api-key\" = \"swordfish\" }\n sample_ratio = 0.5\n}\n"
	c := mustParse(t, Source{}, block)
	if got := c.Tracing; got.Endpoint != "localhost:4317" || got.Insecure || got.SampleRatio != 0.5 || got.Headers["x-api-key"].Reveal() != "swordfish" {
		t.Errorf("the file: %+v", got)
	}
	if text := fmt.Sprintf("%+v %#v", c.Tracing, c.Tracing); strings.Contains(text, "swordfish") {
		t.Errorf("the header is shown: %s", text)
	}
	if got := mustParse(t, Source{Env: env}, block).Tracing; got.Endpoint != "collector:4317" || !got.Insecure || got.Headers != nil {
		t.Errorf("the environment: %+v", got)
	}
	for value, want := range map[string]string{
		"https://c:1/": "c:1 false", "c:1": "c:1 false", "http://c:1": "c:1 true",
	} {
		tracing := DefaultTracing()
		if err := tracing.SetEndpoint(value); err != nil || fmt.Sprint(tracing.Endpoint, " ", tracing.Insecure) != want {
			t.Errorf("%s: %+v, %v", value, tracing, err)
		}
	}
	for _, value := range []string{"c", "ftp://c:1", "http://c", "http://c:1/v1/traces", "http://u:p@c:1"} {
		faults := mustFail(t, Source{Env: environment(TracingEndpointVariable, value)}, block)
		if got := faults.Error(); !strings.Contains(got, "environment "+TracingEndpointVariable) || !strings.Contains(got, "want http://HOST:PORT") {
			t.Errorf("%s: %s", value, got)
		}
	}
}
