package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// committer decides on applies and commits those that change something. It
// takes all that wait as one batch, so batches grow while a commit takes its
// time, and nothing waits for a batch to fill.
type committer struct {
	node   *Node
	flight flight // the calls that wait for a commit, while it goes on

	calls    []*coord.Call
	maxCalls int
	maxBytes int64

	staged  []staged
	byToken map[ring.Token]int // the last staged with a token, as index into staged
	waiting []*coord.Call      // for the commit
	answers []int              // of waiting: which of staged answers it
	changes []change
	buffer  []byte // of keys and records of one commit
	now     moment // when the batch was decided on
}

// staged is what a batch makes of one key.
type staged struct {
	token       ring.Token
	tenant, key string     // of a call that is not finished yet
	entry       *headEntry // the key's in the cache, nil where it had none
	before      *held
	head        coord.Head // shares no memory with a call, unless that was owned
	value       []byte     // of a call that is not finished yet, or was owned
	owned       bool       // value may be kept
	floor       int64      // the greatest timestamp that was deleted and dropped, 0 without
	ref         valueRef   // where it lies in a file
	previous    int        // another one with the same token, -1 without
	err         error      // why it was not committed
}

func newCommitter(n *Node) *committer {
	return &committer{
		node: n,
		// A batch should fit into one transaction; where it does not, it is split.
		maxCalls: int(max(1, n.store.db.MaxBatchCount()/4)),
		maxBytes: n.store.db.MaxBatchSize() / 2,
		byToken:  make(map[ring.Token]int),
	}
}

func (c *committer) run() {
	for {
		c.calls = c.node.applies.take(c.calls[:0], c.maxCalls, c.maxBytes)
		if len(c.calls) == 0 {
			return
		}
		for rest := c.calls; len(rest) > 0; {
			at := slices.IndexFunc(rest, func(call *coord.Call) bool { return call != nil && c.node.news(call) })
			if at < 0 {
				at = len(rest)
			}
			c.work(rest[:at])
			if rest = rest[at:]; len(rest) > 0 {
				c.adopt(rest)
			}
		}
		clear(c.calls)
	}
}

// work decides on calls of the node's present epoch, and commits.
func (c *committer) work(calls []*coord.Call) {
	if len(calls) == 0 {
		return
	}
	c.decide(calls)
	c.spill()
	c.commit(0, len(c.staged))
	c.finish()
}

// adopt makes the node know what the first of calls brings. Those that pass
// their deadline meanwhile are nil afterwards, and the first is if it is finished.
func (c *committer) adopt(calls []*coord.Call) {
	n, kind, epoch := c.node, calls[0].Kind, calls[0].Epoch
	ours := kind == callAdopt || kind == callTask
	var encoded []byte
	if kind == callAdopt {
		encoded = calls[0].Version.Value
	}
	caller := calls[0].Caller
	err := n.ring.check(epoch)
	if err == nil {
		// A call whose value was spilled stays the committer's.
		waiting := make([]*coord.Call, len(calls))
		for i, call := range calls {
			if call != nil && !isLarge(call) {
				waiting[i], calls[i] = call, nil
			}
		}
		c.flight.set(waiting)
		if err = n.adopt(epoch, encoded); err == nil && kind == callTask {
			err = caller.(*task).do()
		}
		c.flight.set(nil)
		for i, call := range waiting {
			if call != nil {
				calls[i] = call
			}
		}
	}
	if calls[0] == nil || err == nil && !ours {
		return
	}
	if err != nil && !ours {
		err = fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
	}
	n.unspill(calls[0])
	calls[0].Finish(err)
	calls[0] = nil
}

// decide goes through the batch in order. A call that changes nothing, beyond
// what is committed already, is answered at once.
func (c *committer) decide(calls []*coord.Call) {
	n := c.node
	var size int
	for _, call := range calls {
		if call != nil {
			size += int(batchBytes(call))
		}
	}
	n.disk.spend(size)

	refusal := n.refusal()
	v, err := n.store.ownView()
	if err == nil {
		defer v.release()
	} else if refusal == nil {
		refusal = fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
	}
	now, wall := time.Now(), n.opts.Wall()
	c.now = n.moment()
	for _, call := range calls {
		if call == nil {
			continue
		}
		if call.Kind == coord.CallHead || call.Kind == coord.CallRead {
			n.enqueue(n.reads, call) // it waited here for its epoch
			continue
		}
		var ref valueRef
		if isLarge(call) {
			ref = n.spilled.take(call)
		}
		var refused error
		switch {
		case refusal != nil && (call.Kind == coord.CallApply || err != nil):
			refused = refusal
		case expired(call, now):
			refused = errCallLate
		default:
			refused = c.decideOne(v, call, ref, wall)
		}
		if refused != nil {
			n.dropFile(ref)
			call.Finish(refused)
		}
	}
}

