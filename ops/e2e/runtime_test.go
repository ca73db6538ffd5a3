package e2e

import (
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
)

// memoryLimit is the runtime's limit of memory that a process reports.
func memoryLimit(t *testing.T, p *process) float64 {
	t.Helper()
	_, page := httpGet(t, "http://"+p.ops+"/metrics")
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, "go_memlimit_bytes "); ok {
			limit, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return limit
		}
	}
	t.Fatal("go_memlimit_bytes is not on the page")
	return 0
}

// Coordinators and storage nodes know how much memory there is for them, and
// the environment has the last word.
func TestMemoryLimit(t *testing.T) {
	starts := map[string]func() *process{
		"coordinator": func() *process { return startDev(t) },
		"storage":     func() *process { return startStorage(t, "s1", t.TempDir()) },
	}
	for _, name := range []string{"GOMEMLIMIT", "AUTOMEMLIMIT"} {
		t.Setenv(name, "") // so that it is put back
		os.Unsetenv(name)
	}
	for name, run := range starts {
		if limit := memoryLimit(t, run()); limit <= 0 || limit >= math.MaxInt64 {
			t.Errorf("%s: by itself the limit is %g bytes", name, limit)
		}
	}
	t.Setenv("GOMEMLIMIT", "300MiB")
	for name, run := range starts {
		if limit := memoryLimit(t, run()); limit != 300<<20 {
			t.Errorf("%s: with GOMEMLIMIT=300MiB the limit is %g bytes", name, limit)
		}
	}
}
