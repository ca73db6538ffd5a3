package postgres

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
)

// TestPoolerIsRefused: with only a pooler's address the store says so at once,
// whether the pooler refuses what it does not know or passes over it.
func TestPoolerIsRefused(t *testing.T) {
	server := postgrestest.Shared(t)
	address := server.Database(t)
	ignored := "ignore_startup_parameters = statement_timeout,lock_timeout,idle_in_transaction_session_timeout,idle_session_timeout," +
		"default_transaction_isolation,tcp_keepalives_idle,tcp_keepalives_interval,tcp_keepalives_count,tcp_user_timeout"
	for what, settings := range map[string][]string{"strict": nil, "lenient": {ignored}, "of sessions": {"pool_mode = session"}} {
		pooled := server.Pooler(t, address, settings...)
		s, err := Open(t.Context(), Options{URL: pooled})
		if err == nil {
			closed(t, s)
			t.Errorf("%s: it was opened", what)
			continue
		}
		if errors.Is(err, coord.ErrMetadataUnavailable) || !strings.Contains(err.Error(), "session_url") || !strings.Contains(err.Error(), "pooler") {
			t.Errorf("%s: got %v, want a plain error that says what to do", what, err)
		}
		wantNoSecret(t, err)
	}
}

// TestPoolerBesideSession: with the server's own address for the session all
// works through a pooler, more clients than it has connections included.
func TestPoolerBesideSession(t *testing.T) {
	server := postgrestest.Shared(t)
	address := server.Database(t)
	pooled := server.Pooler(t, address)
	var stores []*Store
	for range 3 {
		stores = append(stores, opened(t, Options{URL: pooled, SessionURL: address}))
	}
	held := must(stores[0].AcquireIdentity(t.Context(), coord.AutoNodeID))(t)
	if held.Writer.ID != "coordinator-1" {
		t.Errorf("acquired %+v", held.Writer)
	}
	changes := listen(t, stores[0])
	claims := openedClaims(t, Options{URL: pooled}, ClaimsOptions{})
	var group sync.WaitGroup
	for i, s := range stores {
		group.Go(func() {
			for n := range 20 {
				attempt := coord.AttemptID{byte(i), byte(n)}
				key := coord.ClaimKey{Tenant: string(rune('a' + i)), IdempotencyKey: string(rune('a' + n))}
				claim, err := claims.Reserve(t.Context(), key, coord.Fingerprint{}, attempt, time.Minute)
				if err == nil && claim.Attempt == attempt {
					claim, err = claims.Mint(t.Context(), key, attempt, head(int64(n+1)))
				}
				if err != nil || claim.State != coord.ClaimMinted {
					t.Errorf("claim %+v, %v", claim, err)
					return
				}
				if err := s.PutHints(t.Context(), "c1", hintGroup(string(rune('a'+i)), n, 5, nil)); err != nil {
					t.Error(err)
					return
				}
				for err = coord.ErrMigrationConflict; errors.Is(err, coord.ErrMigrationConflict); {
					var topology coord.Topology
					if topology, err = s.Topology(t.Context()); err == nil {
						topology.Version++
						topology.Nodes = append(topology.Nodes, coord.StorageNode{ID: string(rune('a'+i)) + string(rune('a'+n)), Status: coord.NodeActive})
						err = s.SetTopology(t.Context(), coord.TopologyStep{Next: topology, LeastReplicas: 1})
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if topology := must(stores[1].Topology(t.Context()))(t); topology.Version != 60 || len(topology.Nodes) != 60 {
		t.Errorf("after 60 nodes were added: version %d, %d nodes", topology.Version, len(topology.Nodes))
	}
	debts := must(stores[2].Debts(t.Context()))(t)
	if len(debts) != 3 || debts[0].Hints != 100 {
		t.Errorf("after 300 hints: %+v", debts)
	}
	must(stores[1].CreateTenant(t.Context(), "shop", 3, 0))(t)
	for c := range changes {
		if c.Tenant == "shop" {
			break
		}
	}
	if !must(stores[0].AcquireLease(t.Context(), "l", "c1", time.Minute))(t) || must(stores[1].AcquireLease(t.Context(), "l", "c2", time.Minute))(t) {
		t.Error("a lease is not the first one's alone")
	}
}
