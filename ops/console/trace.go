package console

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/timeline"
)

// traceAnswer is how a read went.
type traceAnswer struct {
	Found      bool       `json:"found"`
	Error      string     `json:"error,omitempty"` // why there is no answer; an absent key is one
	TookMillis float64    `json:"took_ms"`
	EndMicros  int64      `json:"end_us"`  // of the last step, perhaps behind the answer
	Version    string     `json:"version"` // that was found; empty: none
	Rows       []traceRow `json:"rows"`
	LeftOut    int32      `json:"left_out"`
}

type traceRow struct {
	Node    string `json:"node"`
	What    string `json:"what"`
	From    int64  `json:"from_us"`
	To      int64  `json:"to_us"`
	Open    bool   `json:"open"`
	Hedge   bool   `json:"hedge"`
	Failed  bool   `json:"failed"`
	Skipped bool   `json:"skipped"`
	Note    string `json:"note"`
}

// serveTrace reads a key as a client would, and tells step by step how.
func (c *Console) serveTrace(w http.ResponseWriter, r *http.Request, engine Engine) {
	q, ok := c.question(w, r)
	if !ok {
		return
	}
	level, err := coord.ParseLevel(q.Consistency)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), keyTimeout)
	defer cancel()
	began := time.Now()
	recorded := new(coord.Trace)
	_, err = engine.Read(ctx, coord.ReadRequest{Tenant: q.Tenant, Key: q.Key, Level: level, Deadline: began.Add(keyTimeout), Trace: recorded})
	a := traceAnswer{Found: err == nil, TookMillis: millis(time.Since(began))}
	switch {
	case errors.Is(err, coord.ErrTenantNotFound):
		refuse(w, http.StatusNotFound, err.Error())
		return
	case err != nil && !errors.Is(err, coord.ErrKeyNotFound):
		a.Error = cut(err.Error(), maxErrorBytes)
	}
	m := c.options.TraceMessage(recorded)
	a.Version, a.LeftOut = m.Version, m.LeftOut
	rows, end := timeline.Rows(m)
	a.EndMicros = end
	for _, row := range rows {
		a.Rows = append(a.Rows, traceRow(row))
	}
	answer(w, a)
}
