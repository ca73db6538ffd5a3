package console

import (
	"cmp"
	"slices"
	"sync"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// maxArcs bounds the arcs of the picture; a ring of more is shown by its shares.
const maxArcs = 4096

// shownRing is the ring as the page draws it: arcs in order, each from the end
// of the one before to its own end, as parts of the whole.
type shownRing struct {
	Epoch uint64    `json:"epoch"`
	Nodes []string  `json:"nodes"`
	Share []float64 `json:"share"` // of each node, of first replicas
	Ends  []float64 `json:"ends"`
	Owner []int     `json:"owner"` // index in Nodes
}

// ringPicture keeps the latest picture.
type ringPicture struct {
	mu     sync.Mutex
	latest *shownRing
}

// of draws the ring of a status, once for each epoch.
func (p *ringPicture) of(s coord.Status) *shownRing {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest == nil || p.latest.Epoch != s.Epoch || len(p.latest.Nodes) != active(s) {
		p.latest = draw(s)
	}
	return p.latest
}

func active(s coord.Status) (n int) {
	for i := range s.Nodes {
		if s.Nodes[i].Status == coord.NodeActive {
			n++
		}
	}
	return n
}

func draw(s coord.Status) *shownRing {
	type place struct {
		token ring.Token
		node  int
	}
	var places []place
	shown := &shownRing{Epoch: s.Epoch}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Status != coord.NodeActive {
			continue
		}
		for v := range n.VirtualNodes {
			places = append(places, place{ring.VnodeToken(n.ID, v), len(shown.Nodes)})
		}
		shown.Nodes = append(shown.Nodes, n.ID)
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.token, b.token), cmp.Compare(a.node, b.node)) })
	shown.Share = make([]float64, len(shown.Nodes))
	for i, p := range places {
		before := places[(i+len(places)-1)%len(places)].token
		part := float64(p.token-before) / (1 << 64) // wraps around at the first
		if len(places) == 1 {
			part = 1
		}
		shown.Share[p.node] += part
	}
	if len(places) > maxArcs {
		end := 0.0
		for node, share := range shown.Share {
			end += share
			shown.Ends, shown.Owner = append(shown.Ends, end), append(shown.Owner, node)
		}
		return shown
	}
	for _, p := range places {
		shown.Ends, shown.Owner = append(shown.Ends, fraction(p.token)), append(shown.Owner, p.node)
	}
	return shown
}

// fraction is a token's place on the ring, 0 to 1.
func fraction(t ring.Token) float64 { return float64(t) / (1 << 64) }
