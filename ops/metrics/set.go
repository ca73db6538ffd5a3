package metrics

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Bounds on label values that are not known beforehand.
const (
	maxMethods    = 64
	maxNodes      = 1024
	maxBackground = 64
)

// Set is the coordinator's own metrics, on a page with those of the process.
type Set struct {
	Page

	methods        *labelled[Method]
	replicas       *labelled[replica]
	cacheHits      *labelled[metrics.Counter]
	cacheMisses    *labelled[metrics.Counter]
	quorumFailures *labelled[metrics.Counter]
	background     *labelled[metrics.Counter]
	conflicts      *metrics.Counter
	repairs        *metrics.Counter
	refused        *metrics.Counter
	tenants        *tenants
	status         atomic.Pointer[func() coord.Status]
}

// Method counts the requests of one RPC method.
type Method struct {
	codes [codeCount]metrics.Counter
	took  histogram
}

// codeCount is the number of gRPC status codes, OK included.
const codeCount = int(codes.Unauthenticated) + 1

// shownCodes are on the page from the start: the codes of the contract. The
// others appear when first counted.
var shownCodes = [codeCount]bool{
	codes.OK: true, codes.InvalidArgument: true, codes.NotFound: true, codes.AlreadyExists: true,
	codes.FailedPrecondition: true, codes.Unavailable: true, codes.Unauthenticated: true,
	codes.PermissionDenied: true, codes.ResourceExhausted: true, codes.DeadlineExceeded: true, codes.Internal: true,
}

// replica counts the calls on one storage node.
type replica struct {
	calls  [len(callKinds)]histogram
	errors metrics.Counter
	hedges metrics.Counter
}

var callKinds = [...]coord.CallKind{coord.CallHead, coord.CallRead, coord.CallApply}

// New makes the metrics of a coordinator of this build. Whatever has labels
// known beforehand is on the page from the start, at zero, so that rates work.
func New(version, commit string) *Set {
	s := &Set{
		methods:        newLabelled[Method](maxMethods),
		replicas:       newLabelled[replica](maxNodes),
		cacheHits:      newLabelled[metrics.Counter](1, "tenant"),
		cacheMisses:    newLabelled[metrics.Counter](1, "tenant"),
		quorumFailures: newLabelled[metrics.Counter](8, "delete", "read", "write"),
		background:     newLabelled[metrics.Counter](maxBackground),
		tenants:        newTenants(time.Now),
	}
	for _, m := range coordinatorpb.CoordinatorService_ServiceDesc.Methods {
		s.methods.add(m.MethodName)
	}
	s.Process(version, commit)
	s.conflicts = s.counter("coordinator_conflicts_detected_total",
		"Pairs of versions of a key that were written without knowledge of each other.")
	s.repairs = s.counter("coordinator_repairs_triggered_total", "Versions sent to a replica that lacked them.")
	s.refused = s.counter("coordinator_connections_refused_total",
		"Client connections closed because max_connections were open.")
	s.counters("coordinator_cache_hits_total", "Lookups answered from a cache.", "cache", s.cacheHits)
	s.counters("coordinator_cache_misses_total", "Lookups that a cache could not answer.", "cache", s.cacheMisses)
	s.counters("coordinator_quorum_failures_total", "Operations that too few replicas answered.", "operation", s.quorumFailures)
	s.counters("coordinator_background_errors_total", "Failures of work that no request waits for.", "work", s.background)
	s.addRequests()
	s.addReplicas()
	s.addStatus()
	s.addChores()
	s.addTenants()
	return s
}

func (s *Set) addRequests() {
	s.add(family{"coordinator_requests_total", "counter", "Requests answered, by method and status code.", func(w *writer) {
		s.methods.each(func(method string, m *Method) {
			for c := range m.codes {
				if n := m.codes[c].Get(); n > 0 || shownCodes[c] {
					w.count("coordinator_requests_total", label("method", method)+","+label("code", code.Code(c).String()), n)
				}
			}
		})
	}})
	const took = "coordinator_request_duration_seconds"
	s.add(family{took, "histogram", "Time from a request's arrival to its answer.", func(w *writer) {
		s.methods.each(func(method string, m *Method) { m.took.write(w, took, label("method", method)) })
	}})
}

func (s *Set) addReplicas() {
	const took = "coordinator_replica_call_duration_seconds"
	s.add(family{took, "histogram", "Time from a call on a storage node to its end, failed calls included.", func(w *writer) {
		s.replicas.each(func(node string, r *replica) {
			for i, kind := range callKinds {
				r.calls[i].write(w, took, label("node", node)+","+label("kind", kind.String()))
			}
		})
	}})
	perNode := func(name, help string, of func(*replica) *metrics.Counter) {
		s.add(family{name, "counter", help, func(w *writer) {
			s.replicas.each(func(node string, r *replica) { w.count(name, label("node", node), of(r).Get()) })
		}})
	}
	perNode("coordinator_replica_errors_total", "Calls on a storage node that failed.",
		func(r *replica) *metrics.Counter { return &r.errors })
	perNode("coordinator_hedged_requests_total", "Reads that asked this storage node too because the first one was slow.",
		func(r *replica) *metrics.Counter { return &r.hedges })
}

// current is the status that ReportStatus named.
func (s *Set) current() coord.Status {
	if read := s.status.Load(); read != nil {
		return (*read)()
	}
	return coord.Status{}
}

