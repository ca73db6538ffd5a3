package badger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// walExtension ends the names of Badger's write-ahead logs, one a memtable,
// numbered upwards.
const walExtension = ".mem"

// wal follows the logs that Badger writes to and makes commits durable. Badger's
// own SyncWrites would sync the value log too, each time. That one is empty, but
// a sync of an unchanged file also waits for the disk to flush its cache.
//
// A commit goes as a whole into the newest log, and a log is made only by a
// commit that finds the former one full. So what was committed by one goroutine
// lies in the newest log and, synced before, in older ones.
type wal struct {
	dir    string
	number int
	file   *os.File // the log of that number, nil where nothing is synced
	ahead  *readAhead
}

// openWAL opens the newest log in the directory of a database that was just
// opened. Where it is to be synced, what Badger found in older ones, and so shows
// to readers, is durable when it returns. A log is that of a memtable of so many
// bytes.
func openWAL(dir string, synced bool, memTable int64) (*wal, error) {
	w := &wal{dir: dir}
	numbers, err := w.numbers()
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("find write-ahead log: none in %s", dir)
	}
	if !synced {
		w.number = numbers[len(numbers)-1]
		w.readAhead(memTable)
		return w, nil
	}
	for _, w.number = range numbers {
		file, err := os.OpenFile(w.path(w.number), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was flushed, durably, since
		}
		if err != nil {
			w.close()
			return nil, fmt.Errorf("open write-ahead log: %w", err)
		}
		w.closeFile()
		w.file = file
		if err := w.sync(); err != nil {
			w.close()
			return nil, err
		}
	}
	if w.file == nil {
		return nil, fmt.Errorf("find write-ahead log: none is left in %s", dir)
	}
	if err := syncDir(dir); err != nil {
		w.close()
		return nil, fmt.Errorf("sync write-ahead log: %w", err)
	}
	w.readAhead(memTable)
	return w, nil
}

// readAhead begins to read ahead of what is written to the newest log.
func (w *wal) readAhead(memTable int64) {
	w.ahead = newReadAhead(memTable)
	w.ahead.follow(w.path(w.number))
}

// wrote says that a commit has taken so many bytes of the newest log, at most.
func (w *wal) wrote(bytes int64) { w.ahead.wrote(bytes) }

// numbers lists the logs that there are, upwards.
func (w *wal) numbers() ([]int, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return nil, fmt.Errorf("find write-ahead log: %w", err)
	}
	var numbers []int
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), walExtension); ok {
			number, err := strconv.Atoi(name)
			if err != nil {
				return nil, fmt.Errorf("find write-ahead log: unknown file %s in %s", e.Name(), w.dir)
			}
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (w *wal) path(number int) string {
	return filepath.Join(w.dir, fmt.Sprintf("%05d%s", number, walExtension))
}

// follow goes on to the newest log, and tells whether it did. Only the goroutine
// that commits may call it.
func (w *wal) follow() (moved bool, err error) {
	defer func() {
		if moved {
			w.ahead.follow(w.path(w.number))
		}
	}()
	for {
		// Lstat costs less than the attempt to open what is not there.
		if _, err := os.Lstat(w.path(w.number + 1)); errors.Is(err, fs.ErrNotExist) {
			return moved, nil
		} else if err != nil {
			return moved, fmt.Errorf("find write-ahead log: %w", err)
		}
		if moved = true; w.file == nil {
			w.number++
			continue
		}
		file, err := os.OpenFile(w.path(w.number+1), os.O_RDWR, 0)
		if err != nil {
			return moved, fmt.Errorf("open write-ahead log: %w", err)
		}
		w.closeFile()
		w.file, w.number = file, w.number+1
		if err := syncDir(w.dir); err != nil {
			return moved, fmt.Errorf("sync write-ahead log: %w", err)
		}
	}
}

// sync makes all that was committed durable, after follow.
func (w *wal) sync() error {
	if err := syncData(w.file); err != nil {
		return fmt.Errorf("sync write-ahead log: %w", err)
	}
	return nil
}

// close gives the files back. What was synced needs no more of them.
func (w *wal) close() {
	w.closeFile()
	if w.ahead != nil {
		w.ahead.close()
		w.ahead = nil
	}
}

func (w *wal) closeFile() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