// decideOne decides on one call, whose value lies in ref if it was written
// already. The file is taken over, or dropped, unless it returns an error.
func (c *committer) decideOne(v view, call *coord.Call, ref valueRef, wall time.Time) error {
	if err := c.node.ring.check(call.Epoch); err != nil {
		return err
	}
	if err := c.now.checkAge(call); err != nil {
		return err
	}
	if call.Kind == coord.CallDrop {
		return c.decideDrop(v, call, wall)
	}
	return c.decideApply(v, call, ref, wall)
}

func (c *committer) decideApply(v view, call *coord.Call, ref valueRef, wall time.Time) error {
	if err := checkApply(call); err != nil {
		return err
	}
	at := c.find(call)
	found, current, err := c.present(v, call, at)
	if err != nil {
		return err
	}
	floor := c.node.floors.of(call.Token)
	if at >= 0 {
		floor = max(floor, c.staged[at].floor)
	}
	store, err := coord.Admit(current, floor, &call.Version.Head, call.Intent, wall, c.node.opts.MaxClockOffset)
	if err != nil {
		return err
	}
	if !store {
		c.node.dropFile(ref)
	}
	if !store && at < 0 {
		call.Held = coord.Version{Head: found.held.head}
		call.Finish(nil)
		return nil
	}
	if at < 0 {
		at = c.stage(call, found)
	}
	if s := &c.staged[at]; store {
		s.head = c.own(call)
		s.value, s.owned = call.Version.Value, call.Owned
		c.node.dropFile(s.ref) // of a version that came and went within the batch
		s.ref = ref
	}
	c.waiting = append(c.waiting, call)
	c.answers = append(c.answers, at)
	return nil
}

// committed is what is committed for a key, and its entry in the cache if that
// knew.
type committed struct {
	entry *headEntry
	held  *held
}

// held is what is committed for a call's key. Only the committer commits, so
// it is true until the committer's next commit.
func (c *committer) held(v view, call *coord.Call) (committed, error) {
	if e, h := c.node.heads.lookup(call.Token, call.Tenant, call.Key); h != nil {
		return committed{e, h}, nil
	}
	key := appendKey(c.buffer[:0], nsRecord, call.Token, call.Tenant, call.Key)
	c.buffer = key
	rec, err := c.node.loadRecord(v, key, false)
	if err != nil {
		return committed{}, fmt.Errorf("%w: read %s: %w", coord.ErrReplicaRefused, describeKey(key), err)
	}
	return committed{held: rec.held(false)}, nil
}

// present is what a call finds: what is committed, unless the batch already has
// something for the key, staged at, and the newest head.
func (c *committer) present(v view, call *coord.Call, at int) (found committed, current *coord.Head, err error) {
	if at >= 0 {
		return committed{}, &c.staged[at].head, nil
	}
	if found, err = c.held(v, call); err != nil {
		return committed{}, nil, err
	}
	return found, &found.held.head, nil
}

func (c *committer) find(call *coord.Call) int {
	at, ok := c.byToken[call.Token]
	if !ok {
		return -1
	}
	for at >= 0 && (c.staged[at].key != call.Key || c.staged[at].tenant != call.Tenant) {
		at = c.staged[at].previous
	}
	return at
}

func (c *committer) stage(call *coord.Call, found committed) int {
	previous, ok := c.byToken[call.Token]
	if !ok {
		previous = -1
	}
	at := len(c.staged)
	c.staged = append(c.staged, staged{
		token: call.Token, tenant: call.Tenant, key: call.Key, entry: found.entry, before: found.held, previous: previous,
	})
	c.byToken[call.Token] = at
	return at
}

// own is a call's head, copied if it is not owned: then the cache keeps nothing
// of the call.
func (c *committer) own(call *coord.Call) coord.Head {
	h := &call.Version.Head
	copied := *h
	if call.Owned {
		return copied
	}
	copied.Writer.ID = c.node.interned.string(h.Writer.ID)
	copied.Clock = slices.Clone(h.Clock)
	for i := range copied.Clock {
		copied.Clock[i].ID = c.node.interned.string(copied.Clock[i].ID)
	}
	return copied
}

// spill writes those large values of the batch into files that a spiller left
// out, because the node held a newer version then. A version whose value cannot
// be written is refused.
func (c *committer) spill() {
	n := c.node
	wrote := false
	for i := range c.staged {
		s := &c.staged[i]
		if len(s.value) <= fileBytes || s.ref.file != 0 {
			continue
		}
		wrote = true
		if s.ref, s.err = n.values.write(s.value, nil); s.err != nil {
			s.err = refuse(s.err)
		}
	}
	if !wrote {
		return
	}
	if err := n.values.syncDir(); err != nil {
		for i := range c.staged {
			if s := &c.staged[i]; s.ref.file != 0 && s.err == nil {
				s.err = refuse(err)
				n.warn(n.values.remove(s.ref.file))
			}
		}
	}
}

