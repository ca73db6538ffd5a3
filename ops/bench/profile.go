package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// profile takes profiles of the system's processes for the length of the next
// measurement: the coordinator's by its own means, and those of all with perf,
// where that is installed. What fails is noted; nothing waits for it.
func (b *bench) profile(ctx context.Context, s *system, name string, length time.Duration) {
	if b.profiles == "" {
		return
	}
	prefix := filepath.Join(b.profiles, strings.ReplaceAll(name, "/", "-"))
	seconds := fmt.Sprint(max(int(length.Seconds()), 1))
	for _, kind := range []string{"profile", "allocs"} {
		go func() {
			text, err := s.server.fetch(ctx, "/debug/pprof/"+kind+"?seconds="+seconds)
			if err == nil {
				err = os.WriteFile(prefix+"."+kind+".pb.gz", text, 0o644)
			}
			if err != nil {
				b.report.progress("profile of %s: %v", name, err)
			}
		}()
	}
	if len(s.storage) == 0 {
		return
	}
	var pids []string
	for _, p := range s.storage {
		pids = append(pids, fmt.Sprint(p.cmd.Process.Pid))
	}
	go func() {
		record := exec.CommandContext(ctx, "perf", "record", "-q", "-g", "-F", "299", "-p", strings.Join(pids, ","),
			"-o", prefix+".storage.perf", "--", "sleep", seconds)
		if out, err := record.CombinedOutput(); err != nil {
			b.report.progress("perf of %s: %v %s", name, err, out)
		}
	}()
}
