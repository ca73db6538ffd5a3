package sqlite

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
	"github.com/pairdb/coordinator/ring"
)

func TestHintConformance(t *testing.T) {
	conformance.Hints(t, func(t *testing.T, bounds conformance.HintBounds) conformance.OpenHints {
		opts := Options{Path: filepath.Join(t.TempDir(), "metadata.db"), MaxHints: bounds.Hints, MaxHintBytes: bounds.Bytes}
		return func(t *testing.T) conformance.HintStore { return open(t, opts) }
	})
}

// hintGroup is hints for n keys that no other group has.
func hintGroup(node string, group, n int, value []byte) []coord.Hint {
	hints := make([]coord.Hint, n)
	for i := range hints {
		key := fmt.Sprintf("customer-%d/order-%d", group, i)
		hints[i] = coord.Hint{
			Node: node, Tenant: "shop", Key: key, Token: ring.KeyToken("shop", key),
			Version: coord.Version{
				Head: coord.Head{
					Timestamp: int64(group + 1), Writer: coord.Writer{ID: "coordinator-1", Incarnation: 1},
					Clock: coord.Clock{{ID: "coordinator-1", Counter: 1, Updated: int64(group + 1)}},
				},
				Value: value,
			},
			Since: time.Unix(0, int64(group*n+i)),
		}
	}
	return hints
}

// TestLedgerMatchesHints does what coordinators do and compares the counts
// that are kept with what is there.
func TestLedgerMatchesHints(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db"), MaxHints: 700})
	ctx := t.Context()
	for round := range 12 {
		node := fmt.Sprintf("n%d", round%3)
		hints := hintGroup(node, round%5, 90, make([]byte, 10*round))
		for i := range hints {
			hints[i].Version.Timestamp = int64(round + 1)
			hints[i].Version.Clock = nil
		}
		if err := s.PutHints(ctx, "c1", hints); err != nil {
			t.Fatal(err)
		}
		if err := s.DropHints(ctx, hints[:20]); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ExpireHints(ctx, time.Unix(0, int64(round*20)), 10); err != nil {
			t.Fatal(err)
		}
		for what, query := range map[string]string{
			"a node with other counts": `SELECT count(*) FROM debts WHERE (hints, size) IS NOT
				(SELECT count(*), coalesce(sum(size), 0) FROM hints WHERE hints.node = debts.node)`,
			"hints of a node without a row": "SELECT count(*) FROM hints WHERE node NOT IN (SELECT node FROM debts)",
			"hints without a value":         "SELECT count(*) FROM hints WHERE value NOT IN (SELECT id FROM hint_values)",
			"values without a hint":         "SELECT count(*) FROM hint_values WHERE id NOT IN (SELECT value FROM hints)",
			"more than the bound":           "SELECT count(*) > 700 FROM hints",
		} {
			var found int
			if err := s.read.QueryRow(query).Scan(&found); err != nil || found != 0 {
				t.Fatalf("round %d: found %s (%d), %v", round, what, found, err)
			}
		}
	}
}

func TestHintsThatAreRefused(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db")})
	hints := hintGroup("n1", 0, 3, nil)
	hints[1].Version.Head = coord.Head{}
	if err := s.PutHints(t.Context(), "c1", hints); err == nil || errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("a hint without a version: got %v, want a plain error", err)
	}
	if err := s.Owe(t.Context(), "n1", []uint16{1, 1 << coord.OwedRangeBits}); err == nil || errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("a range that does not exist: got %v, want a plain error", err)
	}
	if debts, err := s.Debts(t.Context()); len(debts) != 0 || err != nil {
		t.Errorf("after what was refused: %+v, %v", debts, err)
	}
	for _, opts := range []Options{{MaxHints: -1}, {MaxHintBytes: -1}} {
		opts.Path = filepath.Join(t.TempDir(), "m.db")
		if _, err := Open(t.Context(), opts); err == nil {
			t.Errorf("a negative bound was accepted: %+v", opts)
		}
	}
}

// A record that cannot be read is named, and not taken for an outage.
func TestCorruptHint(t *testing.T) {
	s := opened(t, Options{Path: filepath.Join(t.TempDir(), "m.db")})
	hints := hintGroup("n1", 0, 1, []byte("v"))
	if err := s.PutHints(t.Context(), "c1", hints); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{"CAST(head || x'00' AS BLOB)", "x'ff'", "x''"} {
		if _, err := s.write.Exec("UPDATE hints SET head = " + damage); err != nil {
			t.Fatal(err)
		}
		_, err := s.Hints(t.Context(), "n1", "c1", time.Time{}, nil, 10, math.MaxInt64)
		for what, err := range map[string]error{
			"list": err, "put": s.PutHints(t.Context(), "c1", hints), "drop": s.DropHints(t.Context(), hints),
		} {
			if !errors.Is(err, coord.ErrCorrupt) || errors.Is(err, coord.ErrMetadataUnavailable) {
				t.Errorf("%s with head %s: got %v, want ErrCorrupt", what, damage, err)
			}
		}
	}
	// It still expires, and its range is owed.
	if n, err := s.ExpireHints(t.Context(), time.Unix(1, 0), 10); n != 1 || err != nil {
		t.Errorf("expire: %d, %v", n, err)
	}
}

func BenchmarkPutHints(b *testing.B) {
	s, err := Open(b.Context(), Options{Path: filepath.Join(b.TempDir(), "m.db"), MaxHints: math.MaxInt64, MaxHintBytes: math.MaxInt64})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := make([]byte, 100)
	for group := 0; b.Loop(); group++ {
		if err := s.PutHints(b.Context(), "c1", hintGroup("n1", group, 1000, value)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReplayHints(b *testing.B) {
	s, err := Open(b.Context(), Options{Path: filepath.Join(b.TempDir(), "m.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for group := range 20 {
		if err := s.PutHints(b.Context(), "c1", hintGroup("n1", group, 1000, make([]byte, 100))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		page, err := s.Hints(b.Context(), "n1", "c1", time.Time{}, nil, 256, 4<<20)
		if err != nil || len(page) == 0 {
			b.Fatalf("%d hints, %v", len(page), err)
		}
		if err := s.DropHints(b.Context(), page); err != nil {
			b.Fatal(err)
		}
		if err := s.PutHints(b.Context(), "c1", page); err != nil {
			b.Fatal(err)
		}
	}
}
