package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/pairdb/coordinator/coord"
)

// fileBytes is the size above which a value lies in a file of its own. Badger's
// value log, its own place for large values, frees the space of a replaced one
// only once compaction has come across it, which a small tree may put off for
// gigabytes. It also ends the process when the disk is full, where writing a
// file returns an error.
const fileBytes = 64 << 10

// valueRef says where a large value lies: in which file, how long it is, and
// its checksum.
type valueRef struct {
	file uint64 // 0: in no file
	size uint64
	sum  uint32 // CRC-32C
}

// valueFiles is a directory of immutable files, each one value. A file is
// written before the record that refers to it is committed, and removed after
// the record is replaced. What a crash leaves in between is told by its id
// missing in the database (nsFile), and removed after the next opening.
type valueFiles struct {
	dir  string
	sync bool
	last atomic.Uint64 // id given out

	// inUse is held shared to keep all files that are referred to.
	inUse sync.RWMutex

	mu       sync.Mutex
	suspects []uint64 // at first all that were there at opening

	beforeWrite func() // of tests
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openValueFiles(dir string, sync bool) (*valueFiles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of values: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list directory of values: %w", err)
	}
	f := &valueFiles{dir: dir, sync: sync}
	for _, e := range entries {
		id, err := strconv.ParseUint(e.Name(), 16, 64)
		if err != nil || id == math.MaxUint64 {
			return nil, fmt.Errorf("list directory of values: %s is not of this store", filepath.Join(dir, e.Name()))
		}
		f.suspects = append(f.suspects, id)
		f.last.Store(max(f.last.Load(), id))
	}
	return f, nil
}

func (f *valueFiles) path(id uint64) string {
	return filepath.Join(f.dir, fmt.Sprintf("%016x", id))
}

// pieceBytes of a value are written at once where others are let through.
const pieceBytes = 64 << 10

// write stores a value, durably once syncDir has returned too. Rest, unless
// nil, is called between pieces of it.
func (f *valueFiles) write(value []byte, rest func()) (valueRef, error) {
	if f.beforeWrite != nil {
		f.beforeWrite()
	}
	ref := valueRef{file: f.last.Add(1), size: uint64(len(value)), sum: crc32.Checksum(value, castagnoli)}
	file, err := os.OpenFile(f.path(ref.file), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return valueRef{}, fmt.Errorf("write value: %w", err)
	}
	err = writePieces(file, value, rest)
	if err == nil && f.sync {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return valueRef{}, fmt.Errorf("write value: %w", err)
	}
	return ref, nil
}

func writePieces(file *os.File, value []byte, rest func()) error {
	for ; rest != nil && len(value) > pieceBytes; rest() {
		if _, err := file.Write(value[:pieceBytes]); err != nil {
			return err
		}
		value = value[pieceBytes:]
	}
	_, err := file.Write(value)
	return err
}

func (f *valueFiles) syncDir() error {
	if !f.sync {
		return nil
	}
	if err := syncDir(f.dir); err != nil {
		return fmt.Errorf("sync directory of values: %w", err)
	}
	return nil
}

// read returns a value, in memory of its own. It fails with coord.ErrCorrupt
// where the file is not there: it was removed since the record was read, or lost.
func (f *valueFiles) read(ref valueRef) ([]byte, error) {
	file, err := os.Open(f.path(ref.file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the value is gone: %w", coord.ErrCorrupt, err)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	value := make([]byte, ref.size)
	if _, err := io.ReadFull(file, value); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: %s is too short", coord.ErrCorrupt, file.Name())
	} else if err != nil {
		return nil, err
	}
	if crc32.Checksum(value, castagnoli) != ref.sum {
		return nil, fmt.Errorf("%w: checksum of %s", coord.ErrCorrupt, file.Name())
	}
	return value, nil
}

// remove removes a value that no record refers to any more.
func (f *valueFiles) remove(id uint64) error {
	f.inUse.Lock()
	defer f.inUse.Unlock()
	if err := os.Remove(f.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove value: %w", err)
	}
	return nil
}

// suspect notes a file that perhaps no record refers to.
func (f *valueFiles) suspect(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.suspects = append(f.suspects, id)
}

func (f *valueFiles) nextSuspect() (id uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.suspects) - 1
	if last < 0 {
		return 0, false
	}
	id = f.suspects[last]
	f.suspects = f.suspects[:last]
	return id, true
}

// clean removes those suspects that no record refers to, until stop is closed.
func (f *valueFiles) clean(s *store, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		id, ok := f.nextSuspect()
		if !ok {
			return nil
		}
		referred, err := refersTo(s, id)
		if err == nil && !referred {
			err = f.remove(id)
		}
		if err != nil {
			f.suspect(id)
			return fmt.Errorf("remove values that nothing refers to: %w", err)
		}
	}
}

func refersTo(s *store, id uint64) (bool, error) {
	v, err := s.view()
	if err != nil {
		return false, err
	}
	defer v.release()
	mark, err := v.get(appendFileKey(nil, id))
	return mark != nil, err
}

// appendFileKey makes the key under which a file is marked as referred to.
func appendFileKey(dst []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, nsFile), id)
}
