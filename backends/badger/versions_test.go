package badger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
)

func openTestStore(t *testing.T, dir string) *store {
	t.Helper()
	s, _, err := openStore(dir, Small.options(dir, false), nil, identity{Kind: kindNode, ID: "n"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *store) mustClose(t *testing.T) {
	t.Helper()
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func (s *store) mustCommit(t *testing.T, changes ...change) {
	t.Helper()
	if err := s.commit(changes, nil); err != nil {
		t.Fatal(err)
	}
}

// shared is how many commits wrote over another.
func (s *store) shared() uint64 {
	_, last := s.versions.bounds()
	return s.versions.committed.Load() - last
}

// Snapshots show one commit as a whole, and go on to, while others are written
// over each other; and the next one shows all that was committed before.
func TestSnapshotsWhileCommitsWriteOver(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	defer s.mustClose(t)
	number := func(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }
	hot := []string{"a", "b", "c"}
	commit := func(i uint64) error {
		var changes []change
		for _, key := range hot {
			changes = append(changes, change{key: []byte(key), value: number(i)})
		}
		// One that is there at odd times only.
		return s.commit(append(changes, change{key: []byte("odd"), value: number(i), remove: i%2 == 0}), nil)
	}
	if err := commit(s.versions.committed.Load() + 1); err != nil {
		t.Fatal(err)
	}
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := commit(s.versions.committed.Load() + 1); err != nil {
				failed <- err
				return
			}
		}
	}()
	pass := func(n uint64) { // lets so many commits happen
		for until := s.versions.committed.Load() + n; s.versions.committed.Load() < until && len(failed) == 0; {
			select {
			case err := <-failed:
				t.Fatal(err)
			default:
				runtime.Gosched()
			}
		}
	}
	for range 60 {
		pass(3 * calmCommits)
		before := s.versions.committed.Load()
		v, err := s.view()
		if err != nil {
			t.Fatal(err)
		}
		if v.number < before {
			t.Errorf("a snapshot shows commit %d, after commit %d had ended", v.number, before)
		}
		for range 3 {
			for _, key := range hot {
				if got, err := v.get([]byte(key)); err != nil || !bytes.Equal(got, number(v.number)) {
					t.Errorf("snapshot of commit %d: %s is %x, error %v", v.number, key, got, err)
				}
			}
			if got, err := v.get([]byte("odd")); err != nil || (got != nil) != (v.number%2 == 1) {
				t.Errorf("snapshot of commit %d: odd is %x, error %v", v.number, got, err)
			}
			pass(2 * calmCommits)
		}
		v.release()
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if shared := s.shared(); shared < 60*calmCommits {
		t.Errorf("%d commits of %d wrote over another, want some after each snapshot", shared, s.versions.committed.Load())
	}
}

// A commit that writes over another never comes to another memtable: Badger
// begins one only once the store takes the one before for full.
func TestCommitsWriteOverInOneMemtableOnly(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, c := range map[string]struct {
		keys, batch, value int
		removes            bool
	}{
		"hot keys":     {100, 20, 150, false},
		"many keys":    {1 << 30, 20, 150, false},
		"tiny entries": {1 << 30, 400, 0, false},
		"removals":     {1 << 30, 400, 0, true},
		"one by one":   {1 << 30, 1, 500, false},
		"large values": {50, 3, fileBytes, false},
		"all sizes":    {1000, 30, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTestStore(t, t.TempDir())
			defer s.mustClose(t)
			log := s.wal.number
			tables, total := 0, uint64(0)
			for ; tables < 2; total++ {
				var changes []change
				for range 1 + random.IntN(c.batch) {
					size := c.value
					if size < 0 {
						size = 1 << random.IntN(16)
					}
					key := fmt.Sprintf("key-%d", random.IntN(c.keys))
					changes = append(changes, change{key: []byte(key), value: make([]byte, size), remove: c.removes})
				}
				_, before := s.versions.bounds()
				s.mustCommit(t, changes...)
				if _, err := os.Lstat(s.wal.path(log + 1)); errors.Is(err, fs.ErrNotExist) {
					continue
				}
				log++
				tables++
				if _, at := s.versions.bounds(); at == before {
					t.Fatalf("commit %d began a memtable and wrote over the one before", total)
				}
			}
			if shared := s.shared(); shared < (total-calmCommits)/2 {
				t.Errorf("%d commits of %d wrote over another, want most", shared, total)
			}
		})
	}
}

// What was written over last is what is there, also after it went through
// memtables and tables, and when the store is opened again.
func TestWhatWasWrittenOverStays(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(3, 4))
	want := map[string]string{}
	for range 3 {
		s := openTestStore(t, dir)
		for i := range 3000 {
			var changes []change
			for range 10 {
				key := fmt.Sprintf("key-%d", random.IntN(500))
				value := fmt.Sprintf("%d %0400d", i, random.Uint64())
				if remove := random.IntN(10) == 0; remove {
					delete(want, key)
					changes = append(changes, change{key: []byte(key), remove: true})
				} else {
					want[key] = value
					changes = append(changes, change{key: []byte(key), value: []byte(value)})
				}
			}
			s.mustCommit(t, changes...)
		}
		for range 2 { // as it is, and opened again
			v, err := s.view()
			if err != nil {
				t.Fatal(err)
			}
			for i := range 500 {
				key := fmt.Sprintf("key-%d", i)
				if got, err := v.get([]byte(key)); err != nil || string(got) != want[key] {
					t.Fatalf("%s is %.20q, error %v, want %.20q", key, got, err, want[key])
				}
			}
			v.release()
			s.mustClose(t)
			s = openTestStore(t, dir)
		}
		s.mustClose(t)
	}
}
