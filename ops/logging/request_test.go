package logging

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRequestLines(t *testing.T) {
	for _, c := range []struct {
		level   string
		request Request
		want    string
	}{
		{"info", Request{Code: "OK"}, ""},
		{"info", Request{Code: "NotFound", Err: errors.New("key not found")}, ""},
		{"info", Request{Code: "OK", Took: 2 * time.Second}, "request was slow"},
		{"info", Request{Code: "Unavailable", Fault: true, Err: errors.New("too few")}, "request failed"},
		{"debug", Request{Code: "OK"}, "success=true"},
		{"debug", Request{Code: "NotFound", Err: errors.New("key not found")}, "success=false"},
	} {
		var out bytes.Buffer
		log, err := New(Options{Level: c.level, Format: "text", Output: &out})
		if err != nil {
			t.Fatal(err)
		}
		c.request.ID = func() string { return "id-1" }
		requests := NewRequests(log)
		if due := requests.Due(c.request.Fault, c.request.Took); due != (c.want != "") {
			t.Errorf("%s, %+v: a line is due: %v", c.level, c.request, due)
		}
		requests.Log(c.request)
		if got := out.String(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s, %+v: %q, want %q", c.level, c.request, got, c.want)
		}
	}
}

func TestRequestLinesAreBounded(t *testing.T) {
	var out bytes.Buffer
	log, err := New(Options{Level: "info", Format: "json", Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	l := NewRequests(log)
	for range 10 * requestLinesPerSecond {
		l.Log(Request{Code: "Unavailable", Fault: true, ID: func() string { return "id" }})
	}
	// The burst may fall into two seconds, hardly into more.
	if lines := strings.Count(out.String(), "\n"); lines < requestLinesPerSecond || lines > 4*requestLinesPerSecond {
		t.Errorf("%d lines for %d failed requests", lines, 10*requestLinesPerSecond)
	}
}
