package console

import (
	"strings"
	"sync"
	"time"
)

const (
	// maxRequests bounds the requests that are remembered.
	maxRequests = 100
	// What is remembered of one is bounded, too.
	maxKeyBytes   = 128
	maxErrorBytes = 512
	// SlowRequest is how long a request takes that is remembered though it succeeded.
	SlowRequest = 100 * time.Millisecond
)

// Request is one that has failed for a reason that is not the client's, or was slow.
type Request struct {
	At        time.Time
	Operation string
	Tenant    string
	Key       string
	Code      string
	Took      time.Duration
	Err       error
}

// Requests remembers the latest. It is safe for concurrent use.
type Requests struct {
	mu   sync.Mutex
	ring [maxRequests]shownRequest
	seen uint64
}

// shownRequest is a Request as the page gets it.
type shownRequest struct {
	AtMillis   int64   `json:"at"`
	Operation  string  `json:"operation"`
	Tenant     string  `json:"tenant"`
	Key        string  `json:"key"`
	Code       string  `json:"code"`
	TookMillis float64 `json:"took_ms"`
	Error      string  `json:"error"`
}

// Add remembers a request. It keeps none of its memory.
func (r *Requests) Add(q Request) {
	shown := shownRequest{
		AtMillis: q.At.UnixMilli(), Operation: q.Operation, Code: q.Code, TookMillis: millis(q.Took),
		Tenant: cut(q.Tenant, maxKeyBytes), Key: cut(q.Key, maxKeyBytes),
	}
	if q.Err != nil {
		shown.Error = cut(q.Err.Error(), maxErrorBytes)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring[r.seen%maxRequests] = shown
	r.seen++
}

// since lists what came after the first seen ones, the latest first, and how
// many there were in all.
func (r *Requests) since(seen uint64) (all uint64, latest []shownRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := r.seen; i > seen && r.seen-i < maxRequests; i-- {
		latest = append(latest, r.ring[(i-1)%maxRequests])
	}
	return r.seen, latest
}

// cut copies at most n bytes of s.
func cut(s string, n int) string {
	if len(s) <= n {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
