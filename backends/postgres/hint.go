package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// Bounds of one statement that stores hints.
const (
	maxStatementHints = 1000
	maxStatementBytes = 4 << 20
)

// Postgres's integers are signed.
func fromToken(t ring.Token) int64 { return int64(uint64(t) ^ 1<<63) }
func toToken(n int64) ring.Token   { return ring.Token(uint64(n) ^ 1<<63) }

// nanos is t in Unix nanoseconds, or the nearest number that is one.
func nanos(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time { return time.Unix(0, n).UTC() }

// nowNanos is the database's clock.
const nowNanos = "floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"

// hintKey tells hints apart.
type hintKey struct {
	node        string
	token       ring.Token
	tenant, key string
}

func keyOf(h *coord.Hint) hintKey { return hintKey{h.Node, h.Token, h.Tenant, h.Key} }

func (k hintKey) compare(l hintKey) int {
	return cmp.Or(cmp.Compare(k.node, l.node), cmp.Compare(k.token, l.token),
		cmp.Compare(k.tenant, l.tenant), cmp.Compare(k.key, l.key))
}

// storedHint is what is stored for a key, or will be when the group is.
type storedHint struct {
	head coord.Head
	size int64
	hint *coord.Hint // where it is of the group
}

// keyColumns are the columns of keys, for unnest.
func keyColumns(keys []hintKey) (columns [4]any) {
	nodes, tokens := make([]string, len(keys)), make([]int64, len(keys))
	tenants, names := make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		nodes[i], tokens[i], tenants[i], names[i] = k.node, fromToken(k.token), k.tenant, k.key
	}
	return [4]any{nodes, tokens, tenants, names}
}

const (
	// theseKeys are the first four arguments, as a table.
	theseKeys = `unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) AS these (node, token, tenant, key)`
	sameKey   = `hints.node = these.node AND hints.token = these.token AND hints.tenant = these.tenant AND hints.key = these.key`
)

// findHints looks for what is stored under keys.
func findHints(ctx context.Context, tx pgx.Tx, keys []hintKey) (map[hintKey]storedHint, error) {
	stored := make(map[hintKey]storedHint, len(keys))
	if len(keys) == 0 {
		return stored, nil
	}
	columns := keyColumns(keys)
	found, err := tx.Query(ctx, "SELECT hints.node, hints.token, hints.tenant, hints.key, hints.head, hints.size FROM "+theseKeys+
		" JOIN hints ON "+sameKey, columns[:]...)
	if err != nil {
		return nil, err
	}
	_, err = collect(found, func(row pgx.Row) (struct{}, error) {
		var k hintKey
		var token int64
		var head []byte
		var s storedHint
		err := row.Scan(&k.node, &token, &k.tenant, &k.key, &head, &s.size)
		if err == nil {
			s.head, err = decodeHead(head, k.node, k.key)
		}
		k.token = toToken(token)
		stored[k] = s
		return struct{}{}, err
	})
	return stored, err
}

func decodeHead(b []byte, node, key string) (coord.Head, error) {
	head, rest, err := coord.DecodeHead(b, nil)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes behind the version", coord.ErrCorrupt, len(rest))
	}
	if err != nil {
		return coord.Head{}, fmt.Errorf("stored hint for node %q and key %q: %w", node, key, err)
	}
	return head, nil
}

// sortedKeys are the keys of hints, each once, in the order of the table, so
// that neighbours meet on the same pages.
func sortedKeys(hints []coord.Hint) []hintKey {
	keys := make([]hintKey, len(hints))
	for i := range hints {
		keys[i] = keyOf(&hints[i])
	}
	slices.SortFunc(keys, hintKey.compare)
	return slices.Compact(keys)
}

// PutHints implements coord.Hints. Of a hint that grew beyond the bounds the
// version before it is kept.
func (s *Store) PutHints(ctx context.Context, coordinator string, hints []coord.Hint) error {
	doing := fmt.Sprintf("put %d hints", len(hints))
	for i := range hints {
		if h := &hints[i]; !h.Version.Exists() {
			return fmt.Errorf("%s: that for node %q and key %q has no version", doing, h.Node, h.Key)
		}
	}
	keys := sortedKeys(hints)
	return s.updateLedger(ctx, doing, func(ctx context.Context, tx pgx.Tx, debts ledger) error {
		stored, err := findHints(ctx, tx, keys)
		if err != nil {
			return err
		}
		count, size := debts.total()
		for i := range hints {
			h := &hints[i]
			old := stored[keyOf(h)]
			if old.head.Compare(&h.Version.Head) >= 0 {
				continue
			}
			more, grown := int64(1), h.Size()-old.size
			if old.head.Exists() {
				more = 0
			}
			d := debts.of(h.Node)
			if more > 0 && count >= s.opts.MaxHints || grown > 0 && size+grown > s.opts.MaxHintBytes {
				d.owe(coord.OwedRange(h.Token))
				continue
			}
			stored[keyOf(h)] = storedHint{h.Version.Head, h.Size(), h}
			count += more
			size += grown
			d.add(more, grown)
		}
		var changed []*coord.Hint
		for _, k := range keys {
			if h := stored[k].hint; h != nil {
				changed = append(changed, h)
			}
		}
		return writeHints(ctx, tx, coordinator, changed)
	})
}

