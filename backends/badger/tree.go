package badger

import (
	"slices"
	"strings"
	"sync"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// tree is the node's hash tree: for each leaf, a stretch of tokens that share
// their first bits, and each space in it, how many keys there are and the
// exclusive or of their coord.VersionSum. Both add up in any order, so a commit
// changes a leaf by what it takes away and brings, and a part that was counted
// from a snapshot can be added to what changed since.
//
// Its memory is bounded: 24 bytes for each leaf and for each entry, a space
// in a leaf. Above maxEntries the leaves are made twice as wide, as often as
// it takes. Then more of a narrow span has to be read from the database.
type tree struct {
	maxEntries int

	mu      sync.Mutex
	bits    uint8 // that the tokens of a leaf share
	leaves  [][]leafEntry
	entries int
	spaces  map[string]*treeSpace
	bytes   int64 // of all keys and values

	// The tree is counted from a snapshot in the background (count), while
	// commits that the snapshot lacks change it already.
	since   uint64 // number of the snapshot's last commit; those up to it are in it
	counted bool   // what the snapshot holds was added
	round   uint64 // counts the times that it was begun again
}

// treeSpace is a tenant's space that has keys, named once.
type treeSpace struct {
	name    string
	entries int
}

type leafEntry struct {
	space *treeSpace
	keys  int64
	sum   uint64
}

func newTree(bits uint8, maxEntries int) *tree {
	t := &tree{maxEntries: maxEntries, bits: bits}
	t.clear()
	return t
}

// clear forgets everything. The lock is held.
func (t *tree) clear() {
	t.leaves = make([][]leafEntry, 1<<t.bits)
	t.spaces = make(map[string]*treeSpace)
	t.entries, t.bytes, t.counted = 0, 0, false
}

// keyOverhead is about what a key takes besides its name and value, in bytes.
const keyOverhead = 64

func keyBytes(space, key string, value int) int64 {
	return int64(keyOverhead + len(space) + len(key) + value)
}

// add changes what the tree has for a space at a token. The lock is held.
func (t *tree) add(token ring.Token, name string, keys int64, sum uint64) {
	at := t.leaf(token)
	leaf := t.leaves[at]
	i, found := find(leaf, name)
	if !found {
		if keys == 0 && sum == 0 {
			return
		}
		s := t.spaces[name]
		if s == nil {
			s = &treeSpace{name: strings.Clone(name)}
			t.spaces[s.name] = s
		}
		s.entries++
		t.entries++
		t.leaves[at] = slices.Insert(leaf, i, leafEntry{space: s, keys: keys, sum: sum})
		for t.entries > t.maxEntries && t.bits > 0 {
			t.widen()
		}
		return
	}
	e := &leaf[i]
	e.keys += keys
	e.sum ^= sum
	if e.keys == 0 && e.sum == 0 {
		t.drop(e.space)
		t.leaves[at] = slices.Delete(leaf, i, i+1)
	}
}

// drop takes an entry of a space away.
func (t *tree) drop(s *treeSpace) {
	t.entries--
	if s.entries--; s.entries == 0 {
		delete(t.spaces, s.name)
	}
}

func (t *tree) leaf(token ring.Token) int { return int(uint64(token) >> (64 - t.bits)) }

// span is the tokens of a leaf.
func (t *tree) span(leaf int) ring.Span {
	shift := 64 - t.bits
	first := uint64(leaf) << shift
	return ring.Span{First: ring.Token(first), Last: ring.Token(first + (1<<shift - 1))}
}

// widen makes one leaf of each two.
func (t *tree) widen() {
	narrow := t.leaves
	t.bits--
	t.leaves = make([][]leafEntry, 1<<t.bits)
	for i := range t.leaves {
		t.leaves[i] = t.merge(narrow[2*i], narrow[2*i+1])
	}
}

// merge adds the entries of two leaves, which are sorted.
func (t *tree) merge(a, b []leafEntry) []leafEntry {
	if len(a) == 0 {
		return b
	}
	for _, e := range b {
		i, found := find(a, e.space.name)
		if !found {
			a = slices.Insert(a, i, e)
			continue
		}
		a[i].keys += e.keys
		a[i].sum ^= e.sum
		t.drop(e.space)
		if a[i].keys == 0 && a[i].sum == 0 {
			t.drop(a[i].space)
			a = slices.Delete(a, i, i+1)
		}
	}
	return a
}

// committed takes in what a commit has changed.
func (t *tree) committed(batch []staged, number uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if number <= t.since {
		return
	}
	for i := range batch {
		s := &batch[i]
		if s.err != nil {
			continue
		}
		var keys int64
		var sum uint64
		if s.before.head.Exists() {
			keys--
			sum ^= coord.VersionSum(s.key, &s.before.head)
			t.bytes -= keyBytes(s.tenant, s.key, s.before.length)
		}
		if s.head.Exists() {
			keys++
			sum ^= coord.VersionSum(s.key, &s.head)
			t.bytes += keyBytes(s.tenant, s.key, len(s.value))
		}
		t.add(s.token, s.tenant, keys, sum)
	}
}

// begin forgets everything, and from now on takes in the commits after the
// snapshot that take takes. That one is to be counted into the tree that is
// returned, and handed to complete with the round.
func (t *tree) begin(take func() (view, error)) (v view, counted *tree, round uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, err = take(); err != nil {
		return view{}, nil, 0, err
	}
	t.clear()
	t.since = v.number
	t.round++
	return v, newTree(t.bits, t.maxEntries), t.round, nil
}

// invalidate makes the tree unusable until it is counted again.
func (t *tree) invalidate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counted = false
	t.round++
}

