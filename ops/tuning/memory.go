// Package tuning chooses what the Go runtime takes of the machine: when it
// collects garbage, how much memory is its limit, and on how many processors it
// schedules goroutines. GOGC, GOMEMLIMIT and GOMAXPROCS in the environment
// override what it would choose.
package tuning

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// What garbage may pile up, in percent of what is live, before it is collected.
// Measured against 100 in one run: a coordinator took up to 6 % less processor
// time a read, for 50 to 110 MiB more memory; a storage node 5 % less a write, for
// 50 MiB. More gained no more.
const (
	CoordinatorGarbage = 400
	StorageGarbage     = 200
)

// memoryShare of the memory that the process may use (of its cgroup, or of the
// machine) is where collecting becomes more important than processor time. A
// heap that may be several times what is live would else be ended by the kernel
// where a fifth of it is not much. The rest is for what Go does not count:
// mapped files, SQLite's cache, the kernel's buffers. A limit alone, without a
// percentage, gained no more, for all of the memory.
const memoryShare = 0.7

// CoordinatorLeast is how much garbage, in bytes, a coordinator lets pile up even
// where little is live. Of its 12 MiB or so little is marked, but a collection
// and the sweep after it hold requests up for some 9 ms, and at half of the peak
// there was one each second. Twice as much costs a twentieth of a coordinator's
// processor time, for what is not in caches. In a storage node more is live; there
// the pages that a larger heap touches first cost more (4 % a write) than is saved.
const CoordinatorLeast = 128 << 20

// CollectRarely lets garbage pile up to so many percent of what is live, and to
// least bytes in any case, until the function that it returns is called.
func CollectRarely(percent int, least int64) (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	debug.SetGCPercent(percent)
	if least <= 0 {
		return func() {}
	}
	c := &collections{percent: percent, least: least, set: percent}
	c.follow()
	return c.stop
}

// collections sets the percentage anew after each collection.
type collections struct {
	percent int
	least   int64

	mu      sync.Mutex
	set     int // percent
	stopped bool
}

// follow has next called after the next collection.
func (c *collections) follow() {
	// Too large for the runtime to put it together with other small objects.
	dead := new([64]byte)
	runtime.AddCleanup(dead, (*collections).next, c)
}

func (c *collections) next() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || live[0].Value.Kind() != metrics.KindUint64 {
		return
	}
	c.follow()
	percent := c.wanted(int64(live[0].Value.Uint64()))
	// To set it stops the world.
	if change := percent - c.set; 10*max(change, -change) > c.set {
		c.set = percent
		debug.SetGCPercent(percent)
	}
}

// runtimeLeast is what is live at least for the runtime: it lets a heap grow to a
// percentage of it in any case.
const runtimeLeast = 4 << 20

// wanted is the percentage where so many bytes are live.
func (c *collections) wanted(live int64) int {
	return max(c.percent, int(100*c.least/max(live, runtimeLeast)))
}

func (c *collections) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
}

// LimitMemory keeps the heap within a share of what there is. It fails where
// nobody tells how much that is; then there is no limit.
func LimitMemory() error {
	_, err := memlimit.Set(memlimit.WithRatio(memoryShare),
		memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)))
	if err != nil {
		return fmt.Errorf("tell how much memory there is: %w", err)
	}
	return nil
}
