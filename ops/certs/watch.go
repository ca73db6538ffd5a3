package certs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"time"
)

// Reloader is something that was read from files and can be again.
type Reloader interface {
	Paths() []string
	Reload() error
}

// Watcher reads files again when they change. Add what it shall watch, then
// Run it.
type Watcher struct {
	// Interval is between looks at the files; default 2 s.
	Interval time.Duration
	// Loaded is told of every reload that succeeded, Failed of one that did
	// not, once for each reason in a row. What failed is tried again until it
	// succeeds: files that belong together do not change at once.
	Loaded func(what string)
	Failed func(what string, err error)

	mu      sync.Mutex // held by a look, so that there is one at a time
	watched []*watched
}

type watched struct {
	what   string
	source Reloader
	seen   [sha256.Size]byte // look of the files when they were last read without a fault
	reason string            // of the last failure
}

const defaultInterval = 2 * time.Second

// Add watches what source was read from.
func (w *Watcher) Add(what string, source Reloader) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched = append(w.watched, &watched{what: what, source: source, seen: look(source.Paths())})
}

// Run looks at the files until ctx ends; a value of now makes it reload all of
// them at once, changed or not.
func (w *Watcher) Run(ctx context.Context, now <-chan os.Signal) {
	interval := w.Interval
	if interval == 0 {
		interval = defaultInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.reload(false)
		case <-now:
			w.reload(true)
		}
	}
}

func (w *Watcher) reload(all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.watched {
		// The look comes before the reading: what changes in between is seen
		// as a change the next time.
		now := look(f.source.Paths())
		if now == f.seen && !all {
			continue
		}
		err := f.source.Reload()
		switch {
		case err == nil:
			f.seen, f.reason = now, ""
			if w.Loaded != nil {
				w.Loaded(f.what)
			}
		case err.Error() != f.reason || all:
			f.reason = err.Error()
			if w.Failed != nil {
				w.Failed(f.what, err)
			}
		}
	}
}

// look sums up what files hold, or why they cannot be read. Sizes and times
// would be cheaper, but a file that is replaced within a tick of the file
// system's clock by one as long has the same ones.
func look(paths []string) [sha256.Size]byte {
	sum := sha256.New()
	for _, path := range paths {
		text, err := readFile(path)
		fmt.Fprintf(sum, "%d %v\n", len(text), err)
		sum.Write(text)
	}
	return [sha256.Size]byte(sum.Sum(nil))
}
