package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pairdb/coordinator/backends/redistest"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prefixes keep the stores of tests that share a server apart.
var prefixes atomic.Uint64

func open(t testing.TB, opts Options) *Store {
	t.Helper()
	if opts.KeyPrefix == "" {
		opts.KeyPrefix = fmt.Sprintf("test%d:", prefixes.Add(1))
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func on(server *redistest.Server) Options { return Options{Addresses: []string{server.Addr()}} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func attempt(n int) coord.AttemptID       { return coord.AttemptID{byte(n), byte(n >> 8), 1} }
func fingerprint(n int) coord.Fingerprint { return coord.Fingerprint{byte(n), byte(n >> 8), 2} }

func claimKey(n int) coord.ClaimKey {
	return coord.ClaimKey{Tenant: "default", Key: fmt.Sprintf("cart-%06d", n), IdempotencyKey: fmt.Sprintf("b3c1f0aa-%d", n)}
}

func head(n int) coord.Head {
	h := coord.Head{Timestamp: 1_750_000_000_000_000_000 + int64(n), Writer: coord.Writer{ID: "coordinator-1", Incarnation: 7}}
	h.Clock = h.Clock.With("coordinator-1", 4, h.Timestamp).With("coordinator-2", 9, h.Timestamp-1_000_000_000)
	return h
}

func (s *Store) reserve(ctx context.Context, n int) (coord.Claim, error) {
	return s.Reserve(ctx, claimKey(n), fingerprint(n), attempt(n), time.Minute)
}

// mint reserves claim n and mints it.
func (s *Store) mint(ctx context.Context, n int) error {
	if _, err := s.reserve(ctx, n); err != nil {
		return err
	}
	claim, err := s.Mint(ctx, claimKey(n), attempt(n), head(n))
	if err == nil && (claim.State != coord.ClaimMinted || claim.Attempt != attempt(n)) {
		err = fmt.Errorf("claim %d is in state %d of attempt %x", n, claim.State, claim.Attempt)
	}
	return err
}

func suite(opts Options) conformance.IdempotencySuite {
	return conformance.IdempotencySuite{
		Open: func(t *testing.T, ttl time.Duration) (coord.Idempotency, func(time.Duration)) {
			opts := opts
			opts.TTL = ttl
			return open(t, opts), time.Sleep
		},
		Peer: func(t *testing.T, store coord.Idempotency) coord.Idempotency {
			return open(t, store.(*Store).opts)
		},
		Reopen: func(t *testing.T, store coord.Idempotency) coord.Idempotency {
			must(t, store.Close())
			return open(t, store.(*Store).opts)
		},
		// Real time passes: long enough for a few steps on a busy machine.
		Lease: 200 * time.Millisecond,
		TTL:   time.Second,
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	conformance.Idempotency(t, suite(on(redistest.Start(t, redistest.Options{}))))
}

func TestTLSPasswordAndDatabase(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{TLS: true, Password: "open sesame"})
	opts := on(server)
	opts.TLS, opts.Password, opts.DB = server.ClientTLS(), NewSecret("open sesame"), 3
	s := open(t, opts)
	must(t, s.mint(t.Context(), 1))
	must(t, s.Ping(t.Context()))
	answer, err := server.Do(t.Context(), "INFO", "keyspace")
	if must(t, err); !strings.Contains(answer.(string), "db3:keys=1") {
		t.Errorf("the claim is not in database 3: %q", answer)
	}
	opts.TLS = nil
	refused(t, time.Second, func() error { return open(t, opts).mint(t.Context(), 2) })
}

func TestConformanceInACluster(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t, 2)
	conformance.Idempotency(t, suite(Options{Addresses: []string{servers[0].Addr(), servers[1].Addr()}}))
}

func TestConformanceThroughASentinelWithAReplica(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Options{Password: "p"})
	redistest.Start(t, redistest.Options{Password: "p", ReplicaOf: primary})
	sentinel := redistest.StartSentinel(t, "claims", primary)
	opts := on(sentinel)
	opts.MasterName, opts.Password, opts.WaitReplicas = "claims", NewSecret("p"), 1
	conformance.Idempotency(t, suite(opts))
}

func TestOpenReportsEveryFault(t *testing.T) {
	_, err := Open(Options{
		Addresses: []string{"nowhere", "a:1"}, DB: 2, WaitReplicas: 1, Timeout: -1, KeyPrefix: "{x}", TTL: time.Microsecond,
	})
	if err == nil {
		t.Fatal("Open accepts it")
	}
	for _, want := range []string{`address "nowhere"`, "database 2", "min-replicas-to-write", "negative", "braces", "TTL"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("Open accepts no address")
	}
}

func TestInvalidArgumentsAreRefused(t *testing.T) {
	s := open(t, Options{Addresses: []string{"127.0.0.1:1"}})
	if _, err := s.Mint(t.Context(), claimKey(1), attempt(1), coord.Head{}); !errors.Is(err, coord.ErrInvalidRequest) {
		t.Errorf("mint of no version: %v", err)
	}
	if err := s.Complete(t.Context(), claimKey(1), head(1), coord.LevelDefault); !errors.Is(err, coord.ErrInvalidRequest) {
		t.Errorf("complete without a level: %v", err)
	}
}

func TestClosedStoreRefuses(t *testing.T) {
	s := open(t, on(redistest.Start(t, redistest.Options{})))
	must(t, s.mint(t.Context(), 1))
	must(t, s.Close())
	if _, err := s.reserve(t.Context(), 2); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Errorf("ping after Close: %v", err)
	}
}
