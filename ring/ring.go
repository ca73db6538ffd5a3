// Package ring places keys on storage nodes by consistent hashing. Its values
// are immutable: a change of membership makes a new Ring, which its owner swaps
// in atomically, so every method is safe for concurrent use without locks.
//
// The placement is shared with existing PairDB clusters and must not change:
// tokens are the first 8 bytes of SHA-256 (token.go), and the replicas of a key
// are the first distinct nodes clockwise from its token, a virtual node whose
// token equals the key's included.
package ring

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// DefaultVirtualNodes is how many virtual nodes a node gets unless it says
// otherwise. MaxVirtualNodes bounds the ring's memory: 16 bytes each.
const (
	DefaultVirtualNodes = 150
	MaxVirtualNodes     = 4096
)

// ErrInvalidNode is wrapped by every error about a node that New refuses.
var ErrInvalidNode = errors.New("invalid ring node")

// Node is a member of a ring. VirtualNodes is its weight, 1 to MaxVirtualNodes.
type Node struct {
	ID           string
	VirtualNodes int
}

// Ring maps tokens to nodes. The zero Ring has no nodes and places nothing.
type Ring struct {
	epoch  uint64
	nodes  []Node // sorted by ID; vnode.node and all returned indexes point here
	vnodes []vnode
	// starts[b] is the first vnode whose token's top bits are at least b, so a
	// lookup searches one bucket instead of the whole ring: tokens are hashes,
	// hence spread evenly, and a bucket holds one or two of them.
	starts []uint32
	shift  uint
}

type vnode struct {
	token Token
	node  uint32
}

// New builds the ring of an epoch. Nodes may come in any order; it copies them.
func New(epoch uint64, nodes []Node) (*Ring, error) {
	r := &Ring{epoch: epoch, nodes: slices.Clone(nodes)}
	slices.SortFunc(r.nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	total := 0
	for i, n := range r.nodes {
		switch {
		case n.ID == "":
			return nil, fmt.Errorf("%w: empty id", ErrInvalidNode)
		case i > 0 && r.nodes[i-1].ID == n.ID:
			return nil, fmt.Errorf("%w: %q is listed twice", ErrInvalidNode, n.ID)
		case n.VirtualNodes < 1 || n.VirtualNodes > MaxVirtualNodes:
			return nil, fmt.Errorf("%w: %q has %d virtual nodes, want 1 to %d",
				ErrInvalidNode, n.ID, n.VirtualNodes, MaxVirtualNodes)
		}
		total += n.VirtualNodes
	}
	r.vnodes = make([]vnode, 0, total)
	for i, n := range r.nodes {
		for v := range n.VirtualNodes {
			r.vnodes = append(r.vnodes, vnode{VnodeToken(n.ID, v), uint32(i)})
		}
	}
	slices.SortFunc(r.vnodes, func(a, b vnode) int {
		// Nodes are sorted by ID, so a collision is ordered the same on every coordinator.
		return cmp.Or(cmp.Compare(a.token, b.token), cmp.Compare(a.node, b.node))
	})
	r.index()
	return r, nil
}

func (r *Ring) index() {
	bits := uint(1)
	for 1<<bits < len(r.vnodes) {
		bits++
	}
	r.shift = 64 - bits
	r.starts = make([]uint32, 1<<bits+1)
	v := 0
	for b := range r.starts {
		for v < len(r.vnodes) && uint64(r.vnodes[v].token)>>r.shift < uint64(b) {
			v++
		}
		r.starts[b] = uint32(v)
	}
}

// Epoch numbers the ring: each change of membership makes the next one.
func (r *Ring) Epoch() uint64 { return r.epoch }

// Nodes lists the members, sorted by ID. The caller must not change the slice.
func (r *Ring) Nodes() []Node { return r.nodes }

// Len is the number of members.
func (r *Ring) Len() int { return len(r.nodes) }

// Replicas appends to dst the indexes (into Nodes) of the nodes that hold
// token, in preference order, and returns it: rf of them, or all members where
// there are fewer. It allocates only when dst lacks capacity.
func (r *Ring) Replicas(dst []uint32, token Token, rf int) []uint32 {
	want := min(rf, len(r.nodes))
	if want <= 0 {
		return dst
	}
	base := len(dst)
	for i, left := r.successor(token), len(r.vnodes); left > 0; left-- {
		if i == len(r.vnodes) {
			i = 0
		}
		if n := r.vnodes[i].node; !slices.Contains(dst[base:], n) {
			dst = append(dst, n)
			if len(dst)-base == want {
				break
			}
		}
		i++
	}
	return dst
}

// successor is the index of the first virtual node at or after token; it is
// len(vnodes), meaning the first, when token lies after the last.
func (r *Ring) successor(token Token) int {
	bucket := uint64(token) >> r.shift
	lo, hi := r.starts[bucket], r.starts[bucket+1]
	for lo < hi {
		mid := (lo + hi) / 2
		if r.vnodes[mid].token < token {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return int(lo)
}
