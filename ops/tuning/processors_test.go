package tuning

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s; %d processors", what, runtime.GOMAXPROCS(0))
		}
	}
}

func TestFollowLoad(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	before := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(before)
	stop := FollowLoad(Signs{})
	eventually(t, "an idle process on one", func() bool { return runtime.GOMAXPROCS(0) == 1 })

	var ended atomic.Bool
	for range 4 {
		go func() {
			for !ended.Load() {
			}
		}()
	}
	eventually(t, "a busy process on more", func() bool { return runtime.GOMAXPROCS(0) > 1 })
	ended.Store(true)
	eventually(t, "idle again on one", func() bool { return runtime.GOMAXPROCS(0) == 1 })

	stop()
	if n := runtime.GOMAXPROCS(0); n != 3 {
		t.Errorf("%d processors after the end, want 3 as before", n)
	}
}

func TestFollowLoadCountsSyncs(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	var count atomic.Uint64
	var syncing atomic.Bool
	defer FollowLoad(Signs{Syncs: func() uint64 {
		if syncing.Load() {
			count.Add(1)
		}
		return count.Load()
	}})()
	eventually(t, "idle on one", func() bool { return runtime.GOMAXPROCS(0) == 1 })
	syncing.Store(true)
	eventually(t, "two while there are syncs", func() bool { return runtime.GOMAXPROCS(0) >= 2 })
}

func TestEnvironmentOverrides(t *testing.T) {
	before := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(before)
	t.Setenv("GOMAXPROCS", "3")
	stop := FollowLoad(Signs{Syncs: func() uint64 {
		t.Error("the load is followed in spite of GOMAXPROCS")
		return 0
	}})
	stop()

	percent := debug.SetGCPercent(77)
	defer debug.SetGCPercent(percent)
	t.Setenv("GOGC", "77")
	CollectRarely(CoordinatorGarbage, 0)
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("GOGC is %d, want 77 of the environment", got)
	}
	t.Setenv("GOGC", "")
	CollectRarely(CoordinatorGarbage, 0)
	if got := debug.SetGCPercent(77); got != CoordinatorGarbage {
		t.Errorf("GOGC is %d, want %d", got, CoordinatorGarbage)
	}
}

// The runtime still has the metrics that are looked at.
func TestRuntimeMetrics(t *testing.T) {
	waits, garbage := newWaits(), newGarbage()
	if waits.from == 0 {
		t.Error("no bucket of waits counts as late")
	}
	// A single processor that somebody keeps makes all others wait.
	before := runtime.GOMAXPROCS(1)
	for begin := time.Now(); time.Since(begin) < 30*time.Millisecond; {
		go func() {}()
	}
	runtime.GOMAXPROCS(before)
	eventually(t, "a goroutine that waited is noticed", waits.late)

	garbage.collecting(soon)
	if objects, goal := garbage.read[0].Value.Uint64(), garbage.read[1].Value.Uint64(); objects == 0 || goal == 0 {
		t.Errorf("%d bytes of objects, goal %d", objects, goal)
	}
	percent := debug.SetGCPercent(-1)
	defer debug.SetGCPercent(percent)
	if garbage.collecting(soon) {
		t.Error("garbage is collected where that is off")
	}
	used, err := usageNow()
	if err != nil || used.cpu <= 0 {
		t.Errorf("used %v, %v", used.cpu, err)
	}
}
