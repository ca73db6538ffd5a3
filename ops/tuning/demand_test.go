package tuning

import (
	"testing"
	"time"
)

// during gives d samples of a load for some time, and returns what it says last.
func during(d *demand, length time.Duration, load func(n int) sample) int {
	const step = 20 * time.Millisecond
	for ; length > 0; length -= step {
		s := load(d.n)
		s.elapsed = step
		d.next(s)
	}
	return d.n
}

// using is a load that keeps so many processors busy, where there are as many.
func using(processors float64) func(int) sample {
	return func(n int) sample {
		return sample{used: time.Duration(min(processors, float64(n)) * float64(20*time.Millisecond))}
	}
}

func TestDemand(t *testing.T) {
	with := func(processors float64, change func(*sample)) func(int) sample {
		return func(n int) sample {
			s := using(processors)(n)
			change(&s)
			return s
		}
	}
	for _, c := range []struct {
		name   string
		most   int
		length time.Duration
		load   func(int) sample
		want   int
	}{
		{"at the start there are all", 8, 0, using(0), 8},
		{"a second of idleness changes nothing", 8, time.Second, using(0), 8},
		{"idle", 8, 10 * time.Second, using(0), 1},
		{"half a processor", 8, 10 * time.Second, using(0.5), 1},
		{"what is too much for one, with room", 8, 10 * time.Second, using(1.2), 2},
		{"all of them", 8, 10 * time.Second, using(8), 8},
		{"more than there are", 8, 10 * time.Second, using(100), 8},
		{"waiting for the disk in system calls", 8, 10 * time.Second, with(0.2, func(s *sample) { s.syncs = true }), 2},
		{"collecting garbage", 8, 10 * time.Second, with(0.2, func(s *sample) { s.collecting = true }), 2},
		{"waiting for pages", 8, 10 * time.Second, with(0.2, func(s *sample) { s.faults = true }), 8},
		{"few operations in a message", 8, 10 * time.Second, with(0.5, func(s *sample) { s.messages, s.operations = 100, 300 }), 2},
		{"many operations in a message", 8, 10 * time.Second, with(0.5, func(s *sample) { s.messages, s.operations = 100, 1000 }), 1},
		{"few operations in a message, on one", 1, 10 * time.Second, with(0.5, func(s *sample) { s.messages, s.operations = 100, 300 }), 1},
		{"late", 8, 10 * time.Second, with(0.2, func(s *sample) { s.late = true }), 10},
		{"late, on two", 2, 10 * time.Second, with(1, func(s *sample) { s.late = true }), 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDemand(c.most)
			if got := during(&d, c.length, c.load); got != c.want {
				t.Errorf("%d processors, want %d", got, c.want)
			}
		})
	}
}

func TestDemandFollows(t *testing.T) {
	d := newDemand(8)
	during(&d, 10*time.Second, using(0.3))
	if got := during(&d, 200*time.Millisecond, using(8)); got != 8 {
		t.Errorf("200 ms after a load on everything began: %d processors, want 8", got)
	}
	if got := during(&d, 900*time.Millisecond, using(0.3)); got != 8 {
		t.Errorf("900 ms after it ended: %d processors, want 8 yet", got)
	}
	if got := during(&d, 10*time.Second, using(0.3)); got != 1 {
		t.Errorf("10 s after it ended: %d processors, want 1", got)
	}
	// One that is too much for one processor by little does not make it go up
	// and down.
	changes, last := 0, d.n
	during(&d, 20*time.Second, func(n int) sample {
		if n != last {
			changes, last = changes+1, n
		}
		if n > 1 {
			return using(0.94)(n) // the same work costs a fifth more
		}
		return using(0.78)(n)
	})
	if changes > 1 {
		t.Errorf("a steady load changed the processors %d times", changes)
	}
	if d.next(sample{}) != last {
		t.Error("a sample of no time changed something")
	}
}

// What is soon over keeps a processor for long only where that is not needed less.
func TestDemandAfterWhatIsSoonOver(t *testing.T) {
	for name, over := range map[string]func(*sample){
		"late":              func(s *sample) { s.late = true },
		"waiting for pages": func(s *sample) { s.faults = true },
	} {
		for _, c := range []struct {
			thrifty              bool
			messages, operations uint64
			want                 bool // a processor more, 800 ms later
		}{{true, 0, 0, true}, {true, 100, 500, true}, {true, 100, 1000, false}, {false, 100, 1000, true}} {
			d := newDemand(8)
			d.thrifty = c.thrifty
			load := func(n int) sample {
				s := using(0.3)(n)
				s.messages, s.operations = c.messages, c.operations
				return s
			}
			during(&d, 10*time.Second, load)
			least := d.n
			grown := during(&d, 20*time.Millisecond, func(n int) sample { s := load(n); over(&s); return s })
			if grown <= least {
				t.Errorf("%s, %d operations in %d messages: %d processors after %d", name, c.operations, c.messages, grown, least)
			}
			if got := during(&d, 800*time.Millisecond, load); got > least != c.want {
				t.Errorf("%s, %d operations in %d messages: %d processors 800 ms later, from %d, want more: %t",
					name, c.operations, c.messages, got, least, c.want)
			}
		}
	}
}

// With fewer processors more gathers in a message, which must not make it go up
// and down.
func TestDemandFollowsMessages(t *testing.T) {
	d := newDemand(2)
	load := func(onOne, onTwo uint64) func(int) sample {
		return func(n int) sample {
			s := using(0.5)(n)
			s.messages, s.operations = 100, 100*onTwo
			if n == 1 {
				s.operations = 100 * onOne
			}
			return s
		}
	}
	steady := func(what string, want int, load func(int) sample) {
		t.Helper()
		during(&d, 5*time.Second, load)
		for range 500 {
			if n := during(&d, 20*time.Millisecond, load); n != want {
				t.Fatalf("%s: %d processors, want %d", what, n, want)
			}
		}
	}
	steady("few", 2, load(3, 2))
	steady("more, but not many", 2, load(8, 7))
	steady("many", 1, load(12, 9))
	steady("as many as gather on one processor, not on two", 1, load(7, 5))
	steady("few again", 2, load(3, 2))
	steady("none", 2, using(0.5))
}
