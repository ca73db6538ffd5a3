package badger

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// bootKey is where the number of the node's present life lies.
const bootKey = string(nsMeta) + "boot"

// moment is a reading of the node's clock in one of its lives, which are
// counted from 1. The zero moment is unknown.
type moment struct {
	boot  uint64
	clock time.Duration
}

// begin counts the node's lives up, durably, and starts its clock.
func (n *Node) begin(v view) error {
	b, err := v.get([]byte(bootKey))
	if err != nil {
		return fmt.Errorf("read boot number: %w", err)
	}
	if len(b) != 0 && len(b) != 8 {
		return fmt.Errorf("read boot number: %w: %d bytes", coord.ErrCorrupt, len(b))
	}
	n.boot = 1
	if len(b) == 8 {
		n.boot += binary.BigEndian.Uint64(b)
	}
	next := binary.BigEndian.AppendUint64(nil, n.boot)
	if err := n.store.commit([]change{{key: []byte(bootKey), value: next}}, nil); err != nil {
		return fmt.Errorf("write boot number: %w", err)
	}
	// Without it, a crash of the machine could give two lives one number.
	if err := n.store.db.Sync(); err != nil {
		return fmt.Errorf("sync boot number: %w", err)
	}
	if n.clock = n.opts.Clock; n.clock == nil {
		started := time.Now()
		n.clock = func() time.Duration { return time.Since(started) }
	}
	return nil
}

// Heard implements coord.Replica.
func (n *Node) Heard() (boot uint64, clock time.Duration) { return n.boot, n.clock() }

func (n *Node) moment() moment { return moment{n.boot, n.clock()} }

// checkAge refuses a mutation that was sent to another life of the node, or too
// long ago: it may be older than the deletion that it would undo.
func (m moment) checkAge(call *coord.Call) error {
	switch age := m.clock - call.Heard; {
	case call.Boot == 0:
		return nil
	case call.Boot != m.boot:
		return fmt.Errorf("%w: the message was meant for life %d of the node, this is its life %d",
			coord.ErrReplicaRefused, call.Boot, m.boot)
	case age > coord.MessageLifetime:
		return fmt.Errorf("%w: the message is %v old, at most %v is accepted",
			coord.ErrReplicaRefused, age.Round(time.Millisecond), coord.MessageLifetime)
	}
	return nil
}

// since is for how long the node has held, in its present life, what it stored at then.
func (m moment) since(then moment) time.Duration {
	if then.boot == m.boot {
		return m.clock - then.clock
	}
	return m.clock
}
