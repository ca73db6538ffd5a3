package logging

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Request is a request that has ended.
type Request struct {
	Tenant    string
	Key       string
	Operation string
	Code      string // gRPC's name of it; "OK" is success
	Fault     bool   // it failed for a reason that is not the client's
	Took      time.Duration
	Err       error
	// ID is called for the requests that are logged.
	ID func() string
}

// Requests writes a line for each request that failed through no fault of the
// client's or was slow, and, at level debug, for every other one too. It is
// safe for concurrent use.
type Requests struct {
	log    hclog.Logger
	slow   time.Duration
	limit  int64
	second atomic.Int64 // Unix time of the lines counted
	lines  atomic.Int64 // written in that second
	silent atomic.Int64 // left out since the last line written
}

const (
	// slowRequest is how long a request takes that is worth a line.
	slowRequest = time.Second
	// requestLinesPerSecond bounds what an outage writes.
	requestLinesPerSecond = 100
)

// NewRequests returns a log of requests on log.
func NewRequests(log hclog.Logger) *Requests {
	return &Requests{log: log, slow: slowRequest, limit: requestLinesPerSecond}
}

// Due tells whether Log has a line to write of such a request, so that what it
// says of it need not be put together for the others.
func (l *Requests) Due(fault bool, took time.Duration) bool {
	return l.notable(fault, took) || l.log.IsDebug()
}

func (l *Requests) notable(fault bool, took time.Duration) bool { return fault || took >= l.slow }

// Log writes r's line if it is due one.
func (l *Requests) Log(r Request) {
	notable := l.notable(r.Fault, r.Took)
	if !notable && !l.log.IsDebug() || notable && !l.admit() {
		return
	}
	fields := []any{
		"tenant_id", r.Tenant, "key", r.Key, "operation", r.Operation,
		"duration_ms", float64(r.Took.Microseconds()) / 1000, "success", r.Code == "OK", "request_id", r.ID(),
	}
	if r.Code != "OK" {
		fields = append(fields, "code", r.Code, "error", r.Err)
	}
	if left := l.silent.Swap(0); left > 0 {
		fields = append(fields, "lines_left_out", left)
	}
	switch {
	case r.Fault:
		l.log.Warn("request failed", fields...)
	case notable:
		l.log.Warn("request was slow", fields...)
	default:
		l.log.Debug("request", fields...)
	}
}

// admit counts a line in, unless this second has had its share.
func (l *Requests) admit() bool {
	now := time.Now().Unix()
	if second := l.second.Load(); second != now && l.second.CompareAndSwap(second, now) {
		l.lines.Store(0)
	}
	if l.lines.Add(1) > l.limit {
		l.silent.Add(1)
		return false
	}
	return true
}
