// Package tuning chooses what the Go runtime takes of the machine: when it
// collects garbage, how much memory is its limit, and on how many processors it
// schedules goroutines. GOGC, GOMEMLIMIT and GOMAXPROCS in the environment
// override what it would choose.
package tuning

import (
	"fmt"
	"os"
	"runtime/debug"

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

// CollectRarely lets garbage pile up to so many percent of what is live.
func CollectRarely(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
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
