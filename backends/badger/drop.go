package badger

import (
	"fmt"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// decideDrop makes the node forget the call's key, if it holds just that
// version. What was deleted, or has expired, leaves a floor behind.
func (c *committer) decideDrop(v view, call *coord.Call, wall time.Time) error {
	if err := checkKey(call.Tenant, call.Key); err != nil {
		return fmt.Errorf("%w: %w", coord.ErrReplicaRefused, err)
	}
	if !call.Version.Exists() {
		return fmt.Errorf("%w: no version to drop", coord.ErrReplicaRefused)
	}
	at := c.find(call)
	found, current, err := c.present(v, call, at)
	if err != nil {
		return err
	}
	drops := current.Compare(&call.Version.Head) == 0
	if !drops && at < 0 {
		call.Held = coord.Version{Head: found.held.head}
		call.Finish(nil)
		return nil
	}
	if at < 0 {
		at = c.stage(call, found)
	}
	if s := &c.staged[at]; drops {
		if current.Tombstone || current.Expired(wall) {
			s.floor = max(s.floor, current.Timestamp)
		}
		s.head, s.value, s.owned = coord.Head{}, nil, false
		c.node.dropFile(s.ref) // of a version that came and went within the batch
		s.ref = valueRef{}
	}
	c.waiting = append(c.waiting, call)
	c.answers = append(c.answers, at)
	return nil
}
