package conformance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// IdempotencySuite says how to get idempotency stores of one kind.
type IdempotencySuite struct {
	// Open returns an empty store whose claims live for TTL, and closes it
	// when the test ends. Advance lets time pass by the store's clock: it
	// moves that clock, or waits.
	Open func(t *testing.T, ttl time.Duration) (store coord.Idempotency, advance func(time.Duration))
	// Peer returns the store as another coordinator has it, and closes it when
	// the test ends. Nil: one process has the store to itself.
	Peer func(t *testing.T, store coord.Idempotency) coord.Idempotency
	// Reopen closes a store of Open and returns one on the same data, with the
	// same clock. Nil: the store does not outlive its server.
	Reopen func(t *testing.T, store coord.Idempotency) coord.Idempotency
	// Lease and TTL are the durations used, defaults 1 minute and 1 hour. Where
	// advancing means waiting they may be short, though Lease long enough for
	// a few operations and TTL at least 5 times Lease.
	Lease, TTL time.Duration
}

// Idempotency asserts what coord.Idempotency promises.
func Idempotency(t *testing.T, suite IdempotencySuite) {
	if suite.Lease == 0 {
		suite.Lease = time.Minute
	}
	if suite.TTL == 0 {
		suite.TTL = time.Hour
	}
	for _, c := range []struct {
		name string
		run  func(*claimCase)
	}{
		{"reserve makes a claim and keeps its fingerprint", reserveMakes},
		{"reserve returns the claim that stands, unchanged", reserveStands},
		{"reserving again under one attempt is the same claim", reserveAgain},
		{"a reservation ends with its lease", leaseEnds},
		{"a reservation is not prolonged by asking", leaseNotProlonged},
		{"mint decides the version", mintDecides},
		{"mint without a claim makes none", mintWithoutClaim},
		{"mint of another attempt changes nothing", mintOfAnother},
		{"the same mint again changes nothing", mintAgain},
		{"another version of the same attempt changes nothing", mintOtherVersion},
		{"a mint after the lease fails", mintAfterLease},
		{"a mint after another attempt took over fails", mintAfterTakeover},
		{"a minted claim outlives its lease", mintedOutlivesLease},
		{"a minted claim ends with the TTL", mintedEnds},
		{"complete notes the level", completeNotes},
		{"complete only raises the level", completeRaises},
		{"complete of another version does nothing", completeOther},
		{"complete without a minted claim does nothing", completeWithoutMint},
		{"complete leaves the TTL as it is", completeKeepsTTL},
		{"release ends a reservation", releaseEnds},
		{"release of another attempt does nothing", releaseOfAnother},
		{"release of a minted claim does nothing", releaseOfMinted},
		{"claims of other tenants, keys and idempotency keys are apart", claimsApart},
		{"of 64 concurrent reserves one owns the claim", concurrentReserves},
		{"of 64 concurrent mints one version holds", concurrentMints},
		{"a context that has ended is an error", contextEnded},
		{"ping answers", pingAnswers},
		{"another coordinator sees the same claims", peerSees},
		{"after reopening everything is there", reopenKeepsClaims},
	} {
		t.Run(c.name, func(t *testing.T) {
			cc := &claimCase{t: t, suite: suite, ctx: t.Context()}
			cc.store, cc.advance = suite.Open(t, suite.TTL)
			c.run(cc)
		})
	}
}

// claimCase is one case of the suite.
type claimCase struct {
	t       *testing.T
	suite   IdempotencySuite
	ctx     context.Context
	store   coord.Idempotency
	advance func(time.Duration)
}

var claimed = coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: "i"}

func attemptID(n int) coord.AttemptID     { return coord.AttemptID{byte(n), byte(n >> 8), 0xa} }
func fingerprint(n int) coord.Fingerprint { return coord.Fingerprint{byte(n), byte(n >> 8), 0xf} }

func minted(n int) coord.Head {
	v := version(1_700_000_000_000_000_000+int64(n), "c1", "")
	v.Clock = v.Clock.With("c2", 7, v.Timestamp-5)
	return v.Head
}

func (c *claimCase) reserveKey(key coord.ClaimKey, attempt int) coord.Claim {
	c.t.Helper()
	claim, err := c.store.Reserve(c.ctx, key, fingerprint(attempt), attemptID(attempt), c.suite.Lease)
	if err != nil {
		c.t.Fatalf("reserve: %v", err)
	}
	return claim
}

