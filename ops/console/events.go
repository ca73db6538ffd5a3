package console

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/health"
	"github.com/pairdb/coordinator/ops/metrics"
)

// state is one event: totals, from which the page makes rates.
type state struct {
	AtMillis      int64               `json:"at"`
	NodeID        string              `json:"node_id"`
	Version       string              `json:"version"`
	Incarnation   uint64              `json:"incarnation"`
	StartedMillis int64               `json:"started_at"`
	Epoch         uint64              `json:"epoch"`
	InFlight      int                 `json:"in_flight"`
	Ready         bool                `json:"ready"`
	Reason        string              `json:"reason,omitempty"`
	ShowsKeys     bool                `json:"shows_keys"`
	Dependencies  []health.Dependency `json:"dependencies"`
	Nodes         []shownNode         `json:"nodes"`
	Reads         []uint64            `json:"reads"`  // by bucket of latency
	Writes        []uint64            `json:"writes"` // likewise
	Bounds        []float64           `json:"bounds"` // of the buckets, seconds
	Failed        uint64              `json:"failed"`
	Conflicts     uint64              `json:"conflicts"`
	Repairs       uint64              `json:"repairs"`
	QuorumFailed  uint64              `json:"quorum_failed"`
	HintsReplayed uint64              `json:"hints_replayed"`
	HintsGivenUp  uint64              `json:"hints_given_up"`
	Tenants       []shownTenant       `json:"tenants"`
	Migrations    []shownMigration    `json:"migrations"`
	Ring          *shownRing          `json:"ring,omitempty"`     // when it has changed
	Requests      []shownRequest      `json:"requests,omitempty"` // new ones, the latest first
}

type shownNode struct {
	ID            string   `json:"id"`
	Address       string   `json:"address"`
	Status        string   `json:"status"`
	VirtualNodes  int      `json:"virtual_nodes"`
	Up            bool     `json:"up"`
	Reason        string   `json:"reason,omitempty"`
	LatencyMicros int64    `json:"latency_us"`
	Keys          int64    `json:"keys"`
	Disk          float64  `json:"disk"` // used part
	Hints         int64    `json:"hints"`
	HintBytes     int64    `json:"hint_bytes"`
	OldestSeconds float64  `json:"oldest_s"` // age of the oldest hint
	Owed          int      `json:"owed"`     // ranges
	Calls         []uint64 `json:"calls"`    // by bucket of latency
	Errors        uint64   `json:"errors"`
	Hedges        uint64   `json:"hedges"`
}

type shownTenant struct {
	ID      string `json:"id"`
	Reads   uint64 `json:"reads"`
	Writes  uint64 `json:"writes"`
	Failed  uint64 `json:"failed"`
	Refused uint64 `json:"refused"`
}

type shownMigration struct {
	ID    string `json:"id"`
	Type  string `json:"type"`
	Moved int64  `json:"moved"`
	Keys  int64  `json:"keys"`
}

// stream is what one open page has been told.
type stream struct {
	console   *Console
	engine    Engine
	ringEpoch uint64
	ringNodes int
	requests  uint64
}

// serveEvents sends a state at once and then each second, until the browser
// goes away or the console is closed.
func (c *Console) serveEvents(w http.ResponseWriter, r *http.Request, engine Engine) {
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	default:
		refuse(w, http.StatusServiceUnavailable, "too many consoles are open")
		return
	}
	control := http.NewResponseController(w)
	// The server's own limits are for requests that end.
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		refuse(w, http.StatusInternalServerError, "this connection cannot carry a stream: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	s := stream{console: c, engine: engine}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		data, err := json.Marshal(s.next(time.Now()))
		if err == nil {
			err = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		}
		if err == nil {
			_, err = w.Write(append(append([]byte("event: state\ndata: "), data...), "\n\n"...))
		}
		if err == nil {
			err = control.Flush()
		}
		if err != nil {
			return // the browser went away
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-c.closed:
			return
		}
	}
}

// next is the state now.
func (s *stream) next(now time.Time) state {
	o := &s.console.options
	status, counted, engine := s.engine.Status(context.Background()), o.Metrics.Snapshot(), s.engine.Counters()
	e := state{
		AtMillis: now.UnixMilli(), NodeID: status.NodeID, Version: o.Version, Incarnation: status.Incarnation,
		StartedMillis: status.StartedAt.UnixMilli(), Epoch: status.Epoch, InFlight: status.InFlight,
		ShowsKeys: s.console.showsKeys(), Dependencies: o.Health.Dependencies(),
		Reads: counted.Reads.Buckets, Writes: counted.Writes.Buckets, Bounds: counted.BoundsSeconds,
		Failed: counted.Failed, Conflicts: counted.Conflicts, Repairs: counted.Repairs, QuorumFailed: counted.QuorumFailed,
		HintsReplayed: engine.HintsReplayed, HintsGivenUp: engine.HintsGivenUp,
	}
	e.Ready, e.Reason = o.Health.Ready()
	calls := map[string]metrics.ReplicaTotals{}
	for _, r := range counted.Replicas {
		calls[r.Node] = r
	}
	for i := range status.Nodes {
		e.Nodes = append(e.Nodes, showNode(&status.Nodes[i], calls[status.Nodes[i].ID], now))
	}
	for _, t := range o.Metrics.Tenants() {
		e.Tenants = append(e.Tenants, shownTenant(t))
	}
	if o.Migrations != nil {
		for _, m := range o.Migrations() {
			e.Migrations = append(e.Migrations, shownMigration{m.ID, m.Type, m.Moved, m.Keys})
		}
	}
	if ring := s.console.ring.of(status); s.ringNodes == 0 || ring.Epoch != s.ringEpoch || len(ring.Nodes) != s.ringNodes {
		e.Ring, s.ringEpoch, s.ringNodes = ring, ring.Epoch, len(ring.Nodes)
	}
	if o.Requests != nil {
		s.requests, e.Requests = o.Requests.since(s.requests)
		if !s.console.showsKeys() {
			for i := range e.Requests {
				e.Requests[i].Key, e.Requests[i].Error = "", "" // the error may name the key
			}
		}
	}
	return e
}

func showNode(n *coord.NodeState, calls metrics.ReplicaTotals, now time.Time) shownNode {
	shown := shownNode{
		ID: n.ID, Address: n.Address(), Status: string(n.Status), VirtualNodes: n.VirtualNodes, Up: n.Unavailable == nil,
		LatencyMicros: n.Latency.Microseconds(), Keys: n.Keys, Disk: n.DiskUsedFraction,
		Hints: n.Debt.Hints, HintBytes: n.Debt.Bytes, Owed: n.Debt.OwedRanges,
		Calls: calls.Buckets, Errors: calls.Errors, Hedges: calls.Hedges,
	}
	if n.Unavailable != nil {
		shown.Reason = cut(n.Unavailable.Error(), maxErrorBytes)
	}
	if !n.Debt.Oldest.IsZero() {
		shown.OldestSeconds = max(now.Sub(n.Debt.Oldest).Seconds(), 0)
	}
	return shown
}