// writeHints stores hints, whatever was there, in as few statements as their
// size allows.
func writeHints(ctx context.Context, tx pgx.Tx, coordinator string, hints []*coord.Hint) error {
	for len(hints) > 0 {
		n, size := 0, int64(0)
		for n < len(hints) && n < maxStatementHints && (n == 0 || size+hints[n].Size() <= maxStatementBytes) {
			size += hints[n].Size()
			n++
		}
		keys := make([]hintKey, n)
		since, sizes := make([]int64, n), make([]int64, n)
		heads, values := make([][]byte, n), make([][]byte, n)
		for i, h := range hints[:n] {
			keys[i] = keyOf(h)
			since[i], sizes[i] = nanos(h.Since), h.Size()
			heads[i] = coord.AppendHead(nil, &h.Version.Head)
			if values[i] = h.Version.Value; values[i] == nil {
				values[i] = []byte{} // nil would be NULL
			}
		}
		columns := keyColumns(keys)
		if _, err := tx.Exec(ctx, `INSERT INTO hints (node, token, tenant, key, coordinator, stored, since, size, head, value)
			SELECT node, token, tenant, key, $5, `+nowNanos+`, since, size, head, value
			FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bytea[])
			AS these (node, token, tenant, key, since, size, head, value)
			ON CONFLICT (node, token, tenant, key) DO UPDATE SET coordinator = excluded.coordinator, stored = excluded.stored,
			since = excluded.since, size = excluded.size, head = excluded.head, value = excluded.value`,
			append(columns[:], coordinator, since, sizes, heads, values)...); err != nil {
			return err
		}
		hints = hints[n:]
	}
	return nil
}

// Hints implements coord.Hints.
func (s *Store) Hints(ctx context.Context, node, coordinator string, orphanedBefore time.Time, after *coord.Position, limit int, maxBytes int64) ([]coord.Hint, error) {
	args := []any{node, coordinator, nanos(orphanedBefore), max(limit, 0), maxBytes}
	behind := ""
	if after != nil {
		behind = "AND (token, tenant, key) > ($6, $7, $8)"
		args = append(args, fromToken(after.Token), after.Tenant, after.Key)
	}
	// The size of those ahead of it decides whether a hint is still listed, so
	// that no value is sent in vain.
	hints, err := list(ctx, s.db, func(row pgx.Row) (coord.Hint, error) {
		h := coord.Hint{Node: node}
		var token, since int64
		var head []byte
		err := row.Scan(&token, &h.Tenant, &h.Key, &since, &head, &h.Version.Value)
		if err == nil {
			h.Version.Head, err = decodeHead(head, node, h.Key)
		}
		h.Token, h.Since = toToken(token), fromNanos(since)
		return h, err
	}, `SELECT token, tenant, key, since, head, value FROM (
			SELECT *, sum(size) OVER (ORDER BY token, tenant, key) - size AS ahead FROM (
				SELECT token, tenant, key, since, size, head, value FROM hints
				WHERE node = $1 AND (coordinator = $2 OR stored < $3) `+behind+`
				ORDER BY token, tenant, key LIMIT $4
			) AS page
		) AS sized WHERE ahead <= $5::bigint ORDER BY token, tenant, key`, args...)
	return hints, failed(ctx, fmt.Sprintf("list hints for node %q", node), err)
}

// DropHints implements coord.Hints.
func (s *Store) DropHints(ctx context.Context, hints []coord.Hint) error {
	keys := sortedKeys(hints)
	return s.updateLedger(ctx, fmt.Sprintf("drop %d hints", len(hints)), func(ctx context.Context, tx pgx.Tx, debts ledger) error {
		stored, err := findHints(ctx, tx, keys)
		if err != nil {
			return err
		}
		var gone []hintKey
		for i := range hints {
			h := &hints[i]
			found := stored[keyOf(h)]
			if !found.head.Exists() || found.head.Compare(&h.Version.Head) > 0 {
				continue
			}
			gone = append(gone, keyOf(h))
			debts.of(h.Node).add(-1, -found.size)
			delete(stored, keyOf(h))
		}
		return removeHints(ctx, tx, gone)
	})
}

func removeHints(ctx context.Context, tx pgx.Tx, keys []hintKey) error {
	if len(keys) == 0 {
		return nil
	}
	columns := keyColumns(keys)
	_, err := tx.Exec(ctx, "DELETE FROM hints USING "+theseKeys+" WHERE "+sameKey, columns[:]...)
	return err
}

// ExpireHints implements coord.Hints.
func (s *Store) ExpireHints(ctx context.Context, before time.Time, limit int) (int, error) {
	doing := "expire hints from before " + before.UTC().Format(time.RFC3339)
	// It is called again and again and mostly for nothing, which must not take
	// the ledger's lock.
	var some bool
	err := s.db.row(ctx, into(&some), "SELECT EXISTS (SELECT 1 FROM debts JOIN hints ON hints.node = debts.node AND since < $1)", nanos(before))
	if err != nil || !some || limit <= 0 {
		return 0, failed(ctx, doing, err)
	}
	removed := 0
	err = s.updateLedger(ctx, doing, func(ctx context.Context, tx pgx.Tx, debts ledger) error {
		found, err := tx.Query(ctx, `SELECT node, token, tenant, key, old.size FROM debts CROSS JOIN LATERAL (
			SELECT token, tenant, key, size FROM hints WHERE hints.node = debts.node AND since < $1 ORDER BY since LIMIT $2
		) AS old LIMIT $2`, nanos(before), limit)
		if err != nil {
			return err
		}
		keys, err := collect(found, func(row pgx.Row) (k hintKey, err error) {
			var token, size int64
			err = row.Scan(&k.node, &token, &k.tenant, &k.key, &size)
			k.token = toToken(token)
			d := debts.of(k.node)
			d.add(-1, -size)
			d.owe(coord.OwedRange(k.token))
			return k, err
		})
		if err != nil {
			return err
		}
		removed = len(keys)
		return removeHints(ctx, tx, keys)
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}
