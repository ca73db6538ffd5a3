package coord

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed       = flag.Uint64("sim.seed", 0, "run this seed alone and print its trace if it fails")
	simRuns       = flag.Uint64("sim.runs", 0, "run the seeds from 1 to this")
	simOperations = flag.Int("sim.ops", 1000, "operations a seed, of its clients")
	simResults    = flag.String("sim.results", "", "`file` to which figures are appended, and which tells what seeds need not be run again")
	simTraceLines = flag.Int("sim.trace", 150, "so many lines of a failing seed's trace are printed")
)

// TestSimulation runs seeds. Without flags it runs a few of them, with CI=true
// the 2,000 that every change has to pass, each from its beginning. With a
// results file it goes on where an earlier run of the same code stopped.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		runOne(t, *simSeed)
		return
	}
	runs := *simRuns
	switch {
	case runs != 0:
	case simRace:
		runs = 20
	case os.Getenv("CI") == "true":
		runs = 2000
	default:
		runs = 200
	}
	results := openResults(t, *simResults)
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	var total simChunk
	for from := uint64(1); from <= runs && !t.Failed(); from += seedsAChunk {
		to := min(from+seedsAChunk-1, runs)
		if results.done[seedRange{from, to}] {
			continue
		}
		chunk := runChunk(from, to, nil)
		results.append(t, chunk)
		total.add(chunk)
		for _, f := range chunk.failures[:min(len(chunk.failures), 3)] {
			t.Errorf("%s", f.report())
		}
	}
	t.Logf("%s", total.String())
	// A run that shows nothing must be rare, or the rest may be worth as little.
	if ran := total.seeds; ran >= 100 && total.invalid*20 > ran {
		t.Errorf("%d of %d runs were invalid: too few operations succeeded, or too few faults happened", total.invalid, ran)
	}
}

// TestSimulationRepeats shows that a seed's run repeats byte for byte.
func TestSimulationRepeats(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		var traces [2]string
		for i := range traces {
			s := newSim(seed, 300, nil)
			s.trace = new(simTrace)
			s.run()
			traces[i] = s.trace.text(nil, len(s.trace.lines))
		}
		if traces[0] != traces[1] {
			t.Errorf("seed %d: two runs differ", seed)
		}
		if strings.Count(traces[0], "\n") < 300 {
			t.Errorf("seed %d: a trace of %d lines", seed, strings.Count(traces[0], "\n"))
		}
	}
}

func runOne(t *testing.T, seed uint64) {
	s := newSim(seed, *simOperations, nil)
	s.run()
	if s.violation != nil {
		t.Fatal(simFailure{seed, *simOperations, s.violation, nil}.report())
	}
	chunk := simChunk{seeds: 1, figures: s.figures}
	t.Logf("%s\n%s%s", &s.swarm, chunk.String(), s.invalid())
}

// simFailure is a seed that violates a predicate.
type simFailure struct {
	seed       uint64
	operations int
	violation  *violation
	direct     func(*swarm, dice)
}

// report runs the seed again, with a trace.
func (f simFailure) report() string {
	s := newSim(f.seed, f.operations, f.direct)
	s.trace = new(simTrace)
	s.run()
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %v\n", f.seed, f.violation)
	fmt.Fprintf(&b, "replay: make sim SEED=%d\n%s\n", f.seed, &s.swarm)
	if s.violation == nil || s.violation.Error() != f.violation.Error() {
		fmt.Fprintf(&b, "and a second run differs: %v\n", s.violation)
	} else {
		b.WriteString(s.trace.text(s.violation.key, *simTraceLines))
	}
	return b.String()
}

// simChunk is what some seeds have shown.
type simChunk struct {
	from, to uint64
	seeds    int64
	valid    int64
	invalid  int64
	figures  simFigures
	failures []simFailure
	took     time.Duration
}

// seedsAChunk is how many seeds share a line of the results file.
const seedsAChunk = 500

func (c *simChunk) add(x *simChunk) {
	c.seeds += x.seeds
	c.valid += x.valid
	c.invalid += x.invalid
	c.figures.add(&x.figures)
	c.failures = append(c.failures, x.failures...)
	c.took += x.took
}

