package badger

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/gofrs/flock"
	"github.com/google/uuid"
)

// ErrInUse is returned, wrapped with the directory, where another process or
// another store of this one has the data directory open.
var ErrInUse = errors.New("data directory is in use")

var errClosed = errors.New("store is closed")

// Namespaces are the first byte of every key.
const (
	nsMeta   = 'm'
	nsRecord = 'r' // head, and the value where it is small
	nsValue  = 'v' // a value too big to lie beside its head
	nsFile   = 'f' // marks a value file as referred to
	nsClaim  = 'c'
	nsFloor  = 'l' // floors of ranges
)

const (
	identityKey = string(nsMeta) + "identity"
	countKey    = string(nsMeta) + "keys"
)

// identity is what a data directory says of itself.
type identity struct {
	Format int    `json:"format"`
	Kind   string `json:"kind"`
	ID     string `json:"id,omitempty"`
	UUID   string `json:"uuid"`
}

const (
	identityFormat = 1
	kindNode       = "storage node"
	kindClaims     = "idempotency claims"
)

// store is one Badger database with one writer. Commit must be called by one
// goroutine at a time; everything else is safe for concurrent use.
type store struct {
	dir  string
	opts badger.Options
	sync bool // each commit waits for the disk
	lock *flock.Flock

	// gate is held shared by whoever uses db, and exclusively to replace it.
	gate sync.RWMutex
	db   *badger.DB // nil once closed, or after a reopening that failed
	wal  *wal       // of db
	// fault is why nothing more may be written to db, or read from it: a
	// commit failed half way. Badger's logs may end in a hole, behind which
	// entries would be lost at the next opening; reopening cuts that off.
	fault atomic.Pointer[error]

	versions *versions
	syncs    atomic.Uint64  // commits that waited for the disk
	entries  []badger.Entry // of the commit under way

	commitFault func() error // of tests
}

// openStore opens or makes the store in dir and locks the directory. A
// directory of another kind or id is refused.
func openStore(dir string, opts badger.Options, warn func(string), want identity) (*store, identity, error) {
	fail := func(err error) (*store, identity, error) { return nil, identity{}, err }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(fmt.Errorf("make data directory: %w", err))
	}
	lock := flock.New(filepath.Join(dir, "in-use"))
	locked, err := lock.TryLock()
	if err != nil {
		return fail(fmt.Errorf("lock data directory %s: %w", dir, err))
	}
	if !locked {
		return fail(fmt.Errorf("%w: %s", ErrInUse, dir))
	}
	s := &store{
		dir: dir, opts: opts.WithSyncWrites(false).WithLogger(badgerLog{warn}), sync: opts.SyncWrites,
		lock: lock, versions: newVersions(opts.MemTableSize),
	}
	if err = s.openDB(); err != nil {
		_ = lock.Unlock()
		return fail(fmt.Errorf("open data directory %s: %w", dir, err))
	}
	have, err := s.identify(want)
	if err != nil {
		_ = s.close()
		return fail(fmt.Errorf("open data directory %s: %w", dir, err))
	}
	return s, have, nil
}

// openDB opens the database, with all that it found made durable where commits
// are. Nobody else uses the store meanwhile.
func (s *store) openDB() error {
	db, err := badger.OpenManaged(s.opts)
	if err != nil {
		return err
	}
	if s.wal, err = openWAL(s.dir, s.sync, s.opts.MemTableSize); err != nil {
		_ = db.Close()
		return err
	}
	s.db = db
	s.versions.reset(db.MaxVersion())
	return nil
}

// closeDB closes the database if it is open. Nobody else uses the store meanwhile.
func (s *store) closeDB() error {
	if s.wal != nil {
		s.wal.close()
		s.wal = nil
	}
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	return err
}