func (c *claimCase) reserve(attempt int) coord.Claim {
	c.t.Helper()
	return c.reserveKey(claimed, attempt)
}

func (c *claimCase) mint(attempt int, version coord.Head) coord.Claim {
	c.t.Helper()
	claim, err := c.store.Mint(c.ctx, claimed, attemptID(attempt), version)
	if err != nil {
		c.t.Fatalf("mint: %v", err)
	}
	return claim
}

func (c *claimCase) complete(version coord.Head, level coord.Level) {
	c.t.Helper()
	if err := c.store.Complete(c.ctx, claimed, version, level); err != nil {
		c.t.Fatalf("complete: %v", err)
	}
}

func (c *claimCase) release(attempt int) {
	c.t.Helper()
	if err := c.store.Release(c.ctx, claimed, attemptID(attempt)); err != nil {
		c.t.Fatalf("release: %v", err)
	}
}

func (c *claimCase) want(got, want coord.Claim) {
	c.t.Helper()
	if got.State != want.State || got.Fingerprint != want.Fingerprint || got.Attempt != want.Attempt ||
		got.Level != want.Level || !sameHead(got.Minted, want.Minted) {
		c.t.Errorf("got claim %s, want %s", claimText(got), claimText(want))
	}
}

func claimText(c coord.Claim) string {
	return fmt.Sprintf("{state %d, fingerprint %x, attempt %x, level %s, minted %s}",
		c.State, c.Fingerprint[:3], c.Attempt[:3], c.Level, &c.Minted)
}

// stands asserts which claim stands, by an attempt that finds it. It must not
// be used where none stands: it would make one.
func (c *claimCase) stands(want coord.Claim) {
	c.t.Helper()
	c.want(c.reserve(999), want)
}

// standsNot asserts that there is no claim, and leaves one of attempt.
func (c *claimCase) standsNot(attempt int) {
	c.t.Helper()
	c.want(c.reserve(attempt), reserved(attempt))
}

func reserved(attempt int) coord.Claim {
	return coord.Claim{State: coord.ClaimReserved, Fingerprint: fingerprint(attempt), Attempt: attemptID(attempt)}
}

func mintedClaim(attempt int, version coord.Head) coord.Claim {
	claim := reserved(attempt)
	claim.State, claim.Minted = coord.ClaimMinted, version
	return claim
}

func doneClaim(attempt int, version coord.Head, level coord.Level) coord.Claim {
	claim := mintedClaim(attempt, version)
	claim.State, claim.Level = coord.ClaimDone, level
	return claim
}

func reserveMakes(c *claimCase) {
	c.want(c.reserve(1), reserved(1))
	c.stands(reserved(1))
}

func reserveStands(c *claimCase) {
	c.reserve(1)
	c.want(c.reserve(2), reserved(1))
	c.want(c.reserve(3), reserved(1))
}

func reserveAgain(c *claimCase) {
	c.reserve(1)
	c.want(c.reserve(1), reserved(1))
}

func leaseEnds(c *claimCase) {
	c.reserve(1)
	c.advance(c.suite.Lease + c.suite.Lease/10)
	c.standsNot(2)
	c.stands(reserved(2))
}

func leaseNotProlonged(c *claimCase) {
	for n := range 10 {
		key := claimed
		key.IdempotencyKey = strconv.Itoa(n)
		began := time.Now()
		c.reserveKey(key, 1)
		c.advance(c.suite.Lease * 6 / 10)
		c.reserveKey(key, 1)
		c.reserveKey(key, 2)
		// Where advancing means waiting, the wait may have been too long: who
		// asks after the end of a lease begins another.
		if time.Since(began) < c.suite.Lease {
			c.advance(c.suite.Lease * 6 / 10)
			c.want(c.reserveKey(key, 3), reserved(3))
			return
		}
	}
	c.t.Error("part of a lease took longer than all of it, each time")
}

func mintDecides(c *claimCase) {
	c.reserve(1)
	c.want(c.mint(1, minted(1)), mintedClaim(1, minted(1)))
	c.stands(mintedClaim(1, minted(1)))
}

