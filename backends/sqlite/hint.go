package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

const (
	// DefaultMaxHints and DefaultMaxHintBytes bound the hints of all nodes together.
	DefaultMaxHints     = 1_000_000
	DefaultMaxHintBytes = 1 << 30
)

// SQLite's integers are signed.
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

func position(h *coord.Hint) coord.Position {
	return coord.Position{Token: h.Token, Tenant: h.Tenant, Key: h.Key}
}

// PutHints implements coord.Hints. Of a hint that grew beyond the bounds the
// version before it is kept.
func (s *Store) PutHints(ctx context.Context, coordinator string, hints []coord.Hint) error {
	doing := fmt.Sprintf("put %d hints", len(hints))
	order := make([]*coord.Hint, len(hints))
	for i := range hints {
		order[i] = &hints[i]
		if h := order[i]; !h.Version.Exists() {
			return fmt.Errorf("%s: that for node %q and key %q has no version", doing, h.Node, h.Key)
		}
	}
	// In the order of the table, so that neighbours meet on the same pages.
	slices.SortStableFunc(order, func(a, b *coord.Hint) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), position(a).Compare(position(b)))
	})
	return s.update(ctx, doing, func(tx *sql.Tx) error {
		debts, err := readLedger(ctx, tx)
		if err != nil {
			return err
		}
		t := hintTable{ctx: ctx, tx: tx, statements: map[string]*sql.Stmt{}}
		stored := nanos(s.wall())
		count, size := debts.total()
		for _, h := range order {
			old, err := t.find(h)
			if err != nil {
				return err
			}
			if old.head.Compare(&h.Version.Head) >= 0 {
				continue
			}
			more, grown := int64(1), h.Size()-old.size
			if old.head.Exists() {
				more = 0
			}
			d := debts.of(h.Node)
			if more > 0 && count >= s.maxHints || grown > 0 && size+grown > s.maxHintBytes {
				d.owe(coord.OwedRange(h.Token))
				continue
			}
			if err := t.put(h, old, coordinator, stored); err != nil {
				return err
			}
			count += more
			size += grown
			d.add(more, grown)
		}
		return debts.write(ctx, tx)
	})
}

// hintTable reads and changes single hints within a transaction.
type hintTable struct {
	ctx        context.Context
	tx         *sql.Tx
	statements map[string]*sql.Stmt // they are closed with the transaction
	head       []byte               // reused
}

func (t *hintTable) prepare(text string) (*sql.Stmt, error) {
	if s := t.statements[text]; s != nil {
		return s, nil
	}
	s, err := t.tx.PrepareContext(t.ctx, text)
	if err == nil {
		t.statements[text] = s
	}
	return s, err
}

func (t *hintTable) exec(text string, args ...any) (sql.Result, error) {
	s, err := t.prepare(text)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(t.ctx, args...)
}

// storedHint is what is stored for a node and key; its head does not exist
// where nothing is.
type storedHint struct {
	head  coord.Head
	size  int64
	value int64 // its id
}

