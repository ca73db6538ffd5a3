package badger

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// position is the log that is read ahead, how much of it was written as far as
// is known, and up to where it was read.
func (r *readAhead) position() (name string, written, read int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		name = r.file.Name()
	}
	return name, r.written, r.read
}

func TestLogsAreReadAheadOfWhatIsWritten(t *testing.T) {
	n := openTestNode(t, NodeOptions{Sync: true})
	value := bytes.Repeat([]byte{1}, fileBytes)
	first := n.store.wal.number
	// The logs of the small profile take 8 MiB.
	for i := range 200 {
		if call := apply(n, "t", fmt.Sprint(i), testVersion(int64(i+1), value)); call.Err != nil {
			t.Fatal(call.Err)
		}
		if i%50 > 0 {
			continue
		}
		log, err := os.ReadFile(n.store.wal.path(n.store.wal.number))
		if err != nil {
			t.Fatal(err)
		}
		used := int64(bytes.LastIndexByte(log, 1))
		name, written, _ := n.store.wal.ahead.position()
		if name != n.store.wal.path(n.store.wal.number) || written < used {
			t.Fatalf("%s counts as written up to %d, want %s up to %d", name, written, n.store.wal.path(n.store.wal.number), used)
		}
		eventually(t, "pages are asked for", func() bool {
			_, written, read := n.store.wal.ahead.position()
			target := min(written+aheadBytes, n.store.opts.MemTableSize/4*3)
			return read >= target && read <= max(target, written)+aheadPiece
		})
	}
	if n.store.wal.number == first {
		t.Error("one log was written, want more")
	}
}

func TestReadAheadEnds(t *testing.T) {
	r := newReadAhead(2 * aheadBytes)
	r.follow(filepath.Join(t.TempDir(), "nothing"))
	r.wrote(1 << 20)
	if name, _, read := r.position(); name != "" || read != 0 {
		t.Errorf("%q is read up to %d where there is no log", name, read)
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r.follow(path)
	r.wrote(1)
	began := time.Now()
	r.close()
	if took, all := time.Since(began), aheadRest*aheadBytes/aheadPiece; took > all/2 {
		t.Errorf("closed after %v, want at once; to read on takes %v", took, all)
	}
	if name, _, _ := r.position(); name != "" {
		t.Errorf("%s is still open", name)
	}
}
