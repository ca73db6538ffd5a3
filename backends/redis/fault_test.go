package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/backends/redistest"
	"github.com/pairdb/coordinator/coord"
)

// refused asserts that a step fails as the contract says, within limit.
func refused(t *testing.T, limit time.Duration, step func() error) {
	t.Helper()
	start := time.Now()
	err := step()
	if took := time.Since(start); took > limit {
		t.Errorf("the step took %s, want at most %s", took, limit)
	}
	if !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		t.Errorf("got error %v, want ErrIdempotencyUnavailable", err)
	}
}

// recovers asserts that steps succeed again within limit.
func recovers(t *testing.T, limit time.Duration, s *Store, n int) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := s.mint(t.Context(), n)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not recovered after %s: %v", limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestKilledServerIsRefusedAtOnceAndComesBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{AppendOnly: true})
	s := open(t, on(server))
	must(t, s.mint(t.Context(), 1))
	must(t, server.Kill())

	var group sync.WaitGroup
	for n := range 64 {
		group.Go(func() {
			for i := range 10 {
				refused(t, time.Second, func() error { return s.mint(t.Context(), 1000+64*i+n) })
			}
		})
	}
	group.Wait()
	refused(t, time.Second, func() error { return s.Ping(t.Context()) })
	stats := s.Stats()
	if stats.Retries > retryReserve {
		t.Errorf("%d steps were sent again in an outage, want at most %d", stats.Retries, retryReserve)
	}
	if stats.RetriesRefused == 0 {
		t.Error("the retry budget was not spent")
	}

	must(t, server.Restart())
	recovers(t, 3*time.Second, s, 2)
	must(t, s.Ping(t.Context()))
	claim, err := s.reserve(t.Context(), 1)
	if must(t, err); claim.State != coord.ClaimMinted {
		t.Errorf("the claim of before the crash is in state %d, want minted", claim.State)
	}
}

func TestOpenNeedsNoServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	must(t, server.Stop())
	s := open(t, on(server))
	refused(t, time.Second, func() error { return s.mint(t.Context(), 1) })
	must(t, server.Restart())
	recovers(t, 3*time.Second, s, 1)
}

func TestPausedServerIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, on(server))
	must(t, s.mint(t.Context(), 1))
	must(t, server.Pause())

	var group sync.WaitGroup
	for n := range 16 {
		group.Go(func() {
			for i := range 3 {
				refused(t, time.Second, func() error { return s.mint(t.Context(), 100+16*i+n) })
			}
		})
	}
	group.Go(func() { refused(t, time.Second, func() error { return s.Ping(t.Context()) }) })
	group.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		refused(t, 300*time.Millisecond, func() error {
			err := s.mint(ctx, 2)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the context's error", err)
			}
			return err
		})
	})
	group.Wait()
	must(t, server.Resume())
	recovers(t, 2*time.Second, s, 3)
}

func TestFullQueueRefusesAtOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	opts := on(server)
	opts.MaxQueued = 4
	s := open(t, opts)
	must(t, s.mint(t.Context(), 1))
	must(t, server.Pause())
	var group sync.WaitGroup
	for n := range 64 {
		group.Go(func() { refused(t, time.Second, func() error { return s.mint(t.Context(), 100+n) }) })
	}
	group.Wait()
	if stats := s.Stats(); stats.Overflows == 0 {
		t.Errorf("no step was refused for a full queue: %+v", stats)
	}
	must(t, server.Resume())
	recovers(t, 2*time.Second, s, 2)
}

// A script that the server has forgotten is sent in full, unseen by the caller.
func TestForgottenScriptsAreSentAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, on(server))
	for n := range 3 {
		_, err := server.Do(t.Context(), "SCRIPT", "FLUSH")
		must(t, err)
		must(t, s.mint(t.Context(), n))
		must(t, s.Complete(t.Context(), claimKey(n), head(n), coord.Quorum))
		must(t, s.Release(t.Context(), claimKey(n), attempt(n)))
	}
	if retries := s.Stats().Retries; retries != 0 {
		t.Errorf("%d retries were spent on it, want none", retries)
	}
}

