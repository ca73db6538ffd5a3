package coord

import (
	"context"
	"sync/atomic"
	"time"
)

// peer is a storage node of the ring with what traffic has taught of it: how
// long its answers take, and whether it answers at all.
type peer struct {
	node    StorageNode
	replica Replica

	outstanding atomic.Int64
	answeredAt  atomic.Int64 // instant of its last answer, or of the first call after it was idle
	mean        atomic.Int64 // of recent answers, nanoseconds
	p95         atomic.Int64 // likewise, estimated
	indebted    atomic.Bool  // it is owed hints or ranges, so it may be behind

	described atomic.Pointer[NodeDescription] // what it last said of itself, nil before
}

// describe asks the node who it is and how full.
func (p *peer) describe(ctx context.Context) (NodeDescription, error) {
	who, err := p.replica.Describe(ctx)
	if err == nil {
		p.described.Store(&who)
	}
	return who, err
}

const (
	// silentAfter is how long a peer with calls outstanding may say nothing at
	// all before others are asked in its place.
	silentAfter = 20 * time.Millisecond
	// A peer is slow if its mean is slowFactor times the best one's and at
	// least slowMargin above it.
	slowFactor = 3
	slowMargin = time.Millisecond

	hedgeMin = 2 * time.Millisecond
	hedgeMax = 100 * time.Millisecond
)

// sending notes that a call starts.
func (p *peer) sending(now instant) {
	if p.outstanding.Add(1) == 1 {
		p.answeredAt.Store(int64(now))
	}
}

// answered notes that a call has ended after took. With learn set its latency
// is one that others are measured against: a clock read or read, and a first
// attempt, since a threshold learnt from hedges would follow itself.
func (p *peer) answered(now instant, took time.Duration, learn bool, err error) {
	p.outstanding.Add(-1)
	if err != nil {
		return
	}
	p.answeredAt.Store(int64(now))
	if !learn {
		return
	}
	sample := int64(took)
	// Racing updates may lose one of two samples, which an estimate can bear.
	if mean := p.mean.Load(); mean == 0 {
		p.mean.Store(sample)
		p.p95.Store(2 * sample)
	} else {
		p.mean.Store(mean + (sample-mean)/16)
	}
	// A stochastic quantile: up by 19 parts when exceeded, down by 1 part when
	// not, comes to rest where one answer in twenty exceeds it.
	q := p.p95.Load()
	part := q/256 + 1
	if sample > q {
		p.p95.Store(q + 19*part)
	} else {
		p.p95.Store(max(q-part, 1))
	}
}

// silent tells whether calls are out and nothing has come back for a while.
func (p *peer) silent(now instant) bool {
	return p.outstanding.Load() > 0 && now-instant(p.answeredAt.Load()) > instant(silentAfter)
}

// rank orders a key's peers for asking, best first, and keeps the ring's order
// among equals so that reads spread as the keys do: unavailable ones last,
// silent ones before them, slow ones before those, and, where a single answer
// decides (level one), those that are known to be behind.
func rank(peers []*peer, now instant, level Level, down []error) {
	var class [maxTargets]Standing
	best := bestMean(peers)
	for i, p := range peers {
		down[i] = p.replica.Unavailable()
		class[i] = p.standing(now, level, best, down[i])
	}
	// Insertion sort: stable, and there are few.
	for i := 1; i < len(peers); i++ {
		for j := i; j > 0 && class[j] < class[j-1]; j-- {
			class[j], class[j-1] = class[j-1], class[j]
			peers[j], peers[j-1] = peers[j-1], peers[j]
			down[j], down[j-1] = down[j-1], down[j]
		}
	}
}

// bestMean is the least mean of peers, -1 where none is known.
func bestMean(peers []*peer) int64 {
	best := int64(-1)
	for _, p := range peers {
		if mean := p.mean.Load(); mean > 0 && (best < 0 || mean < best) {
			best = mean
		}
	}
	return best
}

// standing is how p is to be asked beside others of which the best has a mean
// of best; down is why it cannot be used, nil where it can.
func (p *peer) standing(now instant, level Level, best int64, down error) Standing {
	switch mean := p.mean.Load(); {
	case down != nil:
		return Down
	case p.silent(now):
		return Silent
	case level == One && p.indebted.Load():
		return Behind
	case best > 0 && mean > slowFactor*best && mean > best+int64(slowMargin):
		return Slow
	}
	return Preferred
}

// hedgeAfter is how long to wait for the preferred peers before one more is
// asked: until the slowest of those asked is slower than its own p95.
func hedgeAfter(peers []*peer, asked int) time.Duration {
	var q int64
	for _, p := range peers[:min(asked, len(peers))] {
		q = max(q, p.p95.Load())
	}
	return min(max(time.Duration(q), hedgeMin), hedgeMax)
}
