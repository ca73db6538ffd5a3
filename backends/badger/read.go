package badger

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/pairdb/coordinator/coord"
)

// readBatch is how many reads share a snapshot. It is small, so that several
// readers share what waits.
const readBatch = 64

// reader answers reads that need the database.
type reader struct {
	node   *Node
	flight flight
	calls  []*coord.Call
	key    []byte
}

func newReader(n *Node) *reader {
	return &reader{node: n, calls: make([]*coord.Call, 0, readBatch)}
}

func (r *reader) run() {
	q := r.node.reads
	for {
		r.calls = q.take(r.calls[:0], readBatch, q.maxBytes)
		if len(r.calls) == 0 {
			return
		}
		r.flight.set(r.calls)
		r.answer()
		r.flight.set(nil)
	}
}

func (r *reader) answer() {
	v, err := r.node.store.view()
	if err != nil {
		for i := range r.calls {
			if call := r.flight.take(i); call != nil {
				call.Finish(fmt.Errorf("%w: %w", coord.ErrReplicaUnavailable, err))
			}
		}
		return
	}
	defer v.release()
	now := time.Now()
	for i := range r.calls {
		kind, err := r.begin(i, now)
		if kind == 0 {
			continue
		}
		var version coord.Version
		if err == nil {
			version, err = r.node.load(v, r.key, kind == coord.CallRead)
		}
		if call := r.flight.take(i); call != nil {
			r.node.finishRead(call, version, err)
		}
	}
}

// begin makes the key of a call; it returns no kind for one that is finished.
// A call must not be looked at later: its deadline may pass at any time.
func (r *reader) begin(i int, now time.Time) (coord.CallKind, error) {
	r.flight.mu.Lock()
	defer r.flight.mu.Unlock()
	call := r.flight.calls[i]
	if call == nil {
		return 0, nil
	}
	if expired(call, now) {
		return call.Kind, errCallLate
	}
	if err := checkKey(call.Tenant, call.Key); err != nil {
		return call.Kind, fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
	}
	r.key = appendKey(r.key[:0], nsRecord, call.Token, call.Tenant, call.Key)
	return call.Kind, nil
}

// load reads what the node holds under a record's key, with the value if asked
// to. The version that it returns shares no memory with the store.
func (n *Node) load(v view, key []byte, withValue bool) (coord.Version, error) {
	version, missing, err := n.loadOnce(v, key, withValue)
	if missing {
		// The file has been replaced since the snapshot was taken. What a
		// snapshot refers to that is taken now stays until it was read.
		n.values.inUse.RLock()
		var newer view
		if newer, err = v.again(); err == nil {
			version, _, err = n.loadOnce(newer, key, withValue)
			newer.release()
		}
		n.values.inUse.RUnlock()
	}
	if err != nil {
		return coord.Version{}, fmt.Errorf("%w: read %s: %w", coord.ErrReplicaUnavailable, describeKey(key), err)
	}
	return version, nil
}

func (n *Node) loadOnce(v view, key []byte, withValue bool) (version coord.Version, missing bool, err error) {
	rec, err := n.loadRecord(v, key, withValue)
	version = coord.Version{Head: rec.head, Value: rec.inline}
	if err != nil || !withValue || rec.ref.size == 0 {
		return version, false, err
	}
	if rec.ref.file != 0 {
		version.Value, err = n.values.read(rec.ref)
		return version, errors.Is(err, fs.ErrNotExist), err
	}
	version.Value, err = v.get(append([]byte{nsValue}, key[1:]...))
	if err == nil && uint64(len(version.Value)) != rec.ref.size {
		err = fmt.Errorf("%w: the value has %d bytes, its record says %d", coord.ErrCorrupt, len(version.Value), rec.ref.size)
	}
	return version, false, err
}

// loadRecord reads a record, and fills the head cache from it. The inline value
// is copied if asked for, and left out otherwise.
func (n *Node) loadRecord(v view, key []byte, withValue bool) (record, error) {
	var rec record
	item, err := v.txn.Get(key)
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		err = nil
	case err == nil:
		err = item.Value(func(b []byte) (err error) {
			if rec, err = decodeRecord(b, n.interned.bytes); err != nil {
				return err
			}
			if withValue {
				rec.inline = append([]byte(nil), rec.inline...)
			} else {
				rec.inline = nil
			}
			return nil
		})
	}
	if err != nil {
		return record{}, err
	}
	if token, tenant, name, err := splitKey(key); err == nil {
		n.heads.fill(token, tenant, name, rec.held(withValue), v.number)
	}
	return rec, nil
}

// held is what is cached of a record that was read: with a copy of its value if
// asked to, since whoever asked owns the one that was read.
func (r *record) held(withValue bool) *held {
	h := &held{head: r.head, separate: r.separate, file: r.ref.file, length: r.size}
	if withValue && r.ref.size == 0 && len(r.inline) <= cachedValueBytes {
		h.value, h.known = slices.Clone(r.inline), true
	}
	return h
}

// finishRead answers a head or read with what was read for it.
func (n *Node) finishRead(call *coord.Call, version coord.Version, err error) {
	if stale := n.ring.check(call.Epoch); err == nil && stale != nil {
		err = stale
	}
	if err == nil {
		call.Held, call.Floor = version, n.floors.of(call.Token)
	}
	call.Finish(err)
}

// describeKey names a key in an error.
func describeKey(key []byte) string {
	_, tenant, name, err := splitKey(key)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("key %q of tenant %q", name, tenant)
}
