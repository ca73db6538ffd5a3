package coord

import (
	"context"
	"testing"
	"time"
)

// idleReplica is a replica that is never called; only its availability counts.
type idleReplica struct{ down error }

func (idleReplica) Do(*Call)             {}
func (r idleReplica) Unavailable() error { return r.down }
func (idleReplica) Describe(context.Context) (NodeDescription, error) {
	return NodeDescription{}, nil
}
func (idleReplica) Scan(context.Context, ScanRequest) (ScanPage, error)  { return ScanPage{}, nil }
func (idleReplica) Heard() (uint64, time.Duration)                       { return 0, 0 }
func (idleReplica) Adopt(context.Context, uint64, []byte) error          { return nil }
func (idleReplica) Sums(context.Context, SumRequest) ([]SpanSums, error) { return nil, nil }
func (idleReplica) Floors(context.Context, uint64, []RangeFloor) ([]RangeFloor, error) {
	return nil, nil
}
func (idleReplica) Close() error { return nil }

func TestRankPrefersThoseThatAnswer(t *testing.T) {
	newPeer := func(id string, down error) *peer {
		return &peer{node: StorageNode{ID: id}, replica: idleReplica{down}}
	}
	dead := newPeer("dead", ErrReplicaUnavailable)
	silent, slow, first, second := newPeer("silent", nil), newPeer("slow", nil), newPeer("first", nil), newPeer("second", nil)
	now := instant(time.Hour)
	silent.sending(now - instant(2*silentAfter))
	for range 50 {
		for p, took := range map[*peer]time.Duration{slow: 20 * time.Millisecond, first: time.Millisecond, second: 2 * time.Millisecond} {
			p.sending(now)
			p.answered(now, took, true, nil)
		}
	}
	peers := []*peer{dead, silent, slow, second, first}
	var down [maxTargets]error
	rank(peers, now, Quorum, down[:])
	// Among equals the ring's order stays: second was before first.
	for i, want := range []*peer{second, first, slow, silent, dead} {
		if peers[i] != want {
			t.Errorf("place %d is %s, want %s", i, peers[i].node.ID, want.node.ID)
		}
	}
	if down[4] != ErrReplicaUnavailable || down[3] != nil {
		t.Errorf("down are %v", down[:5])
	}
	first.indebted.Store(true)
	peers = []*peer{first, second}
	if rank(peers, now, One, down[:]); peers[0] != second {
		t.Error("a node that is owed hints is asked first at level one")
	}
	if h := hedgeAfter(peers, 2); h < hedgeMin || h > 10*time.Millisecond {
		t.Errorf("hedge after %v", h)
	}
}

func TestP95Estimate(t *testing.T) {
	p := &peer{replica: idleReplica{}}
	for i := range 20_000 {
		took := time.Millisecond
		if i%50 == 0 { // one in fifty is slow: beyond the 95th percentile
			took = time.Second
		}
		p.sending(0)
		p.answered(0, took, true, nil)
	}
	if got := time.Duration(p.p95.Load()); got < 800*time.Microsecond || got > 3*time.Millisecond {
		t.Errorf("p95 estimate is %v, want about 1ms", got)
	}
}

func TestHedgeBudget(t *testing.T) {
	var b hedgeBudget
	hedged := 0
	for range 10_000 {
		b.earn()
		if b.take() {
			hedged++
		}
	}
	if hedged != 10_000/hedgeCost {
		t.Errorf("%d of 10,000 operations were hedged, want one in %d", hedged, hedgeCost)
	}
}
