package cli

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestZipfianKeysFollowTheirLaw(t *testing.T) {
	const n, draws = 1000, 500_000
	z, random := newZipfKeys(n), rand.New(rand.NewPCG(1, 2))
	var counts [n]int
	for range draws {
		counts[z.next(random)]++
	}
	zeta := 0.0
	for i := range n {
		zeta += math.Pow(float64(i+1), -zipfSkew)
	}
	// The method is exact for the first two ranks and approximates the others.
	for rank, tolerance := range map[int]float64{0: 0.02, 1: 0.02, 9: 0.15, 99: 0.2} {
		want := draws * math.Pow(float64(rank+1), -zipfSkew) / zeta
		if got := float64(counts[rank]); math.Abs(got-want) > tolerance*want+4*math.Sqrt(want) {
			t.Errorf("rank %d: %v draws, want %.0f", rank, got, want)
		}
	}
	if counts[n-1] == 0 && counts[n-2] == 0 && counts[n-3] == 0 {
		t.Error("the last keys are never drawn")
	}
}

func TestFewZipfianKeys(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= 4; n++ {
		z := newZipfKeys(n)
		seen := map[int]bool{}
		for range 1000 {
			seen[z.next(random)] = true
		}
		if len(seen) != n {
			t.Errorf("of %d keys %v are drawn", n, seen)
		}
	}
}

func TestSizesOfValues(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s, err := parseSizes("10-12")
	if err != nil || s.String() != "10-12" {
		t.Fatalf("%v, %v", s, err)
	}
	seen := map[int]bool{}
	for range 200 {
		seen[s.pick(random)] = true
	}
	if len(seen) != 3 || !seen[10] || !seen[12] {
		t.Errorf("sizes %v", seen)
	}
	if s, err := parseSizes("0"); err != nil || s.pick(random) != 0 || s.String() != "0" {
		t.Errorf("%v, %v", s, err)
	}
	for _, bad := range []string{"", "x", "-1", "5-", "9-3", "1-99999999"} {
		if _, err := parseSizes(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestBenchCountsRequests(t *testing.T) {
	s := newStore()
	addr := s.server().start(t)
	o := run(t, addr, "", "bench", "-count", "300", "-workers", "4", "-mix", "write", "-keys", "20", "-distribution", "zipfian",
		"-value-size", "5-50", "-interval", "10ms", "-json")
	var report struct {
		Distribution string       `json:"distribution"`
		Least        int          `json:"value_size_min"`
		Operations   []benchLine  `json:"operations"`
		Series       []seriesLine `json:"series"`
	}
	if err := json.Unmarshal([]byte(o.out), &report); err != nil || o.code != ExitDone {
		t.Fatalf("%v: %+v", err, o)
	}
	if report.Operations[0].Count != 300 || report.Distribution != "zipfian" || report.Least != 5 {
		t.Errorf("got %+v", report)
	}
	counted := int64(0)
	for i, l := range report.Series {
		counted += l.Count
		if i > 0 && l.Seconds <= report.Series[i-1].Seconds {
			t.Errorf("line %d is not later than the one before", i)
		}
	}
	if counted != 300 {
		t.Errorf("%d requests in %d lines", counted, len(report.Series))
	}
	for key, value := range s.values {
		if len(value) < 5 || len(value) > 50 {
			t.Errorf("%s has %d bytes", key, len(value))
		}
	}
}

func TestBenchReportsAsItGoes(t *testing.T) {
	o := run(t, newStore().server().start(t), "", "bench", "-duration", "250ms", "-workers", "2", "-mix", "write", "-rate", "200", "-interval", "50ms")
	lines := strings.Count(o.out, "\n# ") + 1
	if o.code != ExitDone || !strings.HasPrefix(o.out, "# ") || lines < 4 || lines > 7 {
		t.Errorf("%d lines: %+v", lines, o)
	}
}

func TestWrongWorkloads(t *testing.T) {
	for flags, want := range map[string]string{
		"-distribution normal": "-distribution must be uniform or zipfian",
		"-value-size 9-3":      "-value-size \"9-3\" is not a number of bytes, or a range",
		"-count -1":            "-rate and -count not below it",
		"-interval 1ms":        "-interval must be 0, or at least 10ms",
	} {
		if o := run(t, "127.0.0.1:1", "", append([]string{"bench"}, strings.Fields(flags)...)...); o.code != ExitUsage || !strings.Contains(o.stderr, want) {
			t.Errorf("%s: exit %d, %s", flags, o.code, o.stderr)
		}
	}
}
