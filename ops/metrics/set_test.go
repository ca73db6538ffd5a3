package metrics

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
)

// scrape returns the samples of a page by name and labels, having checked that
// the page is well-formed: each family once, sorted, HELP and TYPE first.
func scrape(t *testing.T, page *Page) map[string]float64 {
	t.Helper()
	rec := httptest.NewRecorder()
	page.ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if got := rec.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	sample := regexp.MustCompile(`^([a-z_]+)((?:\{[a-z_]+="(?:[^"\\]|\\.)*"(?:,[a-z_]+="(?:[^"\\]|\\.)*")*\})?) (\S+)$`)
	samples := map[string]float64{}
	var families []string
	expectType := false
	for lines := bufio.NewScanner(rec.Body); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "# HELP "):
			families = append(families, strings.Fields(line)[2])
			expectType = true
		case strings.HasPrefix(line, "# TYPE "):
			if !expectType || strings.Fields(line)[2] != families[len(families)-1] {
				t.Errorf("out of place: %s", line)
			}
			expectType = false
		default:
			m := sample.FindStringSubmatch(line)
			if m == nil || len(families) == 0 || !strings.HasPrefix(m[1], families[len(families)-1]) {
				t.Fatalf("not a sample of its family: %s", line)
			}
			v, err := strconv.ParseFloat(m[3], 64)
			if _, twice := samples[m[1]+m[2]]; err != nil || twice {
				t.Errorf("bad value or repeated: %s", line)
			}
			samples[m[1]+m[2]] = v
		}
	}
	if !slices.IsSorted(families) || len(slices.Compact(slices.Clone(families))) != len(families) {
		t.Errorf("families are not sorted, or one is there twice: %v", families)
	}
	return samples
}

func expect(t *testing.T, samples map[string]float64, want map[string]float64) {
	t.Helper()
	for name, value := range want {
		if got, ok := samples[name]; !ok || math.Abs(got-value) > 1e-9 {
			t.Errorf("%s = %v (there: %t), want %v", name, got, ok, value)
		}
	}
}

