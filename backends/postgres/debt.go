package postgres

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/jackc/pgx/v5"

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

// ledger is the debts of all nodes within a transaction that has it locked.
type ledger map[string]*debt

// updateLedger runs f in a transaction that has the ledger to itself, and
// stores what f changes of it. Coordinators take turns, a group of hints each.
func (s *Store) updateLedger(ctx context.Context, doing string, f func(context.Context, pgx.Tx, ledger) error) error {
	err := s.db.update(ctx, func(ctx context.Context, tx pgx.Tx) error {
		l, err := s.lockLedger(ctx, tx)
		if err != nil {
			return err
		}
		if err := f(ctx, tx, l); err != nil {
			return err
		}
		return l.write(ctx, tx)
	})
	return failed(ctx, doing, err)
}

func (s *Store) lockLedger(ctx context.Context, tx pgx.Tx) (ledger, error) {
	var both pgx.Batch
	both.Queue("SELECT pg_advisory_xact_lock($1)", s.ledgerKey)
	both.Queue("SELECT node, hints, size, ranges FROM debts")
	results := tx.SendBatch(ctx, &both)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return nil, fmt.Errorf("lock the ledger: %w", err)
	}
	found, err := results.Query()
	if err != nil {
		return nil, err
	}
	l := ledger{}
	_, err = collect(found, func(row pgx.Row) (struct{}, error) {
		var node string
		var ranges []byte
		d := &debt{}
		err := row.Scan(&node, &d.hints, &d.size, &ranges)
		copy(d.ranges[:], ranges)
		l[node] = d
		return struct{}{}, err
	})
	if err != nil {
		return nil, err
	}
	return l, results.Close()
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
func (l ledger) write(ctx context.Context, tx pgx.Tx) error {
	var changes pgx.Batch
	for node, d := range l {
		switch {
		case !d.changed:
		case *d == debt{changed: true}:
			changes.Queue("DELETE FROM debts WHERE node = $1", node)
		default:
			changes.Queue(`INSERT INTO debts (node, hints, size, ranges) VALUES ($1, $2, $3, $4)
				ON CONFLICT (node) DO UPDATE SET hints = excluded.hints, size = excluded.size, ranges = excluded.ranges`,
				node, d.hints, d.size, d.ranges[:])
		}
	}
	if changes.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &changes).Close()
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
	return s.updateLedger(ctx, doing, func(_ context.Context, _ pgx.Tx, debts ledger) error {
		for _, r := range ranges {
			debts.of(node).owe(r)
		}
		return nil
	})
}

// Owed implements coord.Hints.
func (s *Store) Owed(ctx context.Context, node string) ([]uint16, error) {
	var ranges []byte
	err := s.db.row(ctx, into(&ranges), "SELECT ranges FROM debts WHERE node = $1", node)
	if noRows(err) {
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
	return s.updateLedger(ctx, doing, func(_ context.Context, _ pgx.Tx, debts ledger) error {
		for _, r := range ranges {
			debts.of(node).settle(r)
		}
		return nil
	})
}

// Debts implements coord.Hints.
func (s *Store) Debts(ctx context.Context) ([]coord.Debt, error) {
	debts, err := list(ctx, s.db, func(row pgx.Row) (coord.Debt, error) {
		var node string
		var ranges []byte
		var oldest int64
		var d debt
		if err := row.Scan(&node, &d.hints, &d.size, &ranges, &oldest); err != nil {
			return coord.Debt{}, err
		}
		copy(d.ranges[:], ranges)
		owed := coord.Debt{Node: node, Hints: d.hints, Bytes: d.size, OwedRanges: d.owedRanges()}
		if d.hints > 0 {
			owed.Oldest = fromNanos(oldest)
		}
		return owed, nil
	}, `SELECT node, hints, size, ranges, coalesce((SELECT min(since) FROM hints WHERE hints.node = debts.node), 0)
		FROM debts ORDER BY node`)
	return debts, failed(ctx, "list what nodes are owed", err)
}