func mintWithoutClaim(c *claimCase) {
	c.want(c.mint(1, minted(1)), coord.Claim{})
	c.standsNot(2)
}

func mintOfAnother(c *claimCase) {
	c.reserve(1)
	c.want(c.mint(2, minted(2)), reserved(1))
	c.want(c.mint(1, minted(1)), mintedClaim(1, minted(1)))
	c.want(c.mint(2, minted(2)), mintedClaim(1, minted(1)))
}

func mintAgain(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.want(c.mint(1, minted(1)), mintedClaim(1, minted(1)))
	c.complete(minted(1), coord.One)
	c.want(c.mint(1, minted(1)), doneClaim(1, minted(1), coord.One))
}

func mintOtherVersion(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.want(c.mint(1, minted(2)), mintedClaim(1, minted(1)))
	c.stands(mintedClaim(1, minted(1)))
}

func mintAfterLease(c *claimCase) {
	c.reserve(1)
	c.advance(c.suite.Lease + c.suite.Lease/10)
	c.want(c.mint(1, minted(1)), coord.Claim{})
	c.standsNot(2)
}

func mintAfterTakeover(c *claimCase) {
	c.reserve(1)
	c.advance(c.suite.Lease + c.suite.Lease/10)
	c.standsNot(2)
	c.want(c.mint(1, minted(1)), reserved(2))
	c.want(c.mint(2, minted(2)), mintedClaim(2, minted(2)))
	c.want(c.mint(1, minted(1)), mintedClaim(2, minted(2)))
}

func mintedOutlivesLease(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.advance(c.suite.Lease * 2)
	c.stands(mintedClaim(1, minted(1)))
	c.want(c.mint(1, minted(1)), mintedClaim(1, minted(1)))
}

func mintedEnds(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.advance(c.suite.TTL + c.suite.TTL/10)
	c.want(c.mint(1, minted(1)), coord.Claim{})
	c.standsNot(2)
}

func completeNotes(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.complete(minted(1), coord.Quorum)
	c.stands(doneClaim(1, minted(1), coord.Quorum))
}

func completeRaises(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	for _, step := range []struct{ level, want coord.Level }{
		{coord.One, coord.One}, {coord.Quorum, coord.Quorum}, {coord.One, coord.Quorum},
		{coord.Quorum, coord.Quorum}, {coord.All, coord.All}, {coord.Quorum, coord.All},
	} {
		c.complete(minted(1), step.level)
		c.stands(doneClaim(1, minted(1), step.want))
	}
}

func completeOther(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.complete(minted(2), coord.Quorum)
	writer := minted(1)
	writer.Writer.Incarnation++
	c.complete(writer, coord.Quorum)
	c.stands(mintedClaim(1, minted(1)))
}

func completeWithoutMint(c *claimCase) {
	c.complete(minted(1), coord.Quorum)
	c.standsNot(1)
	c.complete(minted(1), coord.Quorum)
	c.stands(reserved(1))
}

func completeKeepsTTL(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.advance(c.suite.TTL * 6 / 10)
	c.complete(minted(1), coord.One)
	c.stands(doneClaim(1, minted(1), coord.One))
	c.advance(c.suite.TTL * 6 / 10)
	c.complete(minted(1), coord.All)
	c.standsNot(2)
}

func releaseEnds(c *claimCase) {
	c.release(1)
	c.reserve(1)
	c.release(1)
	c.want(c.mint(1, minted(1)), coord.Claim{})
	c.standsNot(2)
}

func releaseOfAnother(c *claimCase) {
	c.reserve(1)
	c.release(2)
	c.stands(reserved(1))
}

func releaseOfMinted(c *claimCase) {
	c.reserve(1)
	c.mint(1, minted(1))
	c.release(1)
	c.stands(mintedClaim(1, minted(1)))
	c.complete(minted(1), coord.One)
	c.release(1)
	c.stands(doneClaim(1, minted(1), coord.One))
}

