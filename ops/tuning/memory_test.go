package tuning

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

func TestCollectRarely(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	const least = 64 << 20
	stop := CollectRarely(CoordinatorGarbage, least)
	defer stop()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	read := func() uint64 {
		runtime.GC()
		metrics.Read(goal)
		return goal[0].Value.Uint64()
	}
	eventually(t, "little is live, and the next collection is far", func() bool { return read() >= least })

	live := make([]byte, least)
	eventually(t, "much is live, and the percentage counts", func() bool { return read() > least*(1+CoordinatorGarbage/100) })
	runtime.KeepAlive(live)
	eventually(t, "little is live again", func() bool { return read() < 2*least })

	stop()
	debug.SetGCPercent(77)
	for range 3 {
		runtime.GC()
	}
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("GOGC is %d after the end, want 77 as set", got)
	}
}

func TestPercentageOfLiveBytes(t *testing.T) {
	c := &collections{percent: 400, least: 100 << 20}
	for live, want := range map[int64]int{0: 2500, 1 << 20: 2500, 10 << 20: 1000, 25 << 20: 400, 1 << 30: 400} {
		if got := c.wanted(live); got != want {
			t.Errorf("%d bytes live: %d %%, want %d", live, got, want)
		}
	}
}