func (c *simChunk) perSecond(n int64) int64 {
	return int64(float64(n) / max(c.took.Seconds(), 1e-9))
}

func (c *simChunk) faults() string {
	var b strings.Builder
	for k := range faultKinds {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%d", k, c.figures.faults[k])
	}
	return b.String()
}

func (c *simChunk) String() string {
	f := &c.figures
	return fmt.Sprintf("%d seeds, %d valid, %d invalid, %d failed; %d operations, %d succeeded, %d checked for linearizability (%d histories given up);\n"+
		"%v: %d seeds/s, %d operations/s, %d operations checked/s; faults: %s\n",
		c.seeds, c.valid, c.invalid, len(c.failures), f.operations, f.succeeded, f.checked, f.unknown,
		c.took.Round(time.Millisecond), c.perSecond(c.seeds), c.perSecond(f.operations), c.perSecond(f.checked), c.faults())
}

// runChunk runs seeds on all processors. Its figures, but for the time it took,
// depend on the seeds alone.
func runChunk(from, to uint64, direct func(*swarm, dice)) *simChunk {
	chunk := &simChunk{from: from, to: to}
	began := time.Now()
	var next atomic.Uint64
	next.Store(from - 1)
	var mu sync.Mutex
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for {
				seed := next.Add(1)
				if seed > to {
					return
				}
				s := newSim(seed, *simOperations, direct)
				s.run()
				mu.Lock()
				chunk.seeds++
				chunk.figures.add(&s.figures)
				switch {
				case s.violation != nil:
					chunk.failures = append(chunk.failures, simFailure{seed, *simOperations, s.violation, direct})
				case s.invalid() != "" || s.figures.unknown > 0:
					chunk.invalid++
				default:
					chunk.valid++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	chunk.took = time.Since(began)
	slices.SortFunc(chunk.failures, func(x, y simFailure) int { return int(x.seed) - int(y.seed) })
	return chunk
}

type seedRange struct{ from, to uint64 }

// simResultsFile is the file of results: lines of tab-separated figures.
type simResultsFile struct {
	path    string
	version string
	done    map[seedRange]bool // by this version of the code, without a failure
}

const resultsHeader = "version\tfrom\tto\toperations_a_seed\tseeds\tvalid\tinvalid\tfailed\toperations\tsucceeded\tchecked\tchecked_a_second\tseconds\tfaults\tfailing_seeds\n"

func openResults(t *testing.T, path string) *simResultsFile {
	f := &simResultsFile{path: path, version: engineVersion(t), done: map[seedRange]bool{}}
	if path == "" {
		return f
	}
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var version string
		var r seedRange
		var operations int
		var seeds, valid, invalid, failed int64
		_, err := fmt.Sscan(line, &version, &r.from, &r.to, &operations, &seeds, &valid, &invalid, &failed)
		if err == nil && version == f.version && operations == *simOperations && failed == 0 {
			f.done[r] = true
		}
	}
	return f
}

func (f *simResultsFile) append(t *testing.T, c *simChunk) {
	if f.path == "" {
		return
	}
	t.Logf("seeds %d to %d: %d failed, %d invalid, %d seeds/s", c.from, c.to, len(c.failures), c.invalid, c.perSecond(c.seeds))
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var b bytes.Buffer
	if info, err := file.Stat(); err == nil && info.Size() == 0 {
		b.WriteString(resultsHeader)
	}
	var failing []string
	for _, x := range c.failures {
		failing = append(failing, fmt.Sprint(x.seed))
	}
	g := &c.figures
	fmt.Fprintf(&b, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t%s\t%s\n",
		f.version, c.from, c.to, *simOperations, c.seeds, c.valid, c.invalid, len(c.failures), g.operations, g.succeeded, g.checked,
		c.perSecond(g.checked), c.took.Seconds(), c.faults(), strings.Join(failing, ","))
	if _, err := file.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// engineVersion identifies the code that a run is evidence for: the engine, the
// ring and the simulator itself.
func engineVersion(t *testing.T) string {
	hash := sha256.New()
	for _, pattern := range []string{"*.go", "../ring/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if base := filepath.Base(name); strings.HasSuffix(base, "_test.go") && !strings.HasPrefix(base, "sim_") {
				continue
			}
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:6])
}
