package badger

import (
	"os"
	"sync"
	"time"
)

// Badger writes its logs through mapped memory. The kernel gives a page of it that
// is written to for the first time what the disk's read-ahead says, all zeroed:
// megabytes at a time with some disks, for as long as 20 ms, in the middle of a
// commit, and on replicas, which get the same writes, at the same moment. What
// is in the kernel's cache already costs a commit nothing but the mapping.
const (
	aheadBytes = 512 << 10 // of what was written
	aheadPiece = 64 << 10
	aheadRest  = time.Millisecond // after each piece
)

// readAhead brings pages of a log into the kernel's cache before they are
// written to. One goroutine says which log it is and how much was written.
type readAhead struct {
	wake chan struct{} // holds a token while there may be something to read
	done chan struct{} // closed when run has ended

	mu      sync.Mutex
	file    *os.File // nil: there is nothing to do
	written int64    // to file, no less
	read    int64    // of it
}

func newReadAhead() *readAhead {
	r := &readAhead{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go r.run()
	return r
}

// follow goes on to another log. Where that cannot be opened, commits wait for
// the kernel; Badger, which has the log open, will tell what is wrong.
func (r *readAhead) follow(path string) {
	file, err := os.Open(path)
	if err == nil {
		readOnlyWhatIsAsked(file)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
	r.written, r.read = 0, 0
	if err == nil {
		r.file = file
	}
}

// drop closes the log. The lock is held.
func (r *readAhead) drop() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

// wrote says that so many bytes more were written, at most.
func (r *readAhead) wrote(bytes int64) {
	r.mu.Lock()
	r.written += bytes
	due := r.file != nil && r.read < r.written+aheadBytes/2
	r.mu.Unlock()
	if due {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (r *readAhead) run() {
	defer close(r.done)
	piece := make([]byte, aheadPiece)
	for range r.wake {
		for r.step(piece) {
			time.Sleep(aheadRest)
		}
	}
}

// step reads a piece, and tells whether there may be more to read.
func (r *readAhead) step(piece []byte) bool {
	r.mu.Lock()
	file, from := r.file, r.read
	due := file != nil && from < r.written+aheadBytes
	r.mu.Unlock()
	if !due {
		return false
	}
	n, err := file.ReadAt(piece, from)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != file {
		return true
	}
	if r.read += int64(n); err != nil {
		r.drop() // it is at its end
	}
	return err == nil
}

// close ends it. Nothing may be said to it any more.
func (r *readAhead) close() {
	close(r.wake)
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}
