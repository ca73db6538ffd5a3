package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// startPrometheus runs a real one with the cluster's alerts, which here wait for
// a second instead of minutes, and returns its address.
func startPrometheus(t *testing.T, jobs map[string][]string) string {
	t.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("prometheus is not on PATH, and CI needs it")
		}
		t.Skip("NOT CHECKED: prometheus is not on PATH (Debian: apt-get install prometheus)")
	}
	dir := t.TempDir()
	rules, err := os.ReadFile(filepath.FromSlash("../deploy/prometheus/alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	rules = regexp.MustCompile(`(?m)^        for: \w+$`).ReplaceAll(rules, []byte("        for: 1s"))
	config := "global:\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\n  evaluation_interval: 250ms\nrule_files: [alerts.yml]\nscrape_configs:\n"
	for job, targets := range jobs {
		list, err := json.Marshal(targets) // JSON is YAML
		if err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("- job_name: %s\n  static_configs:\n  - targets: %s\n", job, list)
	}
	for name, text := range map[string]string{"alerts.yml": string(rules), "prometheus.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var output strings.Builder
	cmd := exec.Command(path, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus:\n%s", output.String())
		}
	})
	return address
}

// prometheusAPI asks Prometheus and fills answer with the data.
func prometheusAPI(t *testing.T, address, path string, answer any) error {
	code, body := 0, ""
	eventually(t, startTimeout, func() error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	code, body = httpGet(t, "http://"+address+"/api/v1/"+path)
	if code != 200 {
		return fmt.Errorf("%s: %d %s", path, code, body)
	}
	return json.Unmarshal([]byte(body), &struct {
		Data any `json:"data"`
	}{answer})
}

// query returns the only value of an expression.
func query(t *testing.T, address, expr string) (float64, error) {
	var answer struct {
		Result []struct {
			Value [2]any `json:"value"`
		} `json:"result"`
	}
	if err := prometheusAPI(t, address, "query?query="+url.QueryEscape(expr), &answer); err != nil {
		return 0, err
	}
	if len(answer.Result) != 1 {
		return 0, fmt.Errorf("%s has %d results", expr, len(answer.Result))
	}
	text, _ := answer.Result[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// A real Prometheus scrapes two coordinators and their storage nodes: latencies
// have quantiles, every alert evaluates, and a killed node fires its own.
func TestPrometheusWatchesACluster(t *testing.T) {
	dir := t.TempDir()
	p := startPair(t, func(i int, listen string) *process {
		return startConfiguredAt(t, fmt.Sprintf("coordinator-%d", i+1), dir, listen, "hash_ring {\n update_interval = \"1s\"\n}")
	})
	jobs := map[string][]string{}
	for _, c := range p.coordinators {
		jobs["coordinator"] = append(jobs["coordinator"], c.ops)
	}
	for _, s := range p.storage {
		jobs["storage"] = append(jobs["storage"], s.ops)
	}
	address := startPrometheus(t, jobs)
	clients := []pb.CoordinatorServiceClient{p.coordinators[0].dial(), p.coordinators[1].dial()}
	eventually(t, startTimeout, func() error {
		for i := range 20 {
			if err := write(t, clients[i%2], fmt.Sprint(i), "v", "quorum"); err != nil {
				return err
			}
		}
		p95, err := query(t, address, `histogram_quantile(0.95, sum by (le) (rate(coordinator_request_duration_seconds_bucket{method="WriteKeyValue"}[10s])))`)
		if err == nil && !(p95 > 0 && p95 < 10) {
			err = fmt.Errorf("p95 of writes is %v", p95)
		}
		return err
	})
	if up, err := query(t, address, "sum(up)"); err != nil || up != 5 {
		t.Errorf("%v of 5 targets are up: %v", up, err)
	}

	type rule struct {
		Name, Health, LastError, State string
		Alerts                         []struct {
			Labels map[string]string
			State  string
		}
	}
	rules := func() (all map[string]rule, err error) {
		var answer struct {
			Groups []struct{ Rules []rule } `json:"groups"`
		}
		if err := prometheusAPI(t, address, "rules", &answer); err != nil {
			return nil, err
		}
		all = map[string]rule{}
		for _, g := range answer.Groups {
			for _, r := range g.Rules {
				all[r.Name] = r
			}
		}
		return all, nil
	}
	eventually(t, startTimeout, func() error {
		all, err := rules()
		if err != nil {
			return err
		}
		if len(all) < 30 {
			return fmt.Errorf("%d rules", len(all))
		}
		for _, r := range all {
			if r.Health != "ok" {
				return fmt.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
		return nil
	})
	firing := func(alert, label, value string) error {
		all, err := rules()
		if err != nil {
			return err
		}
		for _, a := range all[alert].Alerts {
			if a.State == "firing" && a.Labels[label] == value {
				return nil
			}
		}
		return fmt.Errorf("%s does not fire for %s %s: %+v", alert, label, value, all[alert])
	}
	if firing("StorageNodeUnavailable", "node", "storage-2") == nil {
		t.Fatal("StorageNodeUnavailable fires while all nodes are up")
	}
	p.storage[1].kill()
	eventually(t, startTimeout, func() error {
		return errors.Join(firing("StorageNodeUnavailable", "node", "storage-2"), firing("StorageDown", "instance", p.storage[1].ops))
	})
}
