package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"

	"github.com/pairdb/coordinator/coord"
)

// debt is a row of debts.
type debt struct {
	hints, size int64
	ranges      [1 << coord.OwedRangeBits / 8]byte
	changed     bool
}

func (d *debt) add(hints, size int64) {
	d.hints += hints
	d.size += size
	d.changed = true
}

func (d *debt) owe(r uint16) {
	d.ranges[r/8] |= 1 << (r % 8)
	d.changed = true
}

func (d *debt) settle(r uint16) {
	d.ranges[r/8] &^= 1 << (r % 8)
	d.changed = true
}

func (d *debt) owed() []uint16 {
	var ranges []uint16
	for i, b := range d.ranges {
		for ; b != 0; b &= b - 1 {
			ranges = append(ranges, uint16(8*i+bits.TrailingZeros8(b)))
		}
	}
	return ranges
}

func (d *debt) owedRanges() int {
	n := 0
	for _, b := range d.ranges {
		n += bits.OnesCount8(b)
	}
	return n
}

// ledger is the debts of all nodes within a transaction.
type ledger map[string]*debt

func readLedger(ctx context.Context, tx *sql.Tx) (ledger, error) {
	rows, err := tx.QueryContext(ctx, "SELECT node, hints, size, ranges FROM debts")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	l := ledger{}
	for rows.Next() {
		var node string
		var ranges []byte
		d := &debt{}
		if err := rows.Scan(&node, &d.hints, &d.size, &ranges); err != nil {
			return nil, err
		}
		copy(d.ranges[:], ranges)
		l[node] = d
	}
	return l, rows.Err()
}

func (l ledger) of(node string) *debt {
	d := l[node]
	if d == nil {
		d = &debt{}
		l[node] = d
	}
	return d
}

func (l ledger) total() (hints, size int64) {
	for _, d := range l {
		hints += d.hints
		size += d.size
	}
	return hints, size
}

// write stores the debts that have changed.
func (l ledger) write(ctx context.Context, tx *sql.Tx) error {
	for node, d := range l {
		if !d.changed {
			continue
		}
		var err error
		if *d == (debt{changed: true}) {
			_, err = tx.ExecContext(ctx, "DELETE FROM debts WHERE node = ?", node)
		} else {
			_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO debts (node, hints, size, ranges) VALUES (?, ?, ?, ?)",
				node, d.hints, d.size, d.ranges[:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkRanges(ranges []uint16) error {
	for _, r := range ranges {
		if r >= 1<<coord.OwedRangeBits {
			return fmt.Errorf("range %d is not below %d", r, 1<<coord.OwedRangeBits)
		}
	}
	return nil
}

// Owe implements coord.Hints.
func (s *Store) Owe(ctx context.Context, node string, ranges []uint16) error {
	doing := fmt.Sprintf("owe %d ranges to node %q", len(ranges), node)
	if err := checkRanges(ranges); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return s.update(ctx, doing, func(tx *sql.Tx) error {
		debts, err := readLedger(ctx, tx)
		if err != nil {
			return err
		}
		for _, r := range ranges {
			debts.of(node).owe(r)
		}
		return debts.write(ctx, tx)
	})
}

// Owed implements coord.Hints.
func (s *Store) Owed(ctx context.Context, node string) ([]uint16, error) {
	var ranges []byte
	err := s.read.QueryRowContext(ctx, "SELECT ranges FROM debts WHERE node = ?", node).Scan(&ranges)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(ctx, fmt.Sprintf("list ranges owed to node %q", node), err)
	}
	var d debt
	copy(d.ranges[:], ranges)
	return d.owed(), nil
}

// Settle implements coord.Hints.
func (s *Store) Settle(ctx context.Context, node string, ranges []uint16) error {
	doing := fmt.Sprintf("settle %d ranges of node %q", len(ranges), node)
	if err := checkRanges(ranges); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return s.update(ctx, doing, func(tx *sql.Tx) error {
		debts, err := readLedger(ctx, tx)
		if err != nil {
			return err
		}
		for _, r := range ranges {
			debts.of(node).settle(r)
		}
		return debts.write(ctx, tx)
	})
}

// Debts implements coord.Hints.
func (s *Store) Debts(ctx context.Context) ([]coord.Debt, error) {
	const doing = "list what nodes are owed"
	rows, err := s.read.QueryContext(ctx, `SELECT node, hints, size, ranges,
		coalesce((SELECT min(since) FROM hints WHERE hints.node = debts.node), 0)
		FROM debts ORDER BY node`)
	if err != nil {
		return nil, failed(ctx, doing, err)
	}
	defer rows.Close()
	var list []coord.Debt
	for rows.Next() {
		var node string
		var ranges []byte
		var oldest int64
		var d debt
		if err := rows.Scan(&node, &d.hints, &d.size, &ranges, &oldest); err != nil {
			return nil, failed(ctx, doing, err)
		}
		copy(d.ranges[:], ranges)
		owed := coord.Debt{Node: node, Hints: d.hints, Bytes: d.size, OwedRanges: d.owedRanges()}
		if d.hints > 0 {
			owed.Oldest = fromNanos(oldest)
		}
		list = append(list, owed)
	}
	if err := rows.Err(); err != nil {
		return nil, failed(ctx, doing, err)
	}
	return list, nil
}
