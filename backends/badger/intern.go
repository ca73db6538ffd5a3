package badger

import (
	"maps"
	"sync"
	"sync/atomic"
)

// maxInterned bounds the ids that are shared. There are few coordinators; what
// comes beyond is copied each time.
const maxInterned = 512

// internTable shares the strings of coordinators' ids.
type internTable struct {
	known atomic.Pointer[map[string]string] // replaced, never changed
	mu    sync.Mutex                        // of whoever replaces it
}

func newInternTable() *internTable {
	t := new(internTable)
	t.known.Store(&map[string]string{})
	return t
}

func (t *internTable) bytes(b []byte) string {
	if s, ok := (*t.known.Load())[string(b)]; ok {
		return s
	}
	return t.add(string(b))
}

// string returns an equal string that does not keep s's memory alive.
func (t *internTable) string(s string) string {
	if known, ok := (*t.known.Load())[s]; ok {
		return known
	}
	return t.add(string([]byte(s)))
}

func (t *internTable) add(s string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.known.Load()
	if k, ok := known[s]; ok {
		return k
	}
	if len(known) < maxInterned {
		next := maps.Clone(known)
		next[s] = s
		t.known.Store(&next)
	}
	return s
}
