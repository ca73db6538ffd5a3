package badger

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
)

// DiskSpace is the room on a file system, in bytes: what a process without
// privileges may still use, and all there is.
type DiskSpace struct {
	Free, Total uint64
}

// diskGuard watches the room under a directory. Badger writes through memory
// maps, where a full disk is a fatal signal and not an error, so writes must
// stop while there is still room for what was accepted.
type diskGuard struct {
	dir     string
	probe   func(dir string) (DiskSpace, error)
	minFree uint64

	full  atomic.Bool
	free  atomic.Uint64
	total atomic.Uint64
	spent atomic.Int64 // written since the last look
}

// look asks for the room there is. Where that fails, nothing changes.
func (g *diskGuard) look() error {
	space, err := g.probe(g.dir)
	if err != nil {
		return fmt.Errorf("look up free space of %s: %w", g.dir, err)
	}
	g.spent.Store(0)
	g.free.Store(space.Free)
	g.total.Store(space.Total)
	g.full.Store(space.Free < g.minFree)
	return nil
}

// spend notes bytes about to be written, and looks again when they are a
// notable part of the reserve.
func (g *diskGuard) spend(bytes int) {
	if g.spent.Add(int64(bytes)) > int64(g.minFree/8) {
		_ = g.look() // the periodic look reports what is wrong
	}
}

func (g *diskGuard) usedFraction() float64 {
	free, total := g.free.Load(), g.total.Load()
	if total == 0 || free > total {
		return 0
	}
	return 1 - float64(free)/float64(total)
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
