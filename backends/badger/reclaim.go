package badger

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// reclaimer gives back to the disk what was deleted. Badger merges a deletion
// with what it deletes only as later writes push both down its tree, so on a
// node that is idle after a large deletion the room would never come back.
// Values in files of their own are not its affair: they go with their record.
type reclaimer struct {
	deleted  atomic.Int64 // bytes deleted since the last reclaiming
	written  atomic.Int64 // bytes committed since the last look
	reclaims atomic.Uint64
}

const (
	// reclaimLook is how often the node looks whether there is enough to reclaim.
	reclaimLook = 5 * time.Second
	// reclaimBusy is how many bytes committed between two looks mean that the
	// node is not idle: writes then make Badger merge by themselves, and
	// nothing else should take the disk from them.
	reclaimBusy = 1 << 20
	// reclaimLeast is the least that is worth it. Beyond it, it has to be a part
	// of all there is, so that what is rewritten stays in proportion.
	reclaimLeast = 4 << 20
	reclaimPart  = 4
	// reclaimMost bounds the tree that is merged at a time, which cannot be
	// interrupted. A larger one is merged by Badger, with the writes that come.
	reclaimMost = 4 << 30

	fillerBytes   = 64 << 10 // of one value
	fillerValues  = 4        // in one transaction
	flushPatience = 10 * time.Second
	flushRounds   = 6
)

// note counts what a commit makes of a key.
func (r *reclaimer) note(s *staged) {
	r.written.Add(keyBytes(s.tenant, s.key, len(s.value)))
	if s.before.head.Exists() && (s.head.Tombstone || !s.head.Exists()) {
		size := s.before.length
		if s.before.file != 0 {
			size = 0
		}
		r.deleted.Add(keyBytes(s.tenant, s.key, size))
	}
}

// due tells whether to reclaim now, from a tree of so many bytes.
func (r *reclaimer) due(tree int64) bool {
	idle := r.written.Swap(0) < reclaimBusy
	return idle && tree <= reclaimMost && r.deleted.Load() >= max(reclaimLeast, tree/reclaimPart)
}

// reclaimSpace looks again and again whether there is enough to reclaim.
func (n *Node) reclaimSpace() {
	tick := time.NewTicker(n.opts.reclaimLook)
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-tick.C:
		}
		if n.refusal() != nil || !n.reclaimer.due(n.store.size()) {
			continue // on a full disk there is no room to merge in
		}
		n.reclaimer.deleted.Store(0)
		if err := n.reclaim(); err != nil {
			if !n.closed.Load() {
				n.warn(fmt.Errorf("give deleted bytes back to the disk: %w", err))
			}
			continue
		}
		n.reclaimer.reclaims.Add(1)
	}
}

// reclaim merges all that is committed now into one level of Badger's tree. Only
// what is in tables is merged, and Badger writes a table when its log is full:
// so it is filled with what is dropped again in the merging.
func (n *Node) reclaim() error {
	for range flushRounds {
		if err := n.flush(); err != nil {
			return err
		}
		merged, err := n.store.flatten()
		if err != nil || merged {
			return err
		}
		// Tables of the topmost level alone are merged once there are more.
	}
	return nil
}

// flush makes Badger write tables of all that is committed now.
func (n *Node) flush() error {
	_, last := n.store.versions.bounds()
	value := make([]byte, fillerBytes)
	for filled := int64(0); filled < n.store.opts.MemTableSize; filled += fillerValues * fillerBytes {
		changes := make([]change, fillerValues)
		for i := range changes {
			changes[i] = change{key: append([]byte(fillerKey), byte(i)), value: value}
		}
		if err := n.aside(changes); err != nil {
			return err
		}
	}
	changes := make([]change, fillerValues)
	for i := range changes {
		changes[i] = change{key: append([]byte(fillerKey), byte(i)), remove: true}
	}
	if err := n.aside(changes); err != nil {
		return err
	}
	n.store.forget()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(flushPatience); !n.store.flushed(last); {
		if time.Now().After(deadline) {
			return fmt.Errorf("no table of what is committed was written within %v", flushPatience)
		}
		select {
		case <-n.stop:
			return errNodeClosed
		case <-poll.C:
		}
	}
	return nil
}

const fillerKey = string(nsMeta) + "filler"

// aside has the committer commit changes, between the calls that it works on.
func (n *Node) aside(changes []change) error {
	return n.task(context.Background(), 0, func() error { return n.store.commit(changes, nil) })
}

// flushed tells whether all up to a commit is in tables.
func (s *store) flushed(at uint64) bool {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.usable() != nil {
		return false
	}
	for _, t := range s.db.Tables() {
		if t.MaxVersion >= at {
			return true
		}
	}
	return false
}

// flatten merges the tables into one level, and tells whether that is one below
// the topmost, whose tables overlap.
func (s *store) flatten() (merged bool, err error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.usable(); err != nil {
		return false, err
	}
	if err := s.db.Flatten(1); err != nil {
		return false, err
	}
	for _, level := range s.db.Levels() {
		if level.Level > 0 && level.NumTables > 0 {
			return true, nil
		}
	}
	return false, nil
}