// complete adds what was counted from the snapshot of a round, unless the tree
// was begun again or invalidated since.
func (t *tree) complete(round uint64, counted *tree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if round != t.round {
		return
	}
	for t.bits > counted.bits {
		t.widen()
	}
	for at, leaf := range counted.leaves {
		first := counted.span(at).First
		for _, e := range leaf {
			t.add(first, e.space.name, e.keys, e.sum)
		}
	}
	t.bytes += counted.bytes
	t.counted = true
}

// ready tells whether the tree can be used.
func (t *tree) ready() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counted
}

// size is how many bytes keys and values take, if the tree knows.
func (t *tree) size() (bytes int64, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes, t.counted
}

// leavesAtOnce is how many leaves are added up before a commit may come in between.
const leavesAtOnce = 1024

// sums adds up what the leaves that lie within a span have, and returns what
// is left of the span at its ends. While the tree cannot be used that is all of it.
func (t *tree) sums(span ring.Span, into *sumTable) (left []ring.Span) {
	for from, more := span.First, true; more; {
		from, left, more = t.sumSome(from, span.Last, into, left)
	}
	return left
}

// sumSome goes on with a span at from, and tells where to go on again.
func (t *tree) sumSome(from, last ring.Token, into *sumTable, left []ring.Span) (ring.Token, []ring.Span, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.counted {
		return 0, append(left, ring.Span{First: from, Last: last}), false
	}
	for range leavesAtOnce {
		at := t.leaf(from)
		leaf := t.span(at)
		if leaf.First < from || leaf.Last > last {
			left = append(left, ring.Span{First: from, Last: min(leaf.Last, last)})
		} else {
			into.addLeaf(t.leaves[at])
		}
		if leaf.Last >= last {
			return 0, left, false
		}
		from = leaf.Last + 1
	}
	return from, left, true
}

// find is where a space is, or would be, in a leaf.
func find(leaf []leafEntry, name string) (int, bool) {
	if len(leaf) == 1 && leaf[0].space.name == name {
		return 0, true // most leaves
	}
	return slices.BinarySearchFunc(leaf, name, func(e leafEntry, name string) int { return strings.Compare(e.space.name, name) })
}
