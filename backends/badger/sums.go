package badger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// maxSums bounds the sums in one answer.
const maxSums = 64 << 10

// sumTable adds up a span.
type sumTable struct {
	only string // a space; empty: all
	sums map[string]coord.SpaceSum
}

func (t *sumTable) add(space string, keys int64, sum uint64) {
	if t.only != "" && space != t.only {
		return
	}
	s := t.sums[space]
	s.Space = space
	s.Keys += keys
	s.Sum ^= sum
	t.sums[space] = s
}

func (t *sumTable) addLeaf(leaf []leafEntry) {
	if t.only != "" {
		i, found := find(leaf, t.only)
		if !found {
			return
		}
		leaf = leaf[i : i+1]
	}
	for i := range leaf {
		t.add(leaf[i].space.name, leaf[i].keys, leaf[i].sum)
	}
}

// take returns what was added, by space in order, and begins anew.
func (t *sumTable) take() coord.SpanSums {
	sums := make(coord.SpanSums, 0, len(t.sums))
	for _, s := range t.sums {
		if s.Keys != 0 {
			sums = append(sums, s)
		}
	}
	clear(t.sums)
	slices.SortFunc(sums, func(a, b coord.SpaceSum) int { return strings.Compare(a.Space, b.Space) })
	return sums
}

// Sums implements coord.Replica. Most of it comes from the tree; the ends of
// the spans, and everything while the tree is still being counted, from the
// database.
func (n *Node) Sums(ctx context.Context, req coord.SumRequest) ([]coord.SpanSums, error) {
	if len(req.Spans) > coord.MaxSumSpans {
		return nil, fmt.Errorf("%w: sums of %d spans, at most %d are accepted", coord.ErrReplicaRefused, len(req.Spans), coord.MaxSumSpans)
	}
	select {
	case n.scans <- struct{}{}:
		defer func() { <-n.scans }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: sums: %w", coord.ErrReplicaUnavailable, ctx.Err())
	}
	if err := n.reach(ctx, req.Epoch); err != nil {
		return nil, fmt.Errorf("sums: %w", err)
	}
	table := sumTable{only: req.Space, sums: make(map[string]coord.SpaceSum)}
	all := make([]coord.SpanSums, len(req.Spans))
	total := 0
	for i, span := range req.Spans {
		if span.First > span.Last {
			return nil, fmt.Errorf("%w: sums: span %d ends before it begins", coord.ErrReplicaRefused, i)
		}
		for _, part := range n.tree.sums(span, &table) {
			if err := n.sumUp(ctx, part, &table); err != nil {
				return nil, fmt.Errorf("%w: sums: %w", coord.ErrReplicaUnavailable, err)
			}
		}
		all[i] = table.take()
		if total += len(all[i]); total > maxSums {
			return nil, fmt.Errorf("%w: sums: more than %d, ask for fewer spans or for one space", coord.ErrReplicaRefused, maxSums)
		}
	}
	if err := n.ring.check(req.Epoch); err != nil {
		return nil, fmt.Errorf("sums: %w", err)
	}
	return all, nil
}

// bytes is about how many bytes keys and values take.
func (n *Node) bytes() int64 {
	if size, known := n.tree.size(); known {
		return size
	}
	return n.store.size()
}

// sumUp adds up a span from the database.
func (n *Node) sumUp(ctx context.Context, span ring.Span, into *sumTable) error {
	v, err := n.store.view()
	if err != nil {
		return err
	}
	defer v.release()
	visits := 0
	return n.visit(v, span, func(token ring.Token, space string, key []byte, rec *record) error {
		into.add(space, 1, coord.VersionSum(string(key), &rec.head))
		if visits++; visits%visitsBetweenLooks == 0 {
			return ctx.Err()
		}
		return nil
	})
}

// visitsBetweenLooks is how many records are read between two looks whether to stop.
const visitsBetweenLooks = 256

// visit calls each with the records of a span, in order, until it fails. The
// key and the record are valid until each returns.
func (n *Node) visit(v view, span ring.Span, each func(token ring.Token, space string, key []byte, rec *record) error) error {
	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues = false
	opts.Prefix = []byte{nsRecord}
	it := v.txn.NewIterator(opts)
	defer it.Close()
	last := "" // of the spaces, of which neighbours often are the same
	for it.Seek(scanStart(&coord.ScanRequest{Span: span})); it.Valid(); it.Next() {
		token, space, key, err := splitKey(it.Item().Key())
		if err != nil {
			return err
		}
		if token > span.Last {
			return nil
		}
		if last != string(space) {
			last = string(space)
		}
		err = it.Item().Value(func(b []byte) error {
			rec, err := decodeRecord(b, n.interned.bytes)
			if err != nil {
				return fmt.Errorf("read %s: %w", describeKey(it.Item().Key()), err)
			}
			return each(token, last, key, &rec)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// countPause is the rest after each visitsBetweenLooks records that are counted,
// so that counting takes no more than a part of a processor.
const countPause = time.Millisecond

// countTree counts the tree, and again whenever it was invalidated.
func (n *Node) countTree() {
	for {
		if !n.tree.ready() {
			if err := n.countOnce(); err != nil {
				n.warn(fmt.Errorf("count the hash tree: %w", err))
			}
		}
		timer := time.NewTimer(lookEvery)
		select {
		case <-n.stop:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// countOnce counts all keys from a snapshot. It gives up, without an error,
// when the node stops or its store is to be reopened.
func (n *Node) countOnce() error {
	if n.store.fault.Load() != nil {
		return nil
	}
	v, counted, round, err := n.tree.begin(n.store.view)
	if err != nil {
		return err
	}
	defer v.release()
	visits := 0
	err = n.visit(v, ring.Everything(), func(token ring.Token, space string, key []byte, rec *record) error {
		counted.add(token, space, 1, coord.VersionSum(string(key), &rec.head))
		counted.bytes += keyBytes(space, string(key), rec.size)
		if visits++; visits%visitsBetweenLooks != 0 {
			return nil
		}
		select {
		case <-n.stop:
			return errCountingStopped
		case <-time.After(countPause):
		}
		if n.store.fault.Load() != nil {
			return errCountingStopped
		}
		return nil
	})
	switch {
	case errors.Is(err, errCountingStopped):
		return nil
	case err == nil:
		n.tree.complete(round, counted)
	}
	return err
}

var errCountingStopped = errors.New("counting was stopped")
