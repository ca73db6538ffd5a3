package badger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/pairdb/coordinator/coord"
)

// One page of a scan looks at no more than so many keys, of any tenant, and
// holds no more than so many bytes of keys and clocks.
const (
	maxScanVisits = 16 << 10
	maxScanBytes  = 4 << 20
)

// Scan implements coord.Replica.
func (n *Node) Scan(ctx context.Context, req coord.ScanRequest) (coord.ScanPage, error) {
	fail := func(err error) (coord.ScanPage, error) {
		return coord.ScanPage{}, fmt.Errorf("%w: scan tenant %q: %w", coord.ErrReplicaUnavailable, req.Tenant, err)
	}
	if req.Limit < 1 || req.Limit > coord.MaxScanPage {
		return coord.ScanPage{}, fmt.Errorf("%w: scan tenant %q: %w: limit %d, want 1 to %d",
			coord.ErrReplicaRefused, req.Tenant, coord.ErrInvalidRequest, req.Limit, coord.MaxScanPage)
	}
	select {
	case n.scans <- struct{}{}:
		defer func() { <-n.scans }()
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	if err := n.reach(ctx, req.Epoch); err != nil {
		return coord.ScanPage{}, fmt.Errorf("scan tenant %q: %w", req.Tenant, err)
	}
	v, err := n.store.view()
	if err != nil {
		return fail(err)
	}
	defer v.release()
	now, wall := n.moment(), n.opts.Wall()

	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues = false
	opts.Prefix = []byte{nsRecord}
	it := v.txn.NewIterator(opts)
	defer it.Close()
	it.Seek(scanStart(&req))

	var page coord.ScanPage
	bytes := 0
	for visits := 0; it.Valid(); it.Next() {
		token, tenant, key, err := splitKey(it.Item().Key())
		if err != nil {
			return fail(err)
		}
		if token > req.Span.Last {
			break
		}
		matches := (req.Tenant == "" || string(tenant) == req.Tenant) && strings.HasPrefix(string(key), req.Prefix)
		position := coord.Position{Token: token}
		visits++
		full := len(page.Items) == req.Limit || bytes > maxScanBytes
		if matches || full || visits == maxScanVisits {
			position.Tenant, position.Key = string(tenant), string(key)
		}
		if full {
			page.Next = &page.Items[len(page.Items)-1].Position
			return page, nil
		}
		item := coord.ScanItem{Position: position}
		if matches {
			if err := it.Item().Value(func(b []byte) error {
				rec, err := decodeRecord(b, n.interned.bytes)
				item.Head = rec.head
				matches = req.DeadFor == 0 || now.deadFor(&rec, wall, req.DeadFor)
				return err
			}); err != nil {
				return fail(fmt.Errorf("read %s: %w", describeKey(it.Item().Key()), err))
			}
		}
		if matches {
			page.Items = append(page.Items, item)
			bytes += len(position.Tenant) + len(position.Key) + 64*(1+len(item.Head.Clock))
		}
		if visits == maxScanVisits {
			page.Next = &position
			return page, nil
		}
		if visits%256 == 0 && ctx.Err() != nil {
			return fail(ctx.Err())
		}
	}
	return page, nil
}

// scanStart is the first key that a scan may return.
func scanStart(req *coord.ScanRequest) []byte {
	first := appendKey(nil, nsRecord, req.Span.First, "", "")[:1+8]
	if req.After == nil || req.After.Token < req.Span.First {
		return first
	}
	// No key lies between a key and the same with a NUL behind it.
	return append(appendKey(first[:0], nsRecord, req.After.Token, req.After.Tenant, req.After.Key), 0)
}

// deadFor tells whether a record is a tombstone, or an expired version, that
// the node has held for so long. One that is ahead of the node's wall clock is
// not yet: the next version must be above it, and is accepted that far ahead
// only as long as the node holds it.
func (m moment) deadFor(r *record, wall time.Time, age time.Duration) bool {
	if r.head.Timestamp > wall.UnixNano() {
		return false
	}
	if !r.head.Tombstone && !r.head.Expired(wall.Add(-age)) {
		return false
	}
	return m.since(r.stored) >= age
}
