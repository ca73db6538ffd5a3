package coord

import (
	"context"
	"time"
)

// DefaultIdempotencyTTL is how long a keyed request is remembered once its
// effect is decided.
const DefaultIdempotencyTTL = 24 * time.Hour

// ClaimKey names one keyed request. The same idempotency key on another
// tenant or key is another request.
type ClaimKey struct {
	Tenant         string
	Key            string
	IdempotencyKey string
}

// Fingerprint identifies an operation and its payload (not its level).
type Fingerprint [16]byte

// AttemptID identifies one attempt at a keyed request; random, never reused.
type AttemptID [16]byte

// ClaimState is how far a claim has come.
type ClaimState uint8

const (
	// ClaimReserved: an attempt works on it and nothing is decided. It goes
	// away by itself when its lease ends.
	ClaimReserved ClaimState = iota + 1
	// ClaimMinted: the version is decided, for good. It may or may not have
	// been sent to replicas; sending it again is always right.
	ClaimMinted
	// ClaimDone: the version is known to have met Level once.
	ClaimDone
)

// Claim is the record of a keyed request. The zero Claim stands for none.
type Claim struct {
	State       ClaimState
	Fingerprint Fingerprint
	Attempt     AttemptID // who reserved it; after that, who minted it
	Minted      Head      // from ClaimMinted on
	Level       Level     // of ClaimDone
}

// Idempotency remembers keyed requests, for all coordinators together. Each
// method is one atomic step on one claim. Methods are safe for concurrent use,
// keep to their context, and return an error only where the store did not
// answer (ErrIdempotencyUnavailable): the step may then have been taken.
type Idempotency interface {
	// Reserve makes a claim in state ClaimReserved that ends by itself after
	// lease, unless there is one already; it returns the claim that now
	// stands, so that the caller owns it exactly when Attempt is its own.
	Reserve(ctx context.Context, key ClaimKey, fp Fingerprint, attempt AttemptID, lease time.Duration) (Claim, error)
	// Mint decides the version of a claim that attempt has reserved, and from
	// then on keeps the claim for the store's TTL. Repeating the same mint
	// changes nothing. It returns the claim that now stands, the zero Claim
	// where there is none: the mint holds exactly when that claim is
	// attempt's and no longer ClaimReserved.
	Mint(ctx context.Context, key ClaimKey, attempt AttemptID, version Head) (Claim, error)
	// Complete notes that the minted version (same timestamp and writer) has
	// met level; without such a claim, or where the claim notes a higher level
	// already, it does nothing. The TTL stays as it is.
	Complete(ctx context.Context, key ClaimKey, version Head, level Level) error
	// Release ends a reservation of attempt early; without one it does nothing.
	Release(ctx context.Context, key ClaimKey, attempt AttemptID) error
	// Ping tells whether the store answers.
	Ping(ctx context.Context) error
	Close() error
}
