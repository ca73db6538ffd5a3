package coord

import "time"

// simClaims is a simulated idempotency store: what its steps do. What becomes
// of the messages to and from it is left to who calls it.
type simClaims struct {
	world  *world
	claims map[ClaimKey]simClaim
	ttl    time.Duration
}

type simClaim struct {
	Claim
	ends instant
}

// claimStep is a step as it is sent to the store: with all it says, since the
// write that asked for it may have moved on when it arrives.
type claimStep struct {
	step    storeStep
	print   Fingerprint
	attempt AttemptID
	version Head
	level   Level
}

func (s *simClaims) get(k ClaimKey) Claim {
	c, ok := s.claims[k]
	if !ok || s.world.now >= c.ends {
		return Claim{}
	}
	return c.Claim
}

func (s *simClaims) take(step storeStep, k ClaimKey, w *write, lease time.Duration) Claim {
	return s.apply(&claimStep{step, w.print, w.attempt, w.version.Head, w.level}, k, lease)
}

func (s *simClaims) apply(m *claimStep, k ClaimKey, lease time.Duration) Claim {
	c := s.get(k)
	switch m.step {
	case stepReserve:
		if c.State == 0 {
			c = Claim{State: ClaimReserved, Fingerprint: m.print, Attempt: m.attempt}
			s.claims[k] = simClaim{c, s.world.now.add(lease)}
		}
	case stepMint:
		if c.State == ClaimReserved && (c.Attempt == m.attempt || mutant == mutantMintByAnyone) {
			c.State, c.Minted = ClaimMinted, m.version
			s.claims[k] = simClaim{c, s.world.now.add(s.ttl)}
		}
	case stepComplete:
		if c.State >= ClaimMinted && c.Minted.Compare(&m.version) == 0 && (c.State == ClaimMinted || c.Level < m.level) {
			c.State, c.Level = ClaimDone, m.level
			s.claims[k] = simClaim{c, s.claims[k].ends}
		}
	case stepRelease:
		if c.State == ClaimReserved && c.Attempt == m.attempt {
			delete(s.claims, k)
		}
	}
	return c
}
