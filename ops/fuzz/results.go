package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What comes of a chunk; anything else says why it does not count.
const (
	clean   = "clean"
	finding = "finding"
)

// result is one chunk.
type result struct {
	at     time.Time
	target string
	took   time.Duration
	execs  int64 // inputs that were run
	fresh  int64 // of those, that were new and interesting
	known  int64 // interesting ones that are known now
	result string
	output string // what was written; not kept in the file
}

// line is a result's line in the file, its fields between tabs.
func (r *result) line() string {
	return fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%d\t%s", r.at.UTC().Format(time.RFC3339), r.target, int(r.took.Seconds()),
		r.execs, r.fresh, r.known, strings.ReplaceAll(r.result, "\n", " "))
}

const heading = "at\ttarget\tseconds\texecs\tnew\tinteresting\tresult"

// results add up how long each target has run since its last finding. It is
// safe for concurrent use.
type results struct {
	mu   sync.Mutex
	file *os.File // nil: nothing is kept
	sums map[string]time.Duration
}

// openResults reads what a file holds, which need not exist; with an empty path
// nothing is kept.
func openResults(path string) (*results, error) {
	r := &results{sums: map[string]time.Duration{}}
	if path == "" {
		return r, nil
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, fs.FileMode(0o644))
	if err != nil {
		return nil, fmt.Errorf("open the results: %w", err)
	}
	n := 0
	lines := bufio.NewScanner(file)
	for ; lines.Scan(); n++ {
		if n == 0 && lines.Text() == heading {
			continue
		}
		f := strings.Split(lines.Text(), "\t")
		if len(f) != 7 {
			return nil, errors.Join(fmt.Errorf("%s:%d: %d fields, want 7: %s", path, n+1, len(f), heading), file.Close())
		}
		seconds, err := strconv.Atoi(f[2])
		if err != nil || seconds < 0 {
			return nil, errors.Join(fmt.Errorf("%s:%d: %q, want the seconds", path, n+1, f[2]), file.Close())
		}
		r.count(f[1], time.Duration(seconds)*time.Second, f[6])
	}
	if err := lines.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), file.Close())
	}
	if n == 0 {
		if _, err := fmt.Fprintln(file, heading); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	r.file = file
	return r, nil
}

func (r *results) count(target string, took time.Duration, result string) {
	switch result {
	case clean:
		r.sums[target] += took
	case finding:
		r.sums[target] = 0
	}
}

// clean is how long a target has run since its last finding.
func (r *results) clean(target string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sums[target]
}

func (r *results) add(one result) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(one.target, one.took, one.result)
	if r.file == nil {
		return nil
	}
	if _, err := fmt.Fprintln(r.file, one.line()); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

func (r *results) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
