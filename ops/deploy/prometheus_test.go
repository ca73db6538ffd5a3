package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/metrics"
)

// pages are the metrics of a coordinator and of a storage node on which
// everything has happened once, so that every family is there.
func pages() string {
	s := metrics.New("1", "c")
	s.Request("WriteKeyValue", codes.OK, time.Millisecond)
	s.TenantRequest("shop", true, codes.OK, time.Millisecond)
	e := s.Events()
	e.ReplicaCall("storage-1", coord.CallApply, time.Millisecond, nil)
	e.Hedge("storage-1")
	e.Background("store hints", nil)
	s.ReportStatus(func() coord.Status {
		return coord.Status{Nodes: []coord.NodeState{{StorageNode: coord.StorageNode{ID: "storage-1"}}}}
	})
	s.Engine(func() coord.Counters { return coord.Counters{} })
	up := []metrics.Dependency{{Name: "metadata", Up: true}}
	s.Health("coordinator", func() bool { return true }, func() []metrics.Dependency { return up })
	s.Pool("metadata", func() metrics.Pool { return metrics.Pool{} })
	s.Pool("idempotency", func() metrics.Pool { return metrics.Pool{} })
	s.Migrations(func() []metrics.Migration { return []metrics.Migration{{ID: "m"}} })
	// Main adds these itself.
	for _, name := range []string{"coordinator_connections", "coordinator_idempotency_queued"} {
		s.Gauge(name, "Shown.", func() float64 { return 0 })
	}
	var node metrics.Page
	node.Storage(func() metrics.Store { return metrics.Store{Tables: []int{1}} })
	node.Health("storage", func() bool { return true }, func() []metrics.Dependency { return up })
	node.Gauge("storage_connections", "Open connections of coordinators.", func() float64 { return 0 })
	return string(node.Write(s.Write(nil)))
}

// metricNames are the names of a text that are ours or the process's.
var metricNames = regexp.MustCompile(`\b(?:coordinator|storage|go|process)_[a-z0-9_]+`)

// sampleNames are the names of samples on the pages.
func sampleNames() map[string]bool {
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+)(?:\{.*\})? \S+$`).FindAllStringSubmatch(pages(), -1) {
		names[m[1]] = true
	}
	return names
}

// Main registers what the page lacks here; its names must be what it says.
func TestMainAddsWhatThePagesAssume(t *testing.T) {
	main := read(t, "../../main.go")
	for _, name := range []string{"coordinator_connections", "coordinator_idempotency_queued", "storage_connections"} {
		if !strings.Contains(main, `"`+name+`"`) {
			t.Errorf("main.go does not register %s", name)
		}
	}
}

func alertNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^      - alert: (\w+)$`).FindAllStringSubmatch(read(t, "prometheus/alerts.yml"), -1) {
		names = append(names, m[1])
	}
	if len(names) < 20 {
		t.Fatalf("only %d alerts are found", len(names))
	}
	return names
}

func TestAlertsNameMetricsThatExist(t *testing.T) {
	exist := sampleNames()
	rules := regexp.MustCompile(`(?m)^ +(summary|description|runbook): .*$`).ReplaceAllString(read(t, "prometheus/alerts.yml"), "")
	for _, name := range metricNames.FindAllString(rules, -1) {
		if !exist[name] {
			t.Errorf("no page has %s", name)
		}
	}
}

// The labels that alerts select and group by are those of the metrics.
func TestAlertsSelectLabelsThatExist(t *testing.T) {
	all := pages()
	known := map[string]bool{"instance": true, "job": true, "alertname": true}
	for _, m := range regexp.MustCompile(`[{,]([a-z_]+)="`).FindAllStringSubmatch(all, -1) {
		known[m[1]] = true
	}
	rules := read(t, "prometheus/alerts.yml")
	for _, m := range regexp.MustCompile(`(?:by|on) \(([a-z, ]+)\)`).FindAllStringSubmatch(rules, -1) {
		for _, name := range strings.Split(m[1], ", ") {
			if !known[name] {
				t.Errorf("no metric has label %q", name)
			}
		}
	}
	for _, m := range regexp.MustCompile(`method=~"([^"]+)"`).FindAllStringSubmatch(rules, -1) {
		for _, method := range strings.Split(m[1], "|") {
			if !strings.Contains(all, `method="`+method+`"`) {
				t.Errorf("no request has method %q", method)
			}
		}
	}
	for _, m := range regexp.MustCompile(`code=~?"([^"]+)"`).FindAllStringSubmatch(rules, -1) {
		for _, code := range strings.Split(m[1], "|") {
			if _, err := codeOf(code); err != nil {
				t.Errorf("code %q: %v", code, err)
			}
		}
	}
}

func codeOf(name string) (c codes.Code, err error) {
	return c, c.UnmarshalJSON([]byte(`"` + name + `"`))
}

// promtool is of the Debian package prometheus.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not on PATH, and CI needs it")
		}
		t.Skip("NOT CHECKED: promtool is not on PATH (Debian: apt-get install prometheus)")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = "prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestAlertRulesAreValid(t *testing.T) { promtool(t, "check", "rules", "alerts.yml") }

func TestAlertsFireWhenTheyShould(t *testing.T) {
	promtool(t, "test", "rules", "alerts_test.yml")
	tests := read(t, "prometheus/alerts_test.yml")
	for _, name := range alertNames(t) {
		for _, what := range []string{" fires\n", " is quiet\n"} {
			if !strings.Contains(tests, "name: "+name+what) {
				t.Errorf("no test named %q", name+strings.TrimSuffix(what, "\n"))
			}
		}
	}
}

func TestDashboardShowsMetricsThatExist(t *testing.T) {
	exist := sampleNames()
	dashboard := read(t, "grafana/dashboard.json")
	shown := map[string]bool{}
	for _, m := range regexp.MustCompile(`"expr": "((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(dashboard, -1) {
		for _, name := range metricNames.FindAllString(m[1], -1) {
			shown[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shown)) {
		if !exist[name] {
			t.Errorf("no page has %s", name)
		}
	}
	if len(shown) < 30 {
		t.Errorf("only %d metrics are shown", len(shown))
	}
}

func TestEveryAlertHasARunbook(t *testing.T) {
	page := read(t, "OPERATIONS.md")
	for _, name := range alertNames(t) {
		if !strings.Contains(page, "\n### "+name+"\n") {
			t.Errorf("OPERATIONS.md has no section %s", name)
		}
	}
}

func TestEveryMetricIsDocumented(t *testing.T) {
	page := read(t, "OPERATIONS.md")
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(pages(), -1) {
		if !strings.HasPrefix(m[1], "go_") && !strings.HasPrefix(m[1], "process_") && !strings.Contains(page, "`"+m[1]+"`") {
			t.Errorf("OPERATIONS.md does not tell of %s", m[1])
		}
	}
}

// Grafana puts its own variables in place; what is left must be PromQL.
func TestDashboardQueriesAreValid(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	rules := []byte("groups:\n- name: dashboard\n  rules:\n")
	queries := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expr, err := json.Marshal(strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")) // JSON is YAML
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, fmt.Sprintf("  - record: dashboard:query_%d\n    expr: %s\n", queries, expr)...)
			queries++
		}
	}
	if queries < 50 {
		t.Fatalf("only %d queries", queries)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, rules, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}
