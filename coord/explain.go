package coord

import (
	"context"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// Standing is why a replica is asked sooner or later than others.
type Standing uint8

// From asked first to asked last. One that is Behind is owed versions, which
// matters only where a single answer decides.
const (
	Preferred Standing = iota
	Slow
	Behind
	Silent
	Down
)

func (s Standing) String() string {
	return [...]string{"preferred", "slow", "behind", "silent", "down"}[s]
}

// ExplainedReplica is a natural replica of a key as an operation would see it.
type ExplainedReplica struct {
	Node        StorageNode
	Place       int // in the ring's order, from 1
	Standing    Standing
	Unavailable error // why it is Down
	Latency     time.Duration
	P95         time.Duration // both recent, of reads; 0 without any
	Outstanding int           // calls that it has not answered
	Debt        Debt
}

// ExplainedLevel is what a level asks of a key's replicas.
type ExplainedLevel struct {
	Level Level
	Need  int // replicas that must answer
	Met   bool
}

// Explanation tells where a key lives and what an operation on it would do.
type Explanation struct {
	Epoch             uint64
	Token             ring.Token
	ReplicationFactor int
	Level             Level              // as asked, or the default
	Replicas          []ExplainedReplica // in the order in which they would be asked at that level
	Levels            []ExplainedLevel   // one, quorum and all
	HedgeAfter        time.Duration      // how long a read waits before it asks one more
}

// Explain tells where a key lives and in which order its replicas would be
// asked now. It asks none of them.
func (c *Coordinator) Explain(ctx context.Context, tenant, key string, level Level) (Explanation, error) {
	if err := c.begin(); err != nil {
		return Explanation{}, err
	}
	defer c.ended()
	v, t, err := c.awaitTenant(ctx, tenant, time.Time{})
	if err != nil {
		return Explanation{}, err
	}
	if level == LevelDefault {
		level = c.options.DefaultLevel
	}
	peers := v.natural(ring.KeyToken(tenant, key), t.ReplicationFactor)
	places := make(map[*peer]int, len(peers))
	for i, p := range peers {
		places[p] = i + 1
	}
	now := c.now()
	down := make([]error, len(peers))
	rank(peers, now, level, down)
	var ledger map[string]Debt
	if c.handoff != nil {
		ledger = c.handoff.ledger()
	}
	e := Explanation{
		Epoch: v.topology.Epoch, Token: ring.KeyToken(tenant, key), ReplicationFactor: t.ReplicationFactor, Level: level,
		HedgeAfter: hedgeAfter(peers, level.need(t.ReplicationFactor)),
	}
	best := bestMean(peers)
	up := 0
	for i, p := range peers {
		if down[i] == nil {
			up++
		}
		e.Replicas = append(e.Replicas, ExplainedReplica{
			Node: p.node, Place: places[p], Standing: p.standing(now, level, best, down[i]), Unavailable: down[i],
			Latency: time.Duration(p.mean.Load()), P95: time.Duration(p.p95.Load()),
			Outstanding: int(p.outstanding.Load()), Debt: ledger[p.node.ID],
		})
	}
	for _, l := range []Level{One, Quorum, All} {
		need := l.need(t.ReplicationFactor)
		e.Levels = append(e.Levels, ExplainedLevel{Level: l, Need: need, Met: up >= need})
	}
	return e, nil
}

// natural are a key's replicas, in the ring's order.
func (v *view) natural(token ring.Token, rf int) []*peer {
	var nodes [maxTargets]uint32
	var peers []*peer
	for _, n := range v.ring.Replicas(nodes[:0], token, min(rf, maxTargets)) {
		peers = append(peers, v.members[n])
	}
	return peers
}
