package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
)

func openedClaims(t *testing.T, opts Options, claims ClaimsOptions) *Claims {
	t.Helper()
	c, err := OpenClaims(t.Context(), opts, claims)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, c) })
	return c
}

func TestClaimsConformance(t *testing.T) {
	var mu sync.Mutex
	urls := map[coord.Idempotency]string{}
	keep := func(c *Claims, url string) *Claims {
		mu.Lock()
		defer mu.Unlock()
		urls[c] = url
		return c
	}
	peer := func(t *testing.T, store coord.Idempotency) coord.Idempotency {
		mu.Lock()
		url := urls[store]
		mu.Unlock()
		return keep(openedClaims(t, Options{URL: url}, ClaimsOptions{TTL: store.(*Claims).ttl}), url)
	}
	conformance.Idempotency(t, conformance.IdempotencySuite{
		Open: func(t *testing.T, ttl time.Duration) (coord.Idempotency, func(time.Duration)) {
			url := postgrestest.Shared(t).Database(t)
			c := keep(openedClaims(t, Options{URL: url}, ClaimsOptions{TTL: ttl}), url)
			// The clock is the server's; moving every end is the same.
			return c, func(d time.Duration) {
				conn := must(pgx.Connect(t.Context(), url))(t)
				defer hangUp(conn)
				must(conn.Exec(t.Context(), "UPDATE claims SET ends = ends - $1::interval", d))(t)
			}
		},
		Peer: peer,
		Reopen: func(t *testing.T, store coord.Idempotency) coord.Idempotency {
			closed(t, store)
			return peer(t, store)
		},
	})
}

var (
	someKey = coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: "i"}
	someTry = coord.AttemptID{1}
)

func head(timestamp int64) coord.Head {
	return coord.Head{Timestamp: timestamp, Writer: coord.Writer{ID: "c1", Incarnation: 1}}
}

// Leases end by the server's clock, which no test moves.
func TestClaimsEndByTheServersClock(t *testing.T) {
	c := openedClaims(t, Options{URL: postgrestest.Shared(t).Database(t)}, ClaimsOptions{TTL: 100 * time.Millisecond})
	const lease = 100 * time.Millisecond
	began := time.Now()
	if claim := must(c.Reserve(t.Context(), someKey, coord.Fingerprint{}, someTry, lease))(t); claim.Attempt != someTry {
		t.Fatalf("reserved, got %+v", claim)
	}
	other := coord.AttemptID{2}
	eventually(t, "the lease's end", func() bool {
		return must(c.Reserve(t.Context(), someKey, coord.Fingerprint{}, other, time.Hour))(t).Attempt == other
	})
	if took := time.Since(began); took < lease {
		t.Errorf("a lease of %v ended after %v", lease, took)
	}
	began = time.Now()
	if claim := must(c.Mint(t.Context(), someKey, other, head(7)))(t); claim.State != coord.ClaimMinted {
		t.Fatalf("minted, got %+v", claim)
	}
	eventually(t, "the minted claim's end", func() bool {
		return must(c.Reserve(t.Context(), someKey, coord.Fingerprint{}, someTry, time.Hour))(t).State == coord.ClaimReserved
	})
	if took := time.Since(began); took < c.ttl {
		t.Errorf("a claim with a TTL of %v ended after %v", c.ttl, took)
	}
}

func TestClaimsAreSwept(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t)})
	c := must(s.Claims(ClaimsOptions{}))(t)
	t.Cleanup(func() { closed(t, c) })
	for i := range 5 {
		key := coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: fmt.Sprint(i)}
		must(c.Reserve(t.Context(), key, coord.Fingerprint{}, someTry, time.Hour))(t)
	}
	must(s.db.pool.Exec(t.Context(), "UPDATE claims SET ends = ends - interval '2 hours' WHERE id IN (SELECT id FROM claims LIMIT 3)"))(t)
	for _, want := range []int{3, 0} {
		if got := must(c.sweepBatch(t.Context()))(t); got != want {
			t.Errorf("swept %d claims, want %d", got, want)
		}
	}
	var left int
	if err := s.db.pool.QueryRow(t.Context(), "SELECT count(*) FROM claims").Scan(&left); err != nil || left != 2 {
		t.Errorf("%d claims are left, %v; want 2", left, err)
	}
}