func TestServerThatRefusesWrites(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, on(server))
	must(t, s.mint(t.Context(), 1))
	for _, refusal := range []struct{ name, set, to, back string }{
		{"no memory is left", "maxmemory", "1", "0"},
		{"too few replicas", "min-replicas-to-write", "1", "0"},
	} {
		_, err := server.Do(t.Context(), "CONFIG", "SET", refusal.set, refusal.to)
		must(t, err)
		t.Log(refusal.name)
		refused(t, time.Second, func() error { _, err := s.reserve(t.Context(), 2); return err })
		_, err = server.Do(t.Context(), "CONFIG", "SET", refusal.set, refusal.back)
		must(t, err)
		recovers(t, time.Second, s, 2)
	}
}

func TestReplicaIsUnavailable(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Options{})
	replica := redistest.Start(t, redistest.Options{ReplicaOf: primary})
	s := open(t, on(replica))
	refused(t, time.Second, func() error { return s.mint(t.Context(), 1) })
	_, err := replica.Do(t.Context(), "REPLICAOF", "NO", "ONE")
	must(t, err)
	recovers(t, time.Second, s, 1)
}

// A mint that its replica does not have is not confirmed, neither to who minted
// it nor to who finds it.
func TestMintWaitsForReplicas(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Options{})
	replica := redistest.Start(t, redistest.Options{ReplicaOf: primary})
	opts := on(primary)
	opts.WaitReplicas = 1
	s := open(t, opts)
	must(t, s.mint(t.Context(), 1))
	reserved, err := s.reserve(t.Context(), 2)
	must(t, err)
	if reserved.Attempt != attempt(2) {
		t.Fatalf("the claim is of attempt %x", reserved.Attempt)
	}

	must(t, replica.Pause())
	refused(t, time.Second, func() error {
		_, err := s.Mint(t.Context(), claimKey(2), attempt(2), head(2))
		if !errors.Is(err, errReplicas) {
			t.Errorf("mint: %v, want too few replicas", err)
		}
		return err
	})
	refused(t, time.Second, func() error {
		_, err := s.Reserve(t.Context(), claimKey(2), fingerprint(2), attempt(3), time.Minute)
		return err
	})
	must(t, replica.Resume())
	claim, err := s.Mint(t.Context(), claimKey(2), attempt(2), head(2))
	if must(t, err); claim.State != coord.ClaimMinted {
		t.Errorf("the claim is in state %d, want minted", claim.State)
	}
	must(t, primary.Kill())
	_, err = replica.Do(t.Context(), "REPLICAOF", "NO", "ONE")
	must(t, err)
	opts = s.opts
	opts.Addresses, opts.WaitReplicas = []string{replica.Addr()}, 0
	after := open(t, opts)
	claim, err = after.Reserve(t.Context(), claimKey(2), fingerprint(2), attempt(4), time.Minute)
	if must(t, err); claim.State != coord.ClaimMinted || claim.Attempt != attempt(2) {
		t.Errorf("after the failover the claim is in state %d of attempt %x", claim.State, claim.Attempt)
	}
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Options{})
	redistest.Start(t, redistest.Options{ReplicaOf: primary})
	sentinel := redistest.StartSentinel(t, "claims", primary)
	opts := on(sentinel)
	opts.MasterName, opts.WaitReplicas = "claims", 1
	s := open(t, opts)
	must(t, s.mint(t.Context(), 1))
	// The Sentinel learns of the replica from the primary, at its next look.
	known := ""
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(known, "slaves=1"); {
		if time.Now().After(deadline) {
			t.Fatalf("the Sentinel does not learn of the replica: %s", known)
		}
		answer, err := sentinel.Do(t.Context(), "INFO", "sentinel")
		must(t, err)
		known = fmt.Sprint(answer)
		time.Sleep(50 * time.Millisecond)
	}
	must(t, primary.Kill())
	refused(t, time.Second, func() error { return s.mint(t.Context(), 2) })
	deadline := time.Now().Add(15 * time.Second)
	for {
		// The new primary has no replica to wait for: too few replicas is its answer.
		if err := s.mint(t.Context(), 3); errors.Is(err, errReplicas) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the new primary is not found: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Where one node of a cluster is down, the claims of the others are served.
func TestClusterNodeDown(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t, 2)
	// By default the whole cluster refuses once some slots are not served.
	for _, server := range servers {
		_, err := server.Do(t.Context(), "CONFIG", "SET", "cluster-require-full-coverage", "no")
		must(t, err)
	}
	s := open(t, Options{Addresses: []string{servers[0].Addr()}, Cluster: true})
	var first, second []int // claims by node
	for n := range 40 {
		must(t, s.mint(t.Context(), n))
		key := claimKey(n)
		if slot(appendKey(nil, s.opts.KeyPrefix, &key)) < slots/2 {
			first = append(first, n)
		} else {
			second = append(second, n)
		}
	}
	must(t, servers[1].Pause())
	var group sync.WaitGroup
	for _, n := range second[:4] {
		group.Go(func() {
			refused(t, time.Second, func() error { _, err := s.reserve(t.Context(), n); return err })
		})
	}
	start := time.Now()
	for _, n := range first {
		if _, err := s.reserve(t.Context(), n); err != nil {
			t.Errorf("a claim of the other node: %v", err)
		}
	}
	if took := time.Since(start); took > 400*time.Millisecond {
		t.Errorf("claims of the other node took %s", took)
	}
	group.Wait()
	must(t, servers[1].Resume())
	deadline := time.Now().Add(5 * time.Second)
	for _, n := range second {
		for {
			_, err := s.reserve(t.Context(), n)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not recovered: %v", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// A claim that moves to another node of the cluster is found there.
func TestClusterSlotsMove(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t, 2)
	s := open(t, Options{Addresses: []string{servers[0].Addr(), servers[1].Addr()}})
	must(t, s.mint(t.Context(), 1))
	key := claimKey(1)
	name := appendKey(nil, s.opts.KeyPrefix, &key)
	from, to := servers[0], servers[1]
	if slot(name) >= slots/2 {
		from, to = to, from
	}
	id := func(server *redistest.Server) any {
		answer, err := server.Do(t.Context(), "CLUSTER", "MYID")
		must(t, err)
		return answer
	}
	fromID, toID := id(from), id(to)
	do := func(server *redistest.Server, args ...any) {
		t.Helper()
		_, err := server.Do(t.Context(), args...)
		must(t, err)
	}
	find := func(when string) {
		t.Helper()
		claim, err := s.Reserve(t.Context(), claimKey(1), fingerprint(9), attempt(9), time.Minute)
		if must(t, err); claim.State != coord.ClaimMinted {
			t.Errorf("%s the claim is in state %d, want minted", when, claim.State)
		}
	}
	do(to, "CLUSTER", "SETSLOT", slot(name), "IMPORTING", fromID)
	do(from, "CLUSTER", "SETSLOT", slot(name), "MIGRATING", toID)
	host, port, _ := strings.Cut(to.Addr(), ":")
	do(from, "MIGRATE", host, port, name, 0, 1000)
	find("while the slot moves")
	do(to, "CLUSTER", "SETSLOT", slot(name), "NODE", toID)
	do(from, "CLUSTER", "SETSLOT", slot(name), "NODE", toID)
	find("after the slot moved")
}

func TestPasswordIsInNoError(t *testing.T) {
	t.Parallel()
	const password, wrong = "correct horse battery", "wrong staple battery"
	server := redistest.Start(t, redistest.Options{Password: password})
	var texts []string
	for _, given := range []string{password, wrong, ""} {
		secret := NewSecret(given)
		opts := on(server)
		opts.Password, opts.SentinelPassword = secret, secret
		s := open(t, opts)
		err := s.mint(t.Context(), 1)
		if (err == nil) != (given == password) {
			t.Errorf("with the password %q: %v", given, err)
		}
		texts = append(texts, fmt.Sprintf("%v %+v %#v %s", err, opts, opts, opts.Password), fmt.Sprintf("%+v", s))
		if err != nil && !strings.Contains(err.Error(), server.Addr()) {
			t.Errorf("the error does not name the server: %v", err)
		}
	}
	must(t, server.Kill())
	s := open(t, Options{Addresses: []string{server.Addr()}, Password: NewSecret(password)})
	texts = append(texts, fmt.Sprint(s.mint(t.Context(), 1), s.Ping(t.Context())))
	for _, text := range texts {
		for _, secret := range []string{password, wrong} {
			if strings.Contains(text, secret) {
				t.Errorf("the password shows in %s", text)
			}
		}
	}
}