func claimsApart(c *claimCase) {
	keys := []coord.ClaimKey{
		{Tenant: "a", Key: "b", IdempotencyKey: "c"},
		{Tenant: "ab", Key: "", IdempotencyKey: "c"},
		{Tenant: "a", Key: "bc", IdempotencyKey: ""},
		{Tenant: "", Key: "ab", IdempotencyKey: "c"},
		{Tenant: "a", Key: "", IdempotencyKey: "bc"},
		{Tenant: "a", Key: "b:c", IdempotencyKey: "d"},
		{Tenant: "a", Key: "b", IdempotencyKey: "c:d"},
		{Tenant: "a:b", Key: "c", IdempotencyKey: "d"},
		{Tenant: "a", Key: "b/c", IdempotencyKey: "d"},
		{Tenant: "a", Key: "\x01b", IdempotencyKey: "{c}"},
		{Tenant: "a", Key: "%01b", IdempotencyKey: "{c}"},
	}
	for i, key := range keys {
		c.want(c.reserveKey(key, i+1), reserved(i+1))
	}
	for i, key := range keys {
		c.want(c.reserveKey(key, 500), reserved(i+1))
	}
}

// concurrently runs one call for each of n attempts at once and returns their claims.
func (c *claimCase) concurrently(n int, call func(attempt int) (coord.Claim, error)) []coord.Claim {
	c.t.Helper()
	claims := make([]coord.Claim, n)
	errs := make([]error, n)
	start := make(chan struct{})
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			<-start
			claims[i], errs[i] = call(i + 1)
		})
	}
	close(start)
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		c.t.Fatal(err)
	}
	return claims
}

func concurrentReserves(c *claimCase) {
	claims := c.concurrently(64, func(attempt int) (coord.Claim, error) {
		return c.store.Reserve(c.ctx, claimed, fingerprint(attempt), attemptID(attempt), c.suite.Lease)
	})
	owners := 0
	for i, claim := range claims {
		c.want(claim, claims[0])
		if claim.Attempt == attemptID(i+1) {
			owners++
		}
	}
	if owners != 1 {
		c.t.Errorf("%d attempts own the claim, want 1", owners)
	}
}

func concurrentMints(c *claimCase) {
	c.reserve(1)
	claims := c.concurrently(64, func(n int) (coord.Claim, error) {
		attempt := 1
		if n%4 == 0 {
			attempt = n // has not reserved
		}
		return c.store.Mint(c.ctx, claimed, attemptID(attempt), minted(n))
	})
	final := c.reserve(999)
	if final.State != coord.ClaimMinted || final.Attempt != attemptID(1) {
		c.t.Fatalf("got claim %s, want one that attempt 1 has minted", claimText(final))
	}
	for _, claim := range claims {
		if claim.State == coord.ClaimMinted {
			c.want(claim, final)
		} else {
			c.want(claim, reserved(1)) // of another attempt, before the mint
		}
	}
}

func contextEnded(c *claimCase) {
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	_, err := c.store.Reserve(ctx, claimed, fingerprint(1), attemptID(1), c.suite.Lease)
	if !errors.Is(err, coord.ErrIdempotencyUnavailable) {
		c.t.Errorf("reserve: got error %v, want ErrIdempotencyUnavailable", err)
	}
}

func pingAnswers(c *claimCase) {
	if err := c.store.Ping(c.ctx); err != nil {
		c.t.Error(err)
	}
}

func peerSees(c *claimCase) {
	if c.suite.Peer == nil {
		return // the store is one coordinator's own
	}
	first := c.store
	peer := c.suite.Peer(c.t, first)
	c.reserve(1)
	c.store = peer
	c.stands(reserved(1))
	c.store = first
	c.mint(1, minted(1))
	c.store = peer
	c.stands(mintedClaim(1, minted(1)))
	c.complete(minted(1), coord.Quorum)
	c.store = first
	c.stands(doneClaim(1, minted(1), coord.Quorum))
}

func reopenKeepsClaims(c *claimCase) {
	if c.suite.Reopen == nil {
		return // the store does not outlive its server
	}
	c.reserve(1)
	c.store = c.suite.Reopen(c.t, c.store)
	c.stands(reserved(1))
	c.mint(1, minted(1))
	c.store = c.suite.Reopen(c.t, c.store)
	c.stands(mintedClaim(1, minted(1)))
	c.complete(minted(1), coord.Quorum)
	c.store = c.suite.Reopen(c.t, c.store)
	c.stands(doneClaim(1, minted(1), coord.Quorum))
	c.advance(c.suite.TTL + c.suite.TTL/10)
	c.standsNot(2)
}
