package badger

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/pairdb/coordinator/coord"
)

const (
	epochKey    = string(nsMeta) + "epoch"    // 8 bytes, big-endian
	topologyKey = string(nsMeta) + "topology" // its epoch as above, then its encoding
)

// callTask is the kind of a call, made by the node for itself, whose caller is a
// *task. No call from outside has it.
const callTask = ^coord.CallKind(0)

// task is what the committer is to do between other calls, with nothing decided
// that is not committed.
type task struct {
	do   func() error
	done chan error // capacity 1
}

// Done receives the end of the call that brought the task.
func (t *task) Done(c *coord.Call) { t.done <- c.Err }

// task has the committer do something at an epoch, and waits for it.
func (n *Node) task(ctx context.Context, epoch uint64, do func() error) error {
	t := &task{do, make(chan error, 1)}
	call := &coord.Call{Kind: callTask, Epoch: epoch, Caller: t}
	call.Deadline, _ = ctx.Deadline()
	switch n.applies.push(call) {
	case queueFull:
		return errQueueFull
	case queueClosed:
		return errNodeClosed
	}
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", coord.ErrReplicaUnavailable, ctx.Err())
	}
}

// maxTopologyBytes bounds an encoded topology.
const maxTopologyBytes = 4 << 20

// callAdopt is the kind of a call, made by the node for itself, that brings an
// epoch, and a topology as the version's value. No call from outside has it.
const callAdopt = coord.CallKind(0)

// ringState is what the node knows of the ring. Only the committer changes it,
// by a commit of its own that comes before all that calls of the new epoch do,
// and behind all that was decided on at lower ones. So what anyone reads while
// current is the same before and after holds everything of lower epochs and
// nothing of higher ones.
type ringState struct {
	current  atomic.Uint64 // durable; never falls
	topology atomic.Pointer[topology]
}

// topology is the newest that the node was told of.
type topology struct {
	epoch   uint64
	encoded []byte // never changed
}

func (s *ringState) load(v view) error {
	b, err := v.get([]byte(epochKey))
	if err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	if len(b) != 0 && len(b) != 8 {
		return fmt.Errorf("read epoch: %w: %d bytes", coord.ErrCorrupt, len(b))
	}
	if len(b) == 8 {
		s.current.Store(max(s.current.Load(), binary.BigEndian.Uint64(b)))
	}
	if b, err = v.get([]byte(topologyKey)); err != nil {
		return fmt.Errorf("read topology: %w", err)
	}
	if b != nil {
		if len(b) < 8 {
			return fmt.Errorf("read topology: %w: %d bytes", coord.ErrCorrupt, len(b))
		}
		s.topology.Store(&topology{binary.BigEndian.Uint64(b), b[8:]})
	}
	return nil
}

// known is the newest topology, nil where there is none.
func (s *ringState) known() (epoch uint64, encoded []byte) {
	if t := s.topology.Load(); t != nil {
		return t.epoch, t.encoded
	}
	return 0, nil
}

// behind tells that a call has to wait until its epoch is adopted.
func (s *ringState) behind(epoch uint64) bool { return epoch > s.current.Load() }

// check refuses an epoch below the node's. Of a read it is asked when the read
// was made.
func (s *ringState) check(epoch uint64) error {
	if epoch == 0 {
		return nil
	}
	if current := s.current.Load(); epoch < current {
		return &coord.StaleRingError{Epoch: current}
	}
	return nil
}

// adopt makes epoch durable, with its topology where one is given. Only the
// committer calls it, with nothing decided that is not committed.
func (n *Node) adopt(epoch uint64, encoded []byte) error {
	var changes []change
	raises := n.ring.behind(epoch)
	if raises {
		changes = append(changes, change{key: []byte(epochKey), value: binary.BigEndian.AppendUint64(nil, epoch)})
	}
	var next *topology
	if known, _ := n.ring.known(); len(encoded) > 0 && epoch > known {
		stored := append(binary.BigEndian.AppendUint64(nil, epoch), encoded...)
		changes = append(changes, change{key: []byte(topologyKey), value: stored})
		next = &topology{epoch, stored[8:]}
	}
	if len(changes) == 0 {
		return nil
	}
	if err := n.store.commit(changes, nil); err != nil {
		return fmt.Errorf("%w: adopt epoch %d: %w", coord.ErrReplicaUnavailable, epoch, err)
	}
	if next != nil {
		n.ring.topology.Store(next)
	}
	if raises {
		n.ring.current.Store(epoch)
	}
	return nil
}

// news tells that the committer has to adopt something before it goes on with call.
func (n *Node) news(call *coord.Call) bool {
	return call.Kind == callAdopt || call.Kind == callTask || n.ring.behind(call.Epoch)
}

// Adopt implements coord.Replica. It fails with a *coord.StaleRingError where
// the node knows a higher epoch.
func (n *Node) Adopt(ctx context.Context, epoch uint64, encoded []byte) error {
	if len(encoded) > maxTopologyBytes {
		return fmt.Errorf("%w: topology has %d bytes, at most %d are accepted", coord.ErrReplicaRefused, len(encoded), maxTopologyBytes)
	}
	if n.closed.Load() {
		return errNodeClosed
	}
	if err := n.ring.check(epoch); err != nil {
		return err
	}
	if known, _ := n.ring.known(); !n.ring.behind(epoch) && (len(encoded) == 0 || known == epoch) {
		return nil
	}
	done := make(adopted, 1)
	call := &coord.Call{Kind: callAdopt, Epoch: epoch, Caller: done}
	call.Version.Value = append([]byte(nil), encoded...)
	call.Deadline, _ = ctx.Deadline()
	switch n.applies.push(call) {
	case queueFull:
		return errQueueFull
	case queueClosed:
		return errNodeClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: adopt epoch %d: %w", coord.ErrReplicaUnavailable, epoch, ctx.Err())
	}
}

// adopted receives the end of a call of callAdopt.
type adopted chan error

func (a adopted) Done(c *coord.Call) { a <- c.Err }

// reach makes the node know an epoch, or refuses it.
func (n *Node) reach(ctx context.Context, epoch uint64) error {
	if n.ring.behind(epoch) {
		return n.Adopt(ctx, epoch, nil)
	}
	return n.ring.check(epoch)
}
