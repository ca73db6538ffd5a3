//go:build unix

package tuning

import (
	"fmt"
	"syscall"
	"time"
)

func usageNow() (usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}, fmt.Errorf("tell what the process used: %w", err)
	}
	return usage{time.Now(), time.Duration(r.Utime.Nano() + r.Stime.Nano()), int64(r.Majflt)}, nil
}
