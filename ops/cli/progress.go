package cli

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// tally counts what a long command has done. It is safe for concurrent use.
type tally struct {
	records, bytes, failed atomic.Int64
	start                  time.Time
}

func (t *tally) String() string {
	took := time.Since(t.start)
	rate := float64(t.records.Load()) / max(took.Seconds(), 1e-9)
	s := fmt.Sprintf("%d records, %s, %.0f records/s, %s", t.records.Load(), size(t.bytes.Load()), rate, took.Round(time.Millisecond))
	if n := t.failed.Load(); n > 0 {
		s += fmt.Sprintf(", %d failed", n)
	}
	return s
}

func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	case bytes >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// show keeps one line on a terminal up to date, once a second, until stop is
// called. Away from a terminal it does nothing.
func (in *invocation) show(line fmt.Stringer) (stop func()) {
	if !in.IsTerminal {
		return func() {}
	}
	done := make(chan struct{})
	var printer sync.WaitGroup
	printer.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(in.Stderr, "\r\x1b[K%s", line)
			case <-done:
				_, _ = io.WriteString(in.Stderr, "\r\x1b[K")
				return
			}
		}
	})
	return func() { close(done); printer.Wait() }
}
