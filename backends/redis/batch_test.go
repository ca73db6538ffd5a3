package redis

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pairdb/coordinator/backends/redistest"
)

// Concurrent steps share pipelines: the server reads far fewer times than it
// takes steps.
func TestConcurrentStepsShareRoundTrips(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, on(server))
	must(t, s.mint(t.Context(), 0))
	reads := func() int {
		answer, err := server.Do(t.Context(), "INFO", "stats")
		must(t, err)
		n, err := strconv.Atoi(parseInfo(answer.(string))["total_reads_processed"])
		must(t, err)
		return n
	}
	before, readsBefore := s.Stats(), reads()
	var group sync.WaitGroup
	const callers, each = 64, 50
	for caller := range callers {
		group.Go(func() {
			for i := range each {
				if err := s.mint(t.Context(), 1+caller*each+i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	after := s.Stats()
	steps, trips, read := after.Steps-before.Steps, after.RoundTrips-before.RoundTrips, reads()-readsBefore
	t.Logf("%d steps in %d round trips; the server read %d times", steps, trips, read)
	if steps != 2*callers*each {
		t.Errorf("%d steps were counted, want %d", steps, 2*callers*each)
	}
	if trips*4 > steps || read*4 > int(steps) {
		t.Errorf("%d steps took %d round trips and %d reads, want at most a quarter", steps, trips, read)
	}
	if after.Connections > 2*singleSenders {
		t.Errorf("%d connections are open", after.Connections)
	}
}

// A lone caller's step is one round trip.
func TestLoneStepIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, on(server))
	must(t, s.mint(t.Context(), 0))
	before := s.Stats().RoundTrips
	for n := range 10 {
		must(t, s.mint(t.Context(), 1+n))
	}
	if trips := s.Stats().RoundTrips - before; trips != 20 {
		t.Errorf("10 reserves and mints took %d round trips, want 20", trips)
	}
}

// What Redis holds for each remembered key stays small.
func TestMemoryOfAClaim(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	opts := on(server)
	opts.KeyPrefix = defaultPrefix
	s := open(t, opts)
	used := func() int {
		answer, err := server.Do(t.Context(), "INFO", "memory")
		must(t, err)
		n, err := strconv.Atoi(parseInfo(answer.(string))["used_memory"])
		must(t, err)
		return n
	}
	must(t, s.mint(t.Context(), 0))
	before := used()
	const claims, callers = 10_000, 50
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for n := 1 + caller; n <= claims; n += callers {
				if err := s.mint(t.Context(), n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	total := 0
	answer, err := server.Do(t.Context(), "EVAL", `
local sum, cursor = 0, '0'
repeat
local page = redis.call('SCAN', cursor, 'COUNT', 1000)
cursor = page[1]
for _, key in ipairs(page[2]) do sum = sum + redis.call('MEMORY', 'USAGE', key) end
until cursor == '0'
return {sum, redis.call('DBSIZE')}`, 0)
	must(t, err)
	pair := answer.([]any)
	total, keys := int(pair[0].(int64)), int(pair[1].(int64))
	if keys != claims+1 {
		t.Fatalf("the server has %d keys, want %d", keys, claims+1)
	}
	grown := used() - before
	t.Logf("MEMORY USAGE: %d bytes a claim; used_memory grew by %d bytes a claim", total/keys, grown/claims)
	if total/keys > 300 {
		t.Errorf("a claim takes %d bytes, want at most 300", total/keys)
	}
}

func BenchmarkReserveMint(b *testing.B) {
	server := redistest.Start(b, redistest.Options{})
	s := open(b, on(server))
	if err := s.mint(b.Context(), 0); err != nil {
		b.Fatal(err)
	}
	for _, callers := range []int{1, 64} {
		b.Run(strconv.Itoa(callers)+"callers", func(b *testing.B) {
			b.ReportAllocs()
			before := s.Stats()
			var group sync.WaitGroup
			for caller := range callers {
				group.Go(func() {
					for n := caller; n < b.N; n += callers {
						if err := s.mint(b.Context(), n); err != nil && !strings.Contains(err.Error(), "in state") {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			after := s.Stats()
			b.ReportMetric(float64(after.Steps-before.Steps)/float64(after.RoundTrips-before.RoundTrips), "steps/trip")
			b.ReportMetric(float64(after.Steps-before.Steps)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}