func (t *hintTable) find(h *coord.Hint) (storedHint, error) {
	s, err := t.prepare("SELECT head, size, value FROM hints WHERE node = ? AND token = ? AND tenant = ? AND key = ?")
	if err != nil {
		return storedHint{}, err
	}
	var head []byte
	var found storedHint
	err = s.QueryRowContext(t.ctx, h.Node, fromToken(h.Token), h.Tenant, h.Key).Scan(&head, &found.size, &found.value)
	if errors.Is(err, sql.ErrNoRows) {
		return storedHint{}, nil
	}
	if err != nil {
		return storedHint{}, err
	}
	if found.head, err = decodeHead(head, h.Node, h.Key); err != nil {
		return storedHint{}, err
	}
	return found, nil
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

// put stores h in the place of old.
func (t *hintTable) put(h *coord.Hint, old storedHint, coordinator string, stored int64) error {
	value := h.Version.Value
	if value == nil {
		value = []byte{} // nil would be NULL
	}
	id := old.value
	if old.head.Exists() {
		if _, err := t.exec("UPDATE hint_values SET value = ?2 WHERE id = ?1", id, value); err != nil {
			return err
		}
	} else {
		added, err := t.exec("INSERT INTO hint_values (value) VALUES (?)", value)
		if err != nil {
			return err
		}
		if id, err = added.LastInsertId(); err != nil {
			return err
		}
	}
	t.head = coord.AppendHead(t.head[:0], &h.Version.Head)
	_, err := t.exec(`INSERT OR REPLACE INTO hints (node, token, tenant, key, coordinator, stored, since, size, head, value)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		h.Node, fromToken(h.Token), h.Tenant, h.Key, coordinator, stored, nanos(h.Since), h.Size(), t.head, id)
	return err
}

func (t *hintTable) drop(h *coord.Hint, value int64) error {
	if _, err := t.exec("DELETE FROM hints WHERE node = ? AND token = ? AND tenant = ? AND key = ?",
		h.Node, fromToken(h.Token), h.Tenant, h.Key); err != nil {
		return err
	}
	_, err := t.exec("DELETE FROM hint_values WHERE id = ?", value)
	return err
}

// Hints implements coord.Hints.
func (s *Store) Hints(ctx context.Context, node, coordinator string, orphanedBefore time.Time, after *coord.Position, limit int, maxBytes int64) ([]coord.Hint, error) {
	doing := fmt.Sprintf("list hints for node %q", node)
	behind, args := "", []any{node, coordinator, nanos(orphanedBefore), max(limit, 0)}
	if after != nil {
		behind = "AND (token, tenant, key) > (?5, ?6, ?7)"
		args = append(args, fromToken(after.Token), after.Tenant, after.Key)
	}
	// CROSS JOIN keeps SQLite to the order of the tables.
	rows, err := s.read.QueryContext(ctx, `SELECT token, tenant, key, since, head, hint_values.value
		FROM hints CROSS JOIN hint_values ON hint_values.id = hints.value
		WHERE node = ?1 AND (coordinator = ?2 OR stored < ?3) `+behind+`
		ORDER BY token, tenant, key LIMIT ?4`, args...)
	if err != nil {
		return nil, failed(ctx, doing, err)
	}
	defer rows.Close()
	var hints []coord.Hint
	for size := int64(0); size <= maxBytes && rows.Next(); {
		h := coord.Hint{Node: node}
		var token, since int64
		var head []byte
		if err := rows.Scan(&token, &h.Tenant, &h.Key, &since, &head, &h.Version.Value); err != nil {
			return nil, failed(ctx, doing, err)
		}
		if h.Version.Head, err = decodeHead(head, node, h.Key); err != nil {
			return nil, failed(ctx, doing, err)
		}
		h.Token, h.Since = toToken(token), fromNanos(since)
		hints = append(hints, h)
		size += h.Size()
	}
	if err := rows.Err(); err != nil {
		return nil, failed(ctx, doing, err)
	}
	return hints, nil
}

// DropHints implements coord.Hints.
func (s *Store) DropHints(ctx context.Context, hints []coord.Hint) error {
	return s.update(ctx, fmt.Sprintf("drop %d hints", len(hints)), func(tx *sql.Tx) error {
		debts, err := readLedger(ctx, tx)
		if err != nil {
			return err
		}
		t := hintTable{ctx: ctx, tx: tx, statements: map[string]*sql.Stmt{}}
		for i := range hints {
			h := &hints[i]
			found, err := t.find(h)
			if err != nil {
				return err
			}
			if !found.head.Exists() || found.head.Compare(&h.Version.Head) > 0 {
				continue
			}
			if err := t.drop(h, found.value); err != nil {
				return err
			}
			debts.of(h.Node).add(-1, -found.size)
		}
		return debts.write(ctx, tx)
	})
}

// ExpireHints implements coord.Hints.
func (s *Store) ExpireHints(ctx context.Context, before time.Time, limit int) (int, error) {
	doing := "expire hints from before " + before.UTC().Format(time.RFC3339)
	// It is called again and again and mostly for nothing, which must not take
	// the write lock.
	var some bool
	err := s.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM debts CROSS JOIN hints ON hints.node = debts.node AND since < ?)",
		nanos(before)).Scan(&some)
	if err != nil || !some || limit <= 0 {
		return 0, failed(ctx, doing, err)
	}
	removed := 0
	err = s.update(ctx, doing, func(tx *sql.Tx) error {
		debts, err := readLedger(ctx, tx)
		if err != nil {
			return err
		}
		old, err := hintsBefore(ctx, tx, before, limit)
		if err != nil {
			return err
		}
		t := hintTable{ctx: ctx, tx: tx, statements: map[string]*sql.Stmt{}}
		for i := range old {
			h := &old[i]
			if err := t.drop(&h.Hint, h.value); err != nil {
				return err
			}
			d := debts.of(h.Node)
			d.add(-1, -h.size)
			d.owe(coord.OwedRange(h.Token))
		}
		removed = len(old)
		return debts.write(ctx, tx)
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// agedHint is a hint without its version.
type agedHint struct {
	coord.Hint
	size  int64
	value int64 // its id
}

func hintsBefore(ctx context.Context, tx *sql.Tx, before time.Time, limit int) ([]agedHint, error) {
	rows, err := tx.QueryContext(ctx, `SELECT hints.node, token, tenant, key, hints.size, value
		FROM debts CROSS JOIN hints ON hints.node = debts.node AND since < ? LIMIT ?`, nanos(before), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var old []agedHint
	for rows.Next() {
		var h agedHint
		var token int64
		if err := rows.Scan(&h.Node, &token, &h.Tenant, &h.Key, &h.size, &h.value); err != nil {
			return nil, err
		}
		h.Token = toToken(token)
		old = append(old, h)
	}
	return old, rows.Err()
}