// identify reads the directory's identity and compares it, or gives it one.
func (s *store) identify(want identity) (identity, error) {
	view, err := s.view()
	if err != nil {
		return identity{}, err
	}
	text, err := view.get([]byte(identityKey))
	view.release()
	if err != nil {
		return identity{}, fmt.Errorf("read identity: %w", err)
	}
	if text == nil {
		if s.versions.committed.Load() > 0 {
			return identity{}, errors.New("it holds a Badger database that is not a store of PairDB")
		}
		fresh := identity{Format: identityFormat, Kind: want.Kind, ID: want.ID, UUID: uuid.NewString()}
		if text, err = json.Marshal(fresh); err != nil {
			return identity{}, fmt.Errorf("write identity: %w", err)
		}
		if err = s.commit([]change{{key: []byte(identityKey), value: text}}, nil); err != nil {
			return identity{}, fmt.Errorf("write identity: %w", err)
		}
		if err = s.db.Sync(); err != nil {
			return identity{}, fmt.Errorf("sync identity: %w", err)
		}
		return fresh, nil
	}
	var have identity
	if err := json.Unmarshal(text, &have); err != nil {
		return identity{}, fmt.Errorf("read identity: %w", err)
	}
	switch {
	case have.Format > identityFormat:
		return identity{}, fmt.Errorf("its format is %d, and this release knows formats up to %d: it was last opened by a newer release, which is needed to open it",
			have.Format, identityFormat)
	case have.Format != identityFormat:
		return identity{}, fmt.Errorf("its format is %d, this release knows format %d", have.Format, identityFormat)
	case have.Kind != want.Kind:
		return identity{}, fmt.Errorf("it holds a store of %s, not of %s", have.Kind, want.Kind)
	case have.ID != want.ID:
		return identity{}, fmt.Errorf("it belongs to node %q, not to %q", have.ID, want.ID)
	}
	return have, nil
}

// usable tells why db cannot be used now. The caller holds the gate.
func (s *store) usable() error {
	if fault := s.fault.Load(); fault != nil {
		return *fault
	}
	if s.db == nil {
		return errClosed
	}
	return nil
}

// view is a snapshot that is being read.
type view struct {
	store  *store
	txn    *badger.Txn
	at     uint64 // Badger's version
	number uint64 // of the last commit that it shows
	inner  bool   // the gate is held by another view
}

// view takes a snapshot of what is committed. It must be released soon: it
// holds up the collection of old versions, and the reopening of the store.
func (s *store) view() (view, error) { return s.snapshot(true, false) }

// ownView is a view for the goroutine that commits, to be released before its
// next commit.
func (s *store) ownView() (view, error) { return s.snapshot(false, false) }

// again is a newer snapshot, to be released before v is.
func (v view) again() (view, error) { return v.store.snapshot(true, true) }

func (s *store) snapshot(reader, inner bool) (view, error) {
	if !inner {
		s.gate.RLock()
	}
	err := s.usable()
	if err == nil {
		v := s.pin(reader, inner)
		// It may have waited for a commit, which may have failed.
		if err = s.usable(); err == nil {
			return v, nil
		}
		v.inner = true
		v.release()
	}
	if !inner {
		s.gate.RUnlock()
	}
	return view{}, err
}

// pin is a snapshot of a database that is open. The caller holds the gate.
func (s *store) pin(reader, inner bool) view {
	at, number := s.versions.take(reader)
	return view{s, s.db.NewTransactionAt(at, false), at, number, inner}
}

func (v view) release() {
	v.txn.Discard()
	v.store.versions.release(v.at)
	if !v.inner {
		v.store.gate.RUnlock()
	}
}

// get is a copy of the value under key, nil where there is none.
func (v view) get(key []byte) ([]byte, error) {
	item, err := v.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	value, err := item.ValueCopy(nil)
	if value == nil && err == nil {
		value = []byte{}
	}
	return value, err
}

// change is one entry of a transaction: a value for key, or none.
type change struct {
	key     []byte
	value   []byte
	remove  bool
	expires uint64 // Unix seconds after which Badger may drop the entry; 0: never
}

