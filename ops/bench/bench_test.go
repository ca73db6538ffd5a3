package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
)

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"4242 (storage) S 1 2 3 4 5 6 7 8 9 10 123 45 0 0 20", 1680 * time.Millisecond, true},
		{"4242 (a ) b) c) S 1 2 3 4 5 6 7 8 9 10 1 2 0 0 20", 30 * time.Millisecond, true},
		{"4242 (short) S 1 2", 0, false},
		{"4242 (words) S 1 2 3 4 5 6 7 8 9 10 many 45 0", 0, false},
		{"", 0, false},
	} {
		got, err := parseStat([]byte(c.text))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %v, %v; want %v", c.text, got, err, c.want)
		}
	}
}

func TestParseReplicaCalls(t *testing.T) {
	const page = `# TYPE coordinator_requests_total counter
coordinator_requests_total{method="ReadKeyValue",code="OK"} 7
coordinator_requests_total{method="WriteKeyValue",code="UNAVAILABLE"} 1
coordinator_replica_call_duration_seconds_bucket{node="a",kind="head",le="+Inf"} 9
coordinator_replica_call_duration_seconds_count{node="a",kind="head"} 9
coordinator_replica_call_duration_seconds_count{node="b",kind="head"} 2
coordinator_replica_call_duration_seconds_count{node="b",kind="read"} 3
coordinator_replica_call_duration_seconds_count{node="b",kind="apply"} 4
`
	got, err := parseReplicaCalls([]byte(page))
	if want := (replicaCalls{head: 11, read: 3, apply: 4, requests: 8}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := parseReplicaCalls([]byte("coordinator_requests_total{} x\n")); err == nil {
		t.Error("a count that is no number was accepted")
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		bar    *bar
		figure float64
		want   string
	}{
		{atLeast(0.3, 0.45), 0.29, resultBelow},
		{atLeast(0.3, 0.45), 0.30, resultPass},
		{atLeast(0.3, 0.45), 0.45, resultAim},
		{atMost(2.4, 1.8), 2.5, resultBelow},
		{atMost(2.4, 1.8), 2.4, resultPass},
		{atMost(2.4, 1.8), 1.8, resultAim},
		{atMost(5, 0), 0.1, resultPass},
	} {
		if got := c.bar.judge("", c.figure).Result; got != c.want {
			t.Errorf("%v against %+v: %s, want %s", c.figure, *c.bar, got, c.want)
		}
	}
}

func TestCaseNamesAreUnique(t *testing.T) {
	b := &bench{length: time.Second, rounds: 1}
	seen := map[string]bool{}
	for _, s := range b.plan(func(string) bool { return true }) {
		if seen[s.name] || s.took <= 0 {
			t.Errorf("case %q: seen before %v, takes %v", s.name, seen[s.name], s.took)
		}
		seen[s.name] = true
	}
}

// The load generator against an echo in this process: every operation is
// answered and counted, closed loop and at a set rate.
func TestLoadOnEcho(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newEcho(100)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	here, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	s := &system{name: systemEcho, server: &process{name: systemEcho, cmd: &exec.Cmd{Process: here}}}
	if s.unary, err = dialUnary(listener.Addr().String(), 2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.unary.close)
	l := newLoad(4, 2, 10, 100)
	for _, do := range []operation{opWrite, opRead, opMix, opKeyed} {
		got, err := l.run(t.Context(), s, s.unary, drive{do: do, warmUp: 20 * time.Millisecond, length: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if got.ops == 0 || len(got.errors) > 0 || got.latency.TotalCount() != got.ops || got.quantile(50) <= 0 {
			t.Errorf("%s: %d operations, %d latencies, errors %v", do, got.ops, got.latency.TotalCount(), got.errors)
		}
	}
	const rate = 200
	got, err := l.run(t.Context(), s, s.unary, drive{do: opMix, rate: rate, length: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got.rate() > 1.1*rate {
		t.Errorf("%.0f operations a second were sent, %d were asked for", got.rate(), rate)
	}
}

// The load of many tenants against a coordinator with replicas in memory, in a
// process of its own: every key is written and found under its tenant.
func TestLoadOnMemory(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := newLoad(4, 2, 50, 100)
	launcher := &launcher{dir: t.TempDir(), self: self, load: l}
	s, err := launcher.launch(t.Context(), layout{name: systemMemory, nodes: 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	way := spread{s.unary, []string{tenantName(0), tenantName(1), tenantName(2)}}
	if err := l.prepare(t.Context(), way, ""); err != nil {
		t.Fatal(err)
	}
	for _, do := range []operation{opWrite, opRead} {
		got, err := l.run(t.Context(), s, way, drive{do: do, length: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if got.ops == 0 || len(got.errors) > 0 {
			t.Errorf("%s: %d operations, errors %v", do, got.ops, got.errors)
		}
	}
	if err := way.unary.lane(0, tenantName(1)).read(t.Context(), l.keys[0]); status.Convert(err).Message() != coord.ErrKeyNotFound.Error() {
		t.Errorf("a key of one tenant, read as another's: %v", err)
	}
}

// TestMain lets the test program stand for this one where it starts itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == memoryCommand || os.Args[1] == echoCommand) {
		main()
	}
	os.Exit(m.Run())
}

// A server that is gone is an error, not a figure.
func TestLoadOnNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	here, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	s := &system{name: systemEcho, server: &process{name: systemEcho, cmd: &exec.Cmd{Process: here}}}
	if s.unary, err = dialUnary(address, 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.unary.close)
	_, err = newLoad(1, 1, 1, 1).run(t.Context(), s, s.unary, drive{do: opRead, length: 20 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "Unavailable") {
		t.Errorf("measured a server that is gone: %v", err)
	}
}
