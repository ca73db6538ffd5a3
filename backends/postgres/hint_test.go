package postgres

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// hintGroup is hints for n keys that no other group has.
func hintGroup(node string, group, n int, value []byte) []coord.Hint {
	hints := make([]coord.Hint, n)
	for i := range hints {
		key := fmt.Sprintf("customer-%d/order-%d", group, i)
		hints[i] = coord.Hint{
			Node: node, Tenant: "shop", Key: key, Token: ring.KeyToken("shop", key),
			Version: coord.Version{Head: head(int64(group + 1)), Value: value},
			Since:   time.Unix(0, int64(group*n+i)),
		}
	}
	return hints
}

// TestLedgerMatchesHints does what coordinators do and compares the counts
// that are kept with what is there.
func TestLedgerMatchesHints(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t), MaxHints: 700})
	ctx := t.Context()
	for round := range 12 {
		hints := hintGroup(fmt.Sprintf("n%d", round%3), round%5, 90, make([]byte, 10*round))
		for i := range hints {
			hints[i].Version.Timestamp = int64(round + 1)
		}
		if err := s.PutHints(ctx, "c1", hints); err != nil {
			t.Fatal(err)
		}
		if err := s.DropHints(ctx, hints[:20]); err != nil {
			t.Fatal(err)
		}
		must(s.ExpireHints(ctx, time.Unix(0, int64(round*20)), 10))(t)
		for what, query := range map[string]string{
			"a node with other counts": `SELECT count(*) FROM debts WHERE (hints, size) IS DISTINCT FROM
				(SELECT ROW(count(*), coalesce(sum(size), 0)::bigint) FROM hints WHERE hints.node = debts.node)`,
			"hints of a node without a row": "SELECT count(*) FROM hints WHERE node NOT IN (SELECT node FROM debts)",
			"more than the bound":           "SELECT (count(*) > 700)::integer FROM hints",
		} {
			var found int
			if err := s.db.pool.QueryRow(ctx, query).Scan(&found); err != nil || found != 0 {
				t.Fatalf("round %d: found %s (%d), %v", round, what, found, err)
			}
		}
	}
}

// TestLargeGroup needs several statements, by number and by size.
func TestLargeGroup(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t)})
	many := append(hintGroup("n1", 1, 2*maxStatementHints+1, nil), hintGroup("n1", 2, 3, make([]byte, maxStatementBytes-1000))...)
	if err := s.PutHints(t.Context(), "c1", many); err != nil {
		t.Fatal(err)
	}
	debts := must(s.Debts(t.Context()))(t)
	if len(debts) != 1 || debts[0].Hints != int64(len(many)) {
		t.Errorf("got %+v, want %d hints", debts, len(many))
	}
}

func TestHintsThatAreRefused(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t)})
	hints := hintGroup("n1", 0, 3, nil)
	hints[1].Version.Head = coord.Head{}
	if err := s.PutHints(t.Context(), "c1", hints); err == nil || errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("a hint without a version: got %v, want a plain error", err)
	}
	if err := s.Owe(t.Context(), "n1", []uint16{1, 1 << coord.OwedRangeBits}); err == nil || errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("a range that does not exist: got %v, want a plain error", err)
	}
	if debts := must(s.Debts(t.Context()))(t); len(debts) != 0 {
		t.Errorf("after what was refused: %+v", debts)
	}
}

// A record that cannot be read is named, and not taken for an outage.
func TestCorruptHint(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t)})
	hints := hintGroup("n1", 0, 1, []byte("v"))
	if err := s.PutHints(t.Context(), "c1", hints); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{`head || '\x00'`, `'\xff'`, `''`} {
		must(s.db.pool.Exec(t.Context(), "UPDATE hints SET head = "+damage))(t)
		_, err := s.Hints(t.Context(), "n1", "c1", time.Time{}, nil, 10, math.MaxInt64)
		for what, err := range map[string]error{
			"list": err, "put": s.PutHints(t.Context(), "c1", hints), "drop": s.DropHints(t.Context(), hints),
		} {
			if !errors.Is(err, coord.ErrCorrupt) || errors.Is(err, coord.ErrMetadataUnavailable) {
				t.Errorf("%s with head %s: got %v, want ErrCorrupt", what, damage, err)
			}
		}
	}
}