// commit writes changes in one transaction, durably, and then makes them
// visible. It keeps none of the slices. Before, unless nil, is called with the
// commit's number when nothing but the commit itself is left to do.
//
// badger.ErrTxnTooBig means that nothing was written. Any other error leaves
// it open what was, and makes the store unusable until it is reopened.
func (s *store) commit(changes []change, before func(number uint64)) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.usable(); err != nil {
		return err
	}
	at, number := s.versions.begin(), s.versions.committed.Load()+1
	moved, looked := false, false
	err := s.write(changes, at, number, before)
	if err == nil {
		if looked = s.sync || s.versions.wonders(); looked {
			moved, err = s.wal.follow()
		}
		if err == nil && s.sync {
			s.syncs.Add(1)
			err = s.wal.sync()
		}
	}
	if err == nil {
		bytes := bytesOf(changes)
		s.wal.wrote(bytes)
		s.versions.end(at, number, bytes, looked, moved)
		return nil
	}
	if !errors.Is(err, badger.ErrTxnTooBig) {
		err = fmt.Errorf("commit to %s: %w", s.dir, err)
		s.fault.Store(&err)
	}
	s.versions.abandon()
	return err
}

// write has Badger write changes at one of its versions.
func (s *store) write(changes []change, at, number uint64, before func(number uint64)) error {
	txn := s.db.NewTransactionAt(at, true)
	defer txn.Discard()
	// Badger keeps none of them longer than the commit takes.
	entries := slices.Grow(s.entries[:0], len(changes))[:len(changes)]
	defer s.dropEntries(entries)
	for i, c := range changes {
		if c.remove {
			if err := txn.Delete(c.key); err != nil {
				return err
			}
			continue
		}
		entries[i] = badger.Entry{Key: c.key, Value: c.value, ExpiresAt: c.expires}
		if err := txn.SetEntry(&entries[i]); err != nil {
			return err
		}
	}
	if before != nil {
		before(number)
	}
	if s.commitFault != nil {
		if err := s.commitFault(); err != nil {
			return err
		}
	}
	return txn.CommitAt(at, nil)
}

// keepEntries is for how many changes memory is kept for the next commit.
const keepEntries = 4 << 10

// dropEntries lets go of what a commit has written.
func (s *store) dropEntries(entries []badger.Entry) {
	clear(entries)
	if s.entries = entries; cap(entries) > keepEntries {
		s.entries = nil
	}
}

// reopen closes the faulty database and opens it again, which drops what the
// failed commit left behind, or keeps all of it. Reset is called with the new
// state while nobody else uses the store.
func (s *store) reopen(reset func(view) error) error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.fault.Load() == nil {
		return nil
	}
	_ = s.closeDB() // what it could not write is what made it faulty
	if err := s.openDB(); err != nil {
		return fmt.Errorf("reopen data directory %s: %w", s.dir, err)
	}
	now := s.pin(false, true)
	defer now.release()
	if err := reset(now); err != nil {
		return fmt.Errorf("reopen data directory %s: %w", s.dir, err)
	}
	s.fault.Store(nil)
	return nil
}

// forget lets Badger drop the versions that no snapshot can see any more.
func (s *store) forget() {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.usable() != nil {
		return
	}
	oldest, _ := s.versions.bounds()
	s.db.SetDiscardTs(oldest)
}

// size is what the database takes on the disk, in bytes, as of a minute ago.
func (s *store) size() int64 {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.usable() != nil {
		return 0
	}
	tables, _ := s.db.Size()
	return tables
}

// close waits for whoever uses the store.
func (s *store) close() error {
	s.gate.Lock()
	defer s.gate.Unlock()
	err := s.closeDB()
	if unlockErr := s.lock.Unlock(); err == nil {
		err = unlockErr
	}
	if err != nil {
		return fmt.Errorf("close data directory %s: %w", s.dir, err)
	}
	return nil
}
