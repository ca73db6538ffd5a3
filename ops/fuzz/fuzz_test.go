package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// module has one target that holds and one that does not.
var module = map[string]string{
	"go.mod": "module example.com/m\n\ngo 1.24\n",
	"m.go":   "package m\n",
	"m_test.go": `package m

import "testing"

const text = ` + "`" + `
func FuzzNothing(f *testing.F) {}
` + "`" + `

func FuzzHolds(f *testing.F) {
	f.Add(1)
	f.Fuzz(func(t *testing.T, n int) {})
}

func FuzzFails(f *testing.F) {
	f.Add(uint8(1))
	f.Fuzz(func(t *testing.T, n uint8) {
		if n == 7 {
			t.Fatal("seven")
		}
	})
}
`,
}

// What was run is not run again, and a finding starts a target anew.
func TestResultsAreKept(t *testing.T) {
	dir := t.TempDir()
	for name, text := range module {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	file := filepath.Join(t.TempDir(), "results.tsv")
	lines := func() []string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	fuzz := func(length string) (string, error) {
		var out strings.Builder
		err := run(t.Context(), []string{"-for", length, "-chunk", "1s", "-workers", "1", "-results", file}, &out)
		return out.String(), err
	}

	out, err := fuzz("2s")
	if err == nil || !strings.Contains(err.Error(), "example.com/m.FuzzFails: finding") || !strings.Contains(out, "seven") {
		t.Errorf("it ends with %v and says %s; want the finding", err, out)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "testdata/fuzz/FuzzFails/*")); err != nil || len(found) != 1 {
		t.Errorf("the corpus has %v, %v; want the finding", found, err)
	}
	first := lines()
	if first[0] != heading {
		t.Errorf("the file begins with %q", first[0])
	}
	sums, err := openResults(file)
	if err != nil {
		t.Fatal(err)
	}
	defer sums.close()
	if got := sums.clean("example.com/m.FuzzHolds"); got < 2*time.Second {
		t.Errorf("a target that holds has run %v, want 2s", got)
	}
	if got := sums.clean("example.com/m.FuzzFails"); got != 0 {
		t.Errorf("a target with a finding has run %v, want nothing", got)
	}

	// It is in the corpus, and so is found again at once; the other one is done.
	if _, err := fuzz("2s"); err == nil {
		t.Error("a finding that is not mended is passed over")
	}
	added := lines()[len(first):]
	if len(added) != 1 || !strings.Contains(added[0], "FuzzFails") || !strings.HasSuffix(added[0], "\tfinding") {
		t.Errorf("the second run adds %q, want the same finding", added)
	}
	if err := os.WriteFile("m_test.go", []byte(strings.Replace(module["m_test.go"], "n == 7", "false", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := fuzz("2s"); err != nil {
		t.Errorf("once it is mended: %v\n%s", err, out)
	}
	before := len(lines())
	if out, err := fuzz("2s"); err != nil || out != "" || len(lines()) != before {
		t.Errorf("with nothing left to do it says %q, %v and adds lines", out, err)
	}
}

func TestJudge(t *testing.T) {
	const going = "fuzz: elapsed: 3s, execs: 10 (3/sec), new interesting: 1 (total: 4)\n" +
		"fuzz: elapsed: 1m0s, execs: 4321 (77/sec), new interesting: 2 (total: 5)\n"
	failed := errors.New("exit status 1")
	for _, c := range []struct {
		name, out string
		err       error
		want      string
	}{
		{"it goes well", going + "PASS\n", nil, "60\t4321\t2\t5\tclean"},
		{"it finds something", going + "--- FAIL: FuzzX (3.00s)\n    Failing input written to testdata/fuzz/FuzzX/1\nFAIL\n", failed, "60\t4321\t2\t5\tfinding"},
		{"the corpus fails", "--- FAIL: FuzzX/1 (0.00s)\nFAIL\n", failed, "60\t0\t0\t0\tfinding"},
		// The testing package may take the end of the time for a failure.
		{"the time ends", going + "--- FAIL: FuzzX (60.1s)\n    context deadline exceeded\nFAIL\n", failed, "60\t4321\t2\t5\tended early: exit status 1"},
		{"nothing is run", "PASS\n", nil, "60\t0\t0\t0\tended early: nothing was run"},
		{"it is killed", going, errors.New("signal: killed"), "60\t4321\t2\t5\tended early: signal: killed"},
	} {
		r := judge("p.FuzzX", time.Unix(0, 0), time.Minute, c.out, c.err)
		if want := "1970-01-01T00:00:00Z\tp.FuzzX\t" + c.want; r.line() != want {
			t.Errorf("%s: %q, want %q", c.name, r.line(), want)
		}
	}
}

func TestBadResultsAndFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.tsv")
	for _, text := range []string{"a\tb\n", heading + "\nnow\tp.FuzzX\tlong\t1\t1\t1\tclean\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openResults(file); err == nil || !strings.Contains(err.Error(), file+":") {
			t.Errorf("%q is read with %v, want an error that names the line", text, err)
		}
	}
	for _, args := range [][]string{{"-for", "0s"}, {"-parallel", "0"}, {"-workers", "-1"}, {"-run", "("}, {"-run", "NoSuchTarget", "."}} {
		if err := run(t.Context(), args, os.Stderr); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