// commit writes staged[from:to] in one transaction or, where that is too big,
// in as few as will do.
func (c *committer) commit(from, to int) {
	if from == to {
		return
	}
	n := c.node
	batch := c.staged[from:to]
	created := c.fill(batch)
	if len(c.changes) == 0 {
		return
	}
	if len(batch) == len(c.staged) {
		// All that is needed of the calls in flight has been copied.
		c.flight.set(c.waiting)
	}
	var committed uint64
	err := n.store.commit(c.changes, func(number uint64) {
		committed = number
		for i := range batch {
			if s := &batch[i]; s.err == nil {
				n.heads.stage(s.entry, s.token, s.tenant, s.key, s.before, s.after(), number)
			}
		}
	})
	c.flight.set(nil)
	if err == nil {
		n.keys.Add(created)
		n.tree.committed(batch, committed)
		for i := range batch {
			if s := &batch[i]; s.err == nil && s.before.file != 0 {
				n.warn(n.values.remove(s.before.file))
			}
		}
		return
	}
	for i := range batch {
		s := &batch[i]
		n.heads.unstage(s.token, s.tenant, s.key)
	}
	tooBig := errors.Is(err, badger.ErrTxnTooBig)
	if tooBig && len(batch) > 1 {
		middle := from + len(batch)/2
		c.commit(from, middle)
		c.commit(middle, to)
		return
	}
	kind := coord.ErrReplicaUnavailable
	if tooBig {
		kind = coord.ErrReplicaRefused
	}
	err = fmt.Errorf("%w: %w", kind, err)
	for i := range batch {
		s := &batch[i]
		if s.err != nil {
			continue
		}
		s.err = err
		if s.ref.file != 0 {
			n.values.suspect(s.ref.file)
		}
	}
}

func (s *staged) separate() bool { return len(s.value) > inlineBytes && len(s.value) <= fileBytes }

// after is what the commit makes of the key. It shares no memory with a call.
func (s *staged) after() *held {
	h := &held{head: s.head, separate: s.separate(), file: s.ref.file, length: len(s.value)}
	if len(s.value) <= cachedValueBytes {
		h.value, h.known = s.value, true
		if !s.owned {
			h.value = slices.Clone(s.value)
		}
	}
	return h
}

// fill makes the changes of a batch, and tells how many keys it creates: fewer
// than none where it forgets more.
func (c *committer) fill(batch []staged) (created int64) {
	c.changes, c.buffer = c.changes[:0], c.buffer[:0]
	for i := range batch {
		s := &batch[i]
		if s.err != nil {
			continue
		}
		c.node.reclaimer.note(s)
		if s.floor != 0 {
			c.node.floors.raise(s.token, s.floor)
			c.changes = append(c.changes, c.node.floors.change(s.token))
		}
		if s.before.head.Exists() {
			created--
		}
		switch {
		case s.head.Exists():
			created++
			key, start := c.key(nsRecord, s), len(c.buffer)
			c.buffer = appendRecord(c.buffer, &s.head, s.value, s.ref, c.now)
			c.changes = append(c.changes, change{key: key, value: c.buffer[start:]})
		case s.before.head.Exists():
			c.changes = append(c.changes, change{key: c.key(nsRecord, s), remove: true})
		}
		switch {
		case s.separate():
			key, start := c.key(nsValue, s), len(c.buffer)
			c.buffer = append(c.buffer, s.value...)
			c.changes = append(c.changes, change{key: key, value: c.buffer[start:]})
		case s.before.separate:
			c.changes = append(c.changes, change{key: c.key(nsValue, s), remove: true})
		}
		if s.ref.file != 0 {
			c.changes = append(c.changes, change{key: appendFileKey(nil, s.ref.file), value: []byte{1}})
		}
		if s.before.file != 0 {
			c.changes = append(c.changes, change{key: appendFileKey(nil, s.before.file), remove: true})
		}
	}
	if created != 0 {
		count := binary.BigEndian.AppendUint64(nil, uint64(c.node.keys.Load()+created))
		c.changes = append(c.changes, change{key: []byte(countKey), value: count})
	}
	return created
}

// key makes a key in the buffer. Where the buffer grows, what was made before
// stays in the old one.
func (c *committer) key(ns byte, s *staged) []byte {
	start := len(c.buffer)
	c.buffer = appendKey(c.buffer, ns, s.token, s.tenant, s.key)
	return c.buffer[start:len(c.buffer):len(c.buffer)]
}

// keepBuffer is the size up to which a buffer is kept for the next batch.
const keepBuffer = 1 << 20

// finish answers the calls that waited for the commit, and forgets the batch.
func (c *committer) finish() {
	c.flight.set(c.waiting)
	for i, at := range c.answers {
		call := c.flight.take(i)
		if call == nil {
			continue
		}
		s := &c.staged[at]
		if s.err == nil {
			call.Held = coord.Version{Head: s.head}
		}
		call.Finish(s.err)
	}
	c.flight.set(nil)
	clear(c.staged)
	clear(c.changes)
	clear(c.byToken)
	c.staged, c.waiting, c.answers = c.staged[:0], c.waiting[:0], c.answers[:0]
	if cap(c.buffer) > keepBuffer {
		c.buffer = nil
	}
}
