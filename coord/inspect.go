package coord

import (
	"context"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// Copy is what one replica holds for a key.
type Copy struct {
	Node    string
	Version Version       // the zero Version: it has never seen the key
	Err     error         // why it did not answer; Version says nothing then
	Took    time.Duration // to answer
	// Relation is how the version's clock stands to that of the greatest one:
	// Equal, Before (outdated) or Concurrent (a conflict).
	Relation Relation
	Greatest bool // it is the version that a read would find
}

// Inspect reads a key from each of its natural replicas, in the ring's order,
// and changes nothing: it neither repairs nor waits for a level. It waits for
// the slowest replica, within the read timeout.
func (c *Coordinator) Inspect(ctx context.Context, tenant, key string) ([]Copy, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.ended()
	v, t, err := c.awaitTenant(ctx, tenant, time.Time{})
	if err != nil {
		return nil, err
	}
	token := ring.KeyToken(tenant, key)
	peers := v.natural(token, t.ReplicationFactor)
	copies := make([]Copy, len(peers))
	calls := make([]inspected, len(peers))
	answers := make(chan *inspected, len(peers)) // room for all: Done must not block
	deadline := time.Now().Add(c.options.ReadTimeout)
	started := c.now()
	for i, p := range peers {
		copies[i].Node = p.node.ID
		call := &calls[i]
		call.at, call.answers = i, answers
		call.Call = Call{Kind: CallRead, Tenant: t.Space, Key: key, Token: token, Epoch: v.topology.Epoch, Deadline: deadline, Caller: call}
		p.sending(c.now())
		p.replica.Do(&call.Call)
	}
	// Calls end by their deadline, whatever becomes of ctx: what they point to
	// is theirs until then.
	for range peers {
		call := <-answers
		out := &copies[call.at]
		out.Took = time.Duration(c.now() - started)
		peers[call.at].answered(c.now(), out.Took, false, call.Err)
		if out.Err = call.Err; call.Err == nil {
			out.Version = call.Held
		}
	}
	if ctx.Err() != nil {
		return nil, abandonError(ctx)
	}
	relate(copies)
	return copies, nil
}

// relate compares the copies with the greatest of them.
func relate(copies []Copy) {
	var greatest *Head
	for i := range copies {
		if h := &copies[i].Version.Head; copies[i].Err == nil && h.Exists() && (greatest == nil || h.Compare(greatest) > 0) {
			greatest = h
		}
	}
	if greatest == nil {
		return
	}
	for i := range copies {
		out := &copies[i]
		if out.Err != nil {
			continue
		}
		out.Greatest = out.Version.Compare(greatest) == 0
		if out.Relation = out.Version.Clock.Compare(greatest.Clock); out.Relation == After {
			// Pruning may have cost the greater version's clock an entry.
			out.Relation = Concurrent
		}
	}
}

// inspected is a call of Inspect.
type inspected struct {
	Call
	at      int // of whose replica it is
	answers chan<- *inspected
}

// Done takes the finished call.
func (i *inspected) Done(*Call) { i.answers <- i }
