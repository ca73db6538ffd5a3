package badger

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// spillers is how many large values are written at one time.
const spillers = 2

// isLarge tells whether a call's value goes into a file of its own.
func isLarge(c *coord.Call) bool {
	return c.Kind == coord.CallApply && len(c.Version.Value) > fileBytes
}

// spilled says where the values lie that were written to files for calls which
// have not reached the committer yet.
type spilled struct {
	mu   sync.Mutex
	refs map[*coord.Call]valueRef
}

func (s *spilled) put(call *coord.Call, ref valueRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs[call] = ref
}

// take returns the zero valueRef where the call's value was not written.
func (s *spilled) take(call *coord.Call) valueRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref := s.refs[call]
	delete(s.refs, call)
	return ref
}

// spiller writes large values to files before their calls queue for the
// committer, so that no commit of others waits for them. What it wrote for a
// call that then changes nothing is removed, after a crash at the next opening.
type spiller struct {
	node  *Node
	calls []*coord.Call
	key   []byte
	seen  uint64    // calls that the node's queues had got
	until time.Time // others are let through
}

// restTime is a rest of a spiller between two pieces of a value, which leaves
// it 200 MB/s.
const restTime = 250 * time.Microsecond

// restFor is how long the node counts as asked by others after it was: those
// who wait because of the value must not seem to be gone.
const restFor = 20 * time.Millisecond

// rest leaves the processor to others, if the node has got other calls lately.
// Several nodes write the same value at the same time.
func (s *spiller) rest() {
	now := time.Now()
	if seen := s.node.applies.count() + s.node.reads.count(); seen != s.seen {
		s.seen, s.until = seen, now.Add(restFor)
	}
	if now.Before(s.until) {
		time.Sleep(restTime)
	}
}

func (s *spiller) run() {
	q := s.node.spills
	for {
		s.calls = q.take(s.calls[:0], 1, q.maxBytes)
		if len(s.calls) == 0 {
			return
		}
		s.pass(s.calls[0])
	}
}

// pass writes a call's value and hands the call to the committer.
func (s *spiller) pass(call *coord.Call) {
	n := s.node
	if expired(call, time.Now()) {
		call.Finish(errCallLate)
		return
	}
	ref, err := s.write(call)
	if err == nil && expired(call, time.Now()) {
		err = errCallLate
	}
	if err == nil {
		if ref.file != 0 {
			n.spilled.put(call, ref)
		}
		switch n.applies.push(call) {
		case queued:
			return
		case queueFull:
			err = errQueueFull
		case queueClosed:
			err = errNodeClosed
		}
		n.spilled.take(call)
	}
	n.dropFile(ref)
	call.Finish(err)
}

// write makes the file. It writes none for a version that the node has already.
func (s *spiller) write(call *coord.Call) (valueRef, error) {
	n := s.node
	if err := checkApply(call); err != nil {
		return valueRef{}, err
	}
	newer, err := s.isNewer(call)
	if err != nil || !newer {
		return valueRef{}, err
	}
	n.disk.spend(len(call.Version.Value))
	if err := n.refusal(); err != nil {
		return valueRef{}, err
	}
	ref, err := n.values.write(call.Version.Value, s.rest)
	if err != nil {
		return valueRef{}, refuse(err)
	}
	if err := n.values.syncDir(); err != nil {
		n.dropFile(ref)
		return valueRef{}, refuse(err)
	}
	return ref, nil
}

func (s *spiller) isNewer(call *coord.Call) (bool, error) {
	n := s.node
	h := n.heads.get(call.Token, call.Tenant, call.Key)
	if h == nil {
		v, err := n.store.view()
		if err != nil {
			return false, fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
		}
		defer v.release()
		s.key = appendKey(s.key[:0], nsRecord, call.Token, call.Tenant, call.Key)
		rec, err := n.loadRecord(v, s.key, false)
		if err != nil {
			return false, fmt.Errorf("%w: read %s: %w", coord.ErrReplicaRefused, describeKey(s.key), err)
		}
		h = rec.held(false)
	}
	return call.Version.Compare(&h.head) > 0, nil
}

// unspill removes what was written for a call that is not applied.
func (n *Node) unspill(call *coord.Call) {
	if isLarge(call) {
		n.dropFile(n.spilled.take(call))
	}
}

// dropFile removes a value that no record was made to refer to.
func (n *Node) dropFile(ref valueRef) {
	if ref.file != 0 {
		n.warn(n.values.remove(ref.file))
	}
}

// refuse marks an error before which nothing was changed.
func refuse(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", coord.ErrDiskFull, err)
	}
	return fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
}

// checkApply tells whether a call's version can be stored.
func checkApply(call *coord.Call) error {
	if err := errors.Join(checkKey(call.Tenant, call.Key), checkVersion(&call.Version)); err != nil {
		return fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
	}
	return nil
}