func (s *Set) addStatus() {
	status := s.current
	s.Gauge("coordinator_in_flight_requests", "Operations under way.", func() float64 { return float64(status().InFlight) })
	s.Gauge("coordinator_ring_epoch", "Epoch of the ring in use.", func() float64 { return float64(status().Epoch) })
	perNode := func(name, help string, of func(coord.NodeState) float64) {
		s.add(family{name, "gauge", help, func(w *writer) {
			for _, n := range status().Nodes {
				w.sample(name, label("node", n.ID), of(n))
			}
		}})
	}
	perNode("coordinator_replica_up", "1 while a storage node can be used, else 0.", func(n coord.NodeState) float64 {
		if n.Unavailable != nil {
			return 0
		}
		return 1
	})
	perNode("coordinator_hints_pending", "Versions that a storage node missed and that wait to be replayed to it.",
		func(n coord.NodeState) float64 { return float64(n.Debt.Hints) })
	perNode("coordinator_hints_pending_bytes", "Size of the hints for a storage node.",
		func(n coord.NodeState) float64 { return float64(n.Debt.Bytes) })
	perNode("coordinator_hints_oldest_seconds", "Age of the oldest hint for a storage node; 0 without any.", func(n coord.NodeState) float64 {
		if n.Debt.Oldest.IsZero() {
			return 0
		}
		return max(time.Since(n.Debt.Oldest).Seconds(), 0)
	})
	perNode("coordinator_owed_ranges", "Ranges of a storage node of which hints were lost, so that replicas must be compared.",
		func(n coord.NodeState) float64 { return float64(n.Debt.OwedRanges) })
	perNode("coordinator_replica_keys", "Keys on a storage node, an estimate.", func(n coord.NodeState) float64 { return float64(n.Keys) })
	perNode("coordinator_replica_disk_used_ratio", "Used part of a storage node's disk, 0 to 1.",
		func(n coord.NodeState) float64 { return n.DiskUsedFraction })
}

func (s *Set) addChores() {
	s.Gauge("coordinator_housekeeping_leader", "1 while this coordinator does the housekeeping for all, else 0.", func() float64 {
		if s.current().Chores.Leads {
			return 1
		}
		return 0
	})
	counter := func(name, help string, of func(coord.ChoreStats) int64) {
		s.Counter(name, help, func() uint64 { return uint64(of(s.current().Chores)) })
	}
	counter("coordinator_migration_keys_copied_total", "Keys copied by changes of topology.",
		func(c coord.ChoreStats) int64 { return c.KeysCopied })
	counter("coordinator_migration_bytes_copied_total", "Bytes of their values.",
		func(c coord.ChoreStats) int64 { return c.BytesCopied })
	counter("coordinator_repair_rounds_total", "Comparisons of all replicas that have ended.",
		func(c coord.ChoreStats) int64 { return c.Repairs.Rounds })
	counter("coordinator_repair_spans_compared_total", "Spans of tokens of which replicas were compared.",
		func(c coord.ChoreStats) int64 { return c.Repairs.Compared })
	counter("coordinator_repair_spans_differed_total", "Spans of tokens in which replicas differed.",
		func(c coord.ChoreStats) int64 { return c.Repairs.Differed })
	counter("coordinator_repair_keys_total", "Keys made equal by comparisons of replicas.",
		func(c coord.ChoreStats) int64 { return c.Repairs.Repaired })
	counter("coordinator_tombstones_forgotten_total", "Tombstones and expired values that all replicas were made to forget.",
		func(c coord.ChoreStats) int64 { return c.Forgotten })
}

// ReportStatus puts what read returns on the page from now on: operations
// under way, and nodes. Read must be quick and safe for concurrent use.
func (s *Set) ReportStatus(read func() coord.Status) { s.status.Store(&read) }

// Method returns the counts of an RPC method, by its name or full name
// ("/package.Service/Name"); the names of all services are shared.
func (s *Set) Method(name string) *Method {
	return s.methods.get(name[strings.LastIndexByte(name, '/')+1:])
}

// Done counts a request that has been answered.
func (m *Method) Done(c codes.Code, took time.Duration) {
	if int(c) >= codeCount {
		c = codes.Unknown
	}
	m.codes[c].Inc()
	m.took.observe(took)
}

// Request counts a request that has been answered.
func (s *Set) Request(method string, c codes.Code, took time.Duration) {
	s.Method(method).Done(c, took)
}

// ConnectionRefused counts a client connection that was closed unheard.
func (s *Set) ConnectionRefused() { s.refused.Inc() }

// Events are callbacks that count what the engine tells.
func (s *Set) Events() coord.Events {
	hit, miss := s.cacheHits.get("tenant"), s.cacheMisses.get("tenant")
	return coord.Events{
		Conflict:      func(_, _ string, _, _ coord.Head) { s.conflicts.Inc() },
		Repair:        func(_, _, _ string) { s.repairs.Inc() },
		QuorumFailure: func(operation string, _ *coord.QuorumError) { s.quorumFailures.get(operation).Inc() },
		TenantCache: func(found bool) {
			if found {
				hit.Inc()
			} else {
				miss.Inc()
			}
		},
		ReplicaCall: func(node string, kind coord.CallKind, took time.Duration, err error) {
			r := s.replicas.get(node)
			if i := int(kind) - int(callKinds[0]); i >= 0 && i < len(callKinds) {
				r.calls[i].observe(took)
			}
			if err != nil {
				r.errors.Inc()
			}
		},
		Hedge:      func(node string) { s.replicas.get(node).hedges.Inc() },
		Background: func(what string, _ error) { s.background.get(what).Inc() },
	}
}
