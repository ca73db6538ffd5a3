package badger

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Profile says how much memory a store may use.
type Profile uint8

const (
	// Small suits several stores in one development process: some 10 MiB each while idle.
	Small Profile = iota
	// Large suits a process of its own: some 300 MiB under load.
	Large
)

// limits are the bounds that go with a profile.
type limits struct {
	memTable    int64
	blockCache  int64
	headCache   int64
	readers     int
	queuedCalls int
	queuedBytes int64
	minFree     uint64
	treeBits    uint8 // of the tokens, that a leaf of the hash tree shares at first
	treeEntries int
}

func (p Profile) limits() limits {
	if p == Large {
		return limits{
			memTable: 32 << 20, blockCache: 128 << 20, headCache: 64 << 20,
			readers: 8, queuedCalls: 32 << 10, queuedBytes: 128 << 20, minFree: 1 << 30,
			treeBits: 16, treeEntries: 1 << 20,
		}
	}
	return limits{
		memTable: 8 << 20, headCache: 2 << 20,
		readers: 2, queuedCalls: 8 << 10, queuedBytes: 48 << 20, minFree: 128 << 20,
		treeBits: 12, treeEntries: 64 << 10,
	}
}

// memTableShares bound the part of a profile's memTable that a store takes, at
// random. Replicas get the same writes: with memtables of one size they would
// all be flushed, and their tables merged, at the same moments, and what is slow
// on one replica meanwhile would be slow on every quorum.
const memTableShareMin, memTableShareMax = 0.6, 1.0

// Badger's value log gets what is larger than valueLogThreshold, which nothing
// is (fileBytes), and so stays empty and as small as Badger allows.
const (
	valueLogThreshold = 2 * fileBytes
	valueLogFile      = 1 << 20
)

// storeFormat is checked by Badger itself before it reads a directory.
const storeFormat = 1

func (p Profile) options(dir string, sync bool) badger.Options {
	l := p.limits()
	share := memTableShareMin + rand.Float64()*(memTableShareMax-memTableShareMin)
	o := badger.DefaultOptions(dir).
		WithSyncWrites(sync).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithMemTableSize(int64(share * float64(l.memTable))).
		WithNumMemtables(3).
		WithNumCompactors(2).
		WithValueLogFileSize(valueLogFile).
		WithValueThreshold(valueLogThreshold).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithExternalMagic(storeFormat).
		WithCompression(options.None).
		WithBlockCacheSize(l.blockCache)
	if p == Large {
		return o.WithCompression(options.Snappy).WithNumMemtables(5).WithNumCompactors(4)
	}
	return o
}

// badgerLog passes on what Badger warns of.
type badgerLog struct{ warn func(string) }

func (l badgerLog) Errorf(format string, args ...any) { l.Warningf(format, args...) }

func (l badgerLog) Warningf(format string, args ...any) {
	if l.warn != nil {
		l.warn(strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}