func busySet() *Set {
	s := New("1.2.3", "abc")
	s.Request("/pairdb.coordinator.v1.CoordinatorService/WriteKeyValue", codes.OK, 3*time.Millisecond)
	s.Request("/proto.CoordinatorService/WriteKeyValue", codes.Unavailable, 20*time.Second)
	s.Request("ReadKeyValue", codes.Code(99), -time.Second)
	s.ConnectionRefused()
	e := s.Events()
	e.Conflict("t", "k", coord.Head{}, coord.Head{})
	e.Repair("t", "k", "storage-1")
	e.Repair("t", "k", "storage-2")
	e.QuorumFailure("write", nil)
	e.TenantCache(true)
	e.TenantCache(true)
	e.TenantCache(false)
	e.ReplicaCall("storage-1", coord.CallApply, time.Millisecond, nil)
	e.ReplicaCall("storage-1", coord.CallHead, time.Millisecond, errors.New("down"))
	e.ReplicaCall(`odd "name" \`+"\n\xff", coord.CallRead, time.Millisecond, nil)
	e.Hedge("storage-2")
	e.Background("replay hints", errors.New("down"))
	s.ReportStatus(func() coord.Status {
		return coord.Status{InFlight: 4, Epoch: 7, Nodes: []coord.NodeState{
			{StorageNode: coord.StorageNode{ID: "storage-1"}, Keys: 10, DiskUsedFraction: 0.5},
			{StorageNode: coord.StorageNode{ID: "storage-2"}, Unavailable: errors.New("down")},
		}}
	})
	return s
}

func TestEverythingIsCounted(t *testing.T) {
	expect(t, scrape(t, &busySet().Page), map[string]float64{
		`coordinator_requests_total{method="WriteKeyValue",code="OK"}`:                                          1,
		`coordinator_requests_total{method="WriteKeyValue",code="UNAVAILABLE"}`:                                 1,
		`coordinator_requests_total{method="ReadKeyValue",code="UNKNOWN"}`:                                      1,
		`coordinator_request_duration_seconds_bucket{method="WriteKeyValue",le="0.0025"}`:                       0,
		`coordinator_request_duration_seconds_bucket{method="WriteKeyValue",le="0.005"}`:                        1,
		`coordinator_request_duration_seconds_bucket{method="WriteKeyValue",le="10"}`:                           1,
		`coordinator_request_duration_seconds_bucket{method="WriteKeyValue",le="+Inf"}`:                         2,
		`coordinator_request_duration_seconds_count{method="WriteKeyValue"}`:                                    2,
		`coordinator_request_duration_seconds_sum{method="WriteKeyValue"}`:                                      20.003,
		`coordinator_request_duration_seconds_bucket{method="ReadKeyValue",le="0.0001"}`:                        1,
		`coordinator_cache_hits_total{cache="tenant"}`:                                                          2,
		`coordinator_cache_misses_total{cache="tenant"}`:                                                        1,
		`coordinator_conflicts_detected_total`:                                                                  1,
		`coordinator_repairs_triggered_total`:                                                                   2,
		`coordinator_quorum_failures_total{operation="write"}`:                                                  1,
		`coordinator_quorum_failures_total{operation="read"}`:                                                   0,
		`coordinator_connections_refused_total`:                                                                 1,
		`coordinator_replica_call_duration_seconds_bucket{node="storage-1",kind="apply",le="0.001"}`:            1,
		`coordinator_replica_call_duration_seconds_count{node="storage-1",kind="head"}`:                         1,
		`coordinator_replica_call_duration_seconds_count{node="odd \"name\" \\\n` + "\uFFFD" + `",kind="read"}`: 1,
		`coordinator_replica_errors_total{node="storage-1"}`:                                                    1,
		`coordinator_hedged_requests_total{node="storage-2"}`:                                                   1,
		`coordinator_background_errors_total{work="replay hints"}`:                                              1,
		`coordinator_in_flight_requests`:                                                                        4,
		`coordinator_ring_epoch`:                                                                                7,
		`coordinator_replica_up{node="storage-1"}`:                                                              1,
		`coordinator_replica_up{node="storage-2"}`:                                                              0,
		`coordinator_replica_keys{node="storage-1"}`:                                                            10,
		`coordinator_replica_disk_used_ratio{node="storage-1"}`:                                                 0.5,
	})
}

func TestKnownLabelsStartAtZero(t *testing.T) {
	samples := scrape(t, &New("", "").Page)
	expect(t, samples, map[string]float64{
		`coordinator_requests_total{method="WriteKeyValue",code="OK"}`:              0,
		`coordinator_requests_total{method="CancelMigration",code="INTERNAL"}`:      0,
		`coordinator_request_duration_seconds_count{method="ReadKeyValue"}`:         0,
		`coordinator_request_duration_seconds_bucket{method="GetTenant",le="+Inf"}`: 0,
		`coordinator_quorum_failures_total{operation="delete"}`:                     0,
		`coordinator_cache_hits_total{cache="tenant"}`:                              0,
		`coordinator_cache_misses_total{cache="tenant"}`:                            0,
		`coordinator_conflicts_detected_total`:                                      0,
		`coordinator_repairs_triggered_total`:                                       0,
		`coordinator_in_flight_requests`:                                            0,
		`coordinator_connections_refused_total`:                                     0,
	})
	for _, name := range []string{"go_goroutines", "process_cpu_seconds_total", "process_resident_memory_bytes"} {
		if _, ok := samples[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestLabelsAreBounded(t *testing.T) {
	s := New("", "")
	for i := range 10 * maxMethods {
		s.Request(fmt.Sprintf("Invented%d", i), codes.Unimplemented, 0)
	}
	methods, calls := map[string]bool{}, 0.0
	for name, value := range scrape(t, &s.Page) {
		if method, ok := strings.CutPrefix(name, "coordinator_request_duration_seconds_count"); ok {
			methods[method] = true
			calls += value
		}
	}
	if len(methods) != maxMethods+1 || calls != 10*maxMethods || !methods[`{method="other"}`] {
		t.Errorf("%d methods with %v calls, want %d and %d", len(methods), calls, maxMethods+1, 10*maxMethods)
	}
}

func TestPageTakesMoreFamilies(t *testing.T) {
	var p Page
	p.Gauge("pool_connections", "Connections.", func() float64 { return 1 })
	p.Gauge("pool_connections", "Connections.", func() float64 { return 2.5 })
	p.Counter("hints_total", "Hints.", func() uint64 { return 1 << 60 })
	want := "# HELP hints_total Hints.\n# TYPE hints_total counter\nhints_total 1152921504606846976\n" +
		"# HELP pool_connections Connections.\n# TYPE pool_connections gauge\npool_connections 2.5\n"
	if got := string(p.Write(nil)); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestHistogramBuckets(t *testing.T) {
	for i, bound := range bounds {
		for _, test := range []struct {
			took   time.Duration
			bucket int
		}{{bound - 1, i}, {bound, i}, {bound + 1, i + 1}} {
			var h histogram
			h.observe(test.took)
			if h.buckets[test.bucket].Load() != 1 {
				t.Errorf("%v is not in bucket %d", test.took, test.bucket)
			}
		}
	}
}

func TestCountsAreExactUnderConcurrency(t *testing.T) {
	s := New("", "")
	e := s.Events()
	const workers, each = 8, 500
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for i := range each {
				s.Request("WriteKeyValue", codes.OK, time.Millisecond)
				e.ReplicaCall("node-"+strconv.Itoa(i%20), coord.CallApply, time.Millisecond, nil)
				if worker == 0 && i%100 == 0 {
					s.Write(nil)
				}
			}
		})
	}
	group.Wait()
	samples := scrape(t, &s.Page)
	calls := 0.0
	for i := range 20 {
		calls += samples[fmt.Sprintf(`coordinator_replica_call_duration_seconds_count{node="node-%d",kind="apply"}`, i)]
	}
	if calls != workers*each || samples[`coordinator_requests_total{method="WriteKeyValue",code="OK"}`] != workers*each {
		t.Errorf("%v calls, samples %v", calls, samples[`coordinator_requests_total{method="WriteKeyValue",code="OK"}`])
	}
}

func TestObservingDoesNotAllocate(t *testing.T) {
	s := New("", "")
	e := s.Events()
	e.ReplicaCall("storage-1", coord.CallApply, time.Millisecond, nil)
	if n := testing.AllocsPerRun(100, func() {
		s.Request("/pairdb.coordinator.v1.CoordinatorService/WriteKeyValue", codes.OK, time.Millisecond)
		e.ReplicaCall("storage-1", coord.CallApply, time.Millisecond, nil)
		e.TenantCache(true)
		e.QuorumFailure("read", nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The Debian package is prometheus.
func TestPromtoolIsClean(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not on PATH, and CI needs it")
		}
		t.Skip("NOT CHECKED: promtool is not on PATH (Debian: apt-get install prometheus)")
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = bytes.NewReader(busySet().Write(nil))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

func BenchmarkRequest(b *testing.B) {
	s := New("", "")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Request("/pairdb.coordinator.v1.CoordinatorService/WriteKeyValue", codes.OK, time.Millisecond)
		}
	})
}
