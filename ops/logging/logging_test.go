package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/pairdb/coordinator/ops/config"
)

func TestJSONLinesHoldTheFields(t *testing.T) {
	var out bytes.Buffer
	log, err := New(Options{Level: "info", Format: "json", Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not shown")
	log.Info("request failed", "tenant_id", "t", "key", "<a&b>", "password", config.NewSecret("swordfish"))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	if line["@message"] != "request failed" || line["@level"] != "info" || line["tenant_id"] != "t" || line["key"] != "<a&b>" {
		t.Errorf("line = %v", line)
	}
	if strings.Contains(out.String(), "swordfish") || !strings.Contains(out.String(), "<a&b>") {
		t.Errorf("line = %s", &out)
	}
}

func TestTextLines(t *testing.T) {
	var out bytes.Buffer
	log, err := New(Options{Level: "debug", Format: "text", Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("shown", "n", 1, "password", config.NewSecret("swordfish"))
	if got := out.String(); !strings.Contains(got, "[DEBUG] coordinator: shown: n=1") || strings.Contains(got, "swordfish") {
		t.Errorf("line = %q", got)
	}
}

// What clients send cannot pass for another line of the log, nor move a
// terminal's cursor.
func TestNoLineCanBeForged(t *testing.T) {
	const forged = "k\r\n2026-01-01T00:00:00.000Z [ERROR] coordinator: forged\r\x1b[2J\u2028\x9b1A\x00"
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		log, err := New(Options{Level: "debug", Format: format, Output: &out})
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("request", "tenant_id", "t", "key", forged, "error", errors.New("no quorum for "+forged))
		for i, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
			// In text what has several lines stands behind a bar.
			if i > 0 && (format == "json" || !strings.HasPrefix(line, "  | ")) && line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: there is another line: %q", format, line)
			}
			if strings.ContainsAny(line, "\r\x1b\x00") || strings.Contains(line, "\x9b") && format == "text" {
				t.Errorf("%s: a control character is written as it is: %q", format, line)
			}
		}
	}
}

func TestUnknownLevelsAndFormatsAreRefused(t *testing.T) {
	for _, test := range []struct{ level, format, want string }{
		{"loud", "json", `log level "loud" is unknown, want one of trace, debug, info, warn, error`},
		{"", "json", `log level "" is unknown`},
		{"INFO", "json", `log level "INFO" is unknown`},
		{"info", "xml", `log format "xml" is unknown, want one of json, text`},
	} {
		if _, err := New(Options{Level: test.level, Format: test.format}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q, %q: %v, want %s", test.level, test.format, err, test.want)
		}
	}
}
