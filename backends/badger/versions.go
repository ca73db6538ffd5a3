package badger

import (
	"sync"
	"sync/atomic"
)

// versions chooses the version, Badger's, that a commit writes at.
//
// Badger keeps each version of a key until it merges the table that the version
// came to lie in, and finds its way in a memtable past all of them: keys that
// are replaced again and again fill it with what nobody reads. What is written
// at the version of the commit before takes its place instead. That must not
// be done everywhere:
//
//   - No snapshot may see it happen. The commit after a reader's snapshot takes a
//     version of its own. One that is wanted in the middle of a commit that writes
//     over another is taken at its end; so that this is rare, some more commits
//     after a snapshot take versions of their own.
//   - A key must not lie at one version in two of Badger's tables: those of the
//     topmost level change their order when some of them are merged. So a version
//     is written over only in the memtable that it came to, as long as not so
//     much was written that Badger may have begun another one.
type versions struct {
	// committed numbers the finished commits. Storing it is what makes one visible.
	committed atomic.Uint64

	mu      sync.Mutex
	ended   sync.Cond      // of mu: a commit that wrote over another has ended
	current uint64         // of the last finished commit
	seen    map[uint64]int // snapshots in use, by version
	calm    int            // commits since the last snapshot of a reader
	over    bool           // a commit that writes over current is under way

	room  int64 // what makes a memtable full, in bytes
	taken int64 // no fewer bytes than the memtable has
	since int64 // of them, by commits that may have begun another memtable
	looks int   // that were left out
}

const (
	// calmCommits is how many commits come between a reader's snapshot and the
	// next commit that writes over another.
	calmCommits = 64
	// lookAfter is how many commits may begin a memtable before somebody looks,
	// which is a system call.
	lookAfter = 16
)

func newVersions(memTable int64) *versions {
	v := &versions{seen: make(map[uint64]int), room: memTable}
	v.ended.L = &v.mu
	return v
}

// reset begins with a database that was just opened. No snapshot is in use.
func (v *versions) reset(current uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current, v.calm = current, 0 // so that nothing is written over what was there
	v.taken, v.since, v.looks = memTableBytes, 0, 0
	v.committed.Store(max(v.committed.Load(), current))
}

// begin chooses the version of a commit, which has to end or to be abandoned.
func (v *versions) begin() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = v.taken < v.room && v.calm >= calmCommits
	if v.over {
		return v.current
	}
	return v.current + 1
}

// wonders tells whether to look, behind a commit, for another memtable.
func (v *versions) wonders() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.taken < v.room {
		return false
	}
	v.looks++
	return v.looks >= lookAfter
}

// end makes a commit visible: its version, its number, how many bytes it took at
// most, and whether somebody looked then and found that Badger had begun another
// memtable, for it or for one before.
func (v *versions) end(at, number uint64, bytes int64, looked, moved bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.taken >= v.room {
		v.since += bytes
	}
	v.taken += bytes
	if looked {
		if moved {
			v.taken = memTableBytes + v.since
		}
		v.since, v.looks = 0, 0
	}
	v.calm++
	v.current = at
	v.committed.Store(number)
	v.close()
}

// abandon ends a commit that failed.
func (v *versions) abandon() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.close()
}

// close lets those go on that waited for a commit. The lock is held.
func (v *versions) close() {
	if v.over {
		v.over = false
		v.ended.Broadcast()
	}
}

// take is the version to read at, and the number of the last commit that it
// shows. Release gives it back. The goroutine that commits is no reader.
func (v *versions) take(reader bool) (at, number uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.over {
		v.ended.Wait()
	}
	if reader {
		v.calm = 0
	}
	v.seen[v.current]++
	return v.current, v.committed.Load()
}

func (v *versions) release(at uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen[at]--; v.seen[at] == 0 {
		delete(v.seen, at)
	}
}

// bounds are the oldest version that a snapshot reads or will, and that of the
// last finished commit.
func (v *versions) bounds() (oldest, last uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	oldest = v.current
	for at := range v.seen {
		oldest = min(oldest, at)
	}
	return oldest, v.current
}

// What an entry takes in a memtable besides its key and value: in the log no
// more than 34 bytes, in the skip list some 38 and 4 for each level of its tower,
// of which there are 1.5 on average; less in the place of another.
const (
	memEntryBytes = 48
	memTableBytes = 4 << 10 // of an empty one, and for towers higher than that
)

// bytesOf is how many bytes a commit takes in a memtable, at most.
func bytesOf(changes []change) int64 {
	size := int64(memEntryBytes) // Badger's own, at the end of a commit
	for i := range changes {
		size += int64(memEntryBytes + len(changes[i].key) + len(changes[i].value))
	}
	return size
}
