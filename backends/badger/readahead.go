package badger

import (
	"os"
	"sync"
	"time"
)

// Badger writes its logs through mapped memory. Where a page is written to for the
// first time, the kernel reads as many as the disk's read-ahead says, which here
// means to make them zero. With some disks that is megabytes and 20 ms, in the
// middle of a commit and, since replicas get the same writes, on all of them at
// once. Pages that are in the kernel's cache already cost only their mapping.
const (
	// aheadBytes is more than two read-aheads of 8 MiB: the kernel begins the
	// next one where three quarters of the last were written to.
	aheadBytes = 20 << 20
	aheadPiece = 64 << 10
	aheadRest  = 4 * time.Millisecond // after each piece, which makes 16 MB/s
)

// readAhead has the kernel bring pages of a log into its cache, piece by piece,
// before they are written to. One goroutine says which log it is and how much
// was written.
type readAhead struct {
	wake chan struct{} // holds a token while there may be something to read
	done chan struct{} // closed when run has ended
	most int64         // of a log is read: more of it is rarely used

	mu      sync.Mutex
	file    *os.File // nil: there is nothing to do
	written int64    // to file; where nothing is synced, a few commits less
	read    int64    // of it, or left out
}

// newReadAhead reads of each log what a memtable of so many bytes takes of it.
func newReadAhead(memTable int64) *readAhead {
	r := &readAhead{wake: make(chan struct{}, 1), done: make(chan struct{}), most: memTable / 4 * 3}
	go r.run()
	return r
}

// follow goes on to another log. Where that cannot be opened, commits wait for
// the kernel; Badger, which has the log open, will tell what is wrong.
func (r *readAhead) follow(path string) {
	file, err := os.Open(path)
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
	due := r.file != nil && r.read < r.target()-aheadPiece
	r.mu.Unlock()
	if due {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// target is up to where the log is to be read now. The lock is held.
func (r *readAhead) target() int64 { return min(r.written+aheadBytes, r.most) }

func (r *readAhead) run() {
	defer close(r.done)
	for range r.wake {
		for r.step() {
			time.Sleep(aheadRest)
		}
	}
}

// step reads a piece, and tells whether there may be more to read.
func (r *readAhead) step() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := max(r.read, r.written)
	if r.file == nil || from >= r.target() {
		return false
	}
	file := r.file
	r.read = from + aheadPiece
	r.mu.Unlock()
	err := willNeed(file, from, aheadPiece)
	r.mu.Lock()
	if err != nil && r.file == file {
		r.drop()
	}
	return true
}

// close ends it. Nothing may be said to it any more.
func (r *readAhead) close() {
	r.mu.Lock()
	r.drop()
	r.mu.Unlock()
	close(r.wake)
	<-r.done
}