func TestClaimsThatAreRefused(t *testing.T) {
	c := openedClaims(t, Options{URL: postgrestest.Shared(t).Database(t)}, ClaimsOptions{})
	for what, version := range map[string]coord.Head{
		"none": {}, "before 1970": head(-1), "no writer": {Timestamp: 1}, "long writer": {Timestamp: 1, Writer: coord.Writer{ID: strings.Repeat("c", 257)}},
	} {
		if _, err := c.Mint(t.Context(), someKey, someTry, version); !errors.Is(err, coord.ErrInvalidRequest) {
			t.Errorf("mint of version %s: got %v, want ErrInvalidRequest", what, err)
		}
	}
	for _, level := range []coord.Level{coord.LevelDefault, coord.All + 1} {
		if err := c.Complete(t.Context(), someKey, head(1), level); !errors.Is(err, coord.ErrInvalidRequest) {
			t.Errorf("complete at level %d: got %v, want ErrInvalidRequest", level, err)
		}
	}
	if _, err := OpenClaims(t.Context(), Options{}, ClaimsOptions{}); err == nil {
		t.Error("no url was accepted")
	}
	if _, err := OpenClaims(t.Context(), Options{URL: postgrestest.Shared(t).Database(t)}, ClaimsOptions{TTL: -1}); err == nil {
		t.Error("a negative TTL was accepted")
	}
}

func TestCorruptClaim(t *testing.T) {
	c := openedClaims(t, Options{URL: postgrestest.Shared(t).Database(t)}, ClaimsOptions{})
	must(c.Reserve(t.Context(), someKey, coord.Fingerprint{}, someTry, time.Hour))(t)
	must(c.Mint(t.Context(), someKey, someTry, head(1)))(t)
	for _, damage := range []string{"minted = NULL", `minted = minted || '\x00'`, "state = 9", "level = 9", `attempt = '\x01'`} {
		tx := must(c.db.pool.Begin(t.Context()))(t)
		must(tx.Exec(t.Context(), "CREATE TABLE IF NOT EXISTS whole AS SELECT * FROM claims"))(t)
		must(tx.Exec(t.Context(), "UPDATE claims SET "+damage))(t)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := c.Reserve(t.Context(), someKey, coord.Fingerprint{}, someTry, time.Hour)
		if !errors.Is(err, coord.ErrCorrupt) || !errors.Is(err, coord.ErrIdempotencyUnavailable) {
			t.Errorf("%s: got %v, want ErrCorrupt as ErrIdempotencyUnavailable", damage, err)
		}
		must(c.db.pool.Exec(t.Context(), "DELETE FROM claims; INSERT INTO claims SELECT * FROM whole"))(t)
	}
}

func TestClaimsAfterClose(t *testing.T) {
	c := openedClaims(t, Options{URL: postgrestest.Shared(t).Database(t)}, ClaimsOptions{})
	closed(t, c)
	ctx := context.Background()
	_, reserve := c.Reserve(ctx, someKey, coord.Fingerprint{}, someTry, time.Minute)
	_, mint := c.Mint(ctx, someKey, someTry, head(1))
	for what, err := range map[string]error{
		"reserve": reserve, "mint": mint, "complete": c.Complete(ctx, someKey, head(1), coord.One),
		"release": c.Release(ctx, someKey, someTry), "ping": c.Ping(ctx),
	} {
		if !errors.Is(err, coord.ErrIdempotencyUnavailable) {
			t.Errorf("%s after close: got %v", what, err)
		}
	}
}

func BenchmarkKeyedRequest(b *testing.B) {
	url := postgrestest.Shared(b).Database(b)
	c, err := OpenClaims(b.Context(), Options{URL: url}, ClaimsOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for i := 0; b.Loop(); i++ {
		key := coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: fmt.Sprint(i)}
		if _, err := c.Reserve(b.Context(), key, coord.Fingerprint{}, someTry, time.Minute); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Mint(b.Context(), key, someTry, head(int64(i+1))); err != nil {
			b.Fatal(err)
		}
	}
}
