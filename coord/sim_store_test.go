package coord

import "time"

// simStep is one copy of a step on the idempotency store, on its way there or back.
type simStep struct {
	s       *sim
	attempt *simAttempt
	gen     uint32
	serial  int
	c       *simCoordinator
	life    uint32
	key     *simEntry
	number  uint32 // of the attempt's steps
	copy    bool
	returns bool
	claimStep
	claimKey ClaimKey
	deadline instant
	claim    Claim
	err      error
}

// takeStep sends a step to the store.
func (a *simAttempt) takeStep(step storeStep) {
	s, w := a.s, &a.write
	a.step++
	m := &simStep{
		s: s, attempt: a, gen: a.gen, serial: a.serial, c: a.c, life: a.c.life, key: a.key, number: a.step, deadline: a.deadline,
		claimStep: claimStep{step, w.print, w.attempt, w.version.Head, w.level}, claimKey: a.claimKey,
	}
	if step == stepReserve || step == stepMint {
		a.awaited = a.step
	}
	if s.strikes(faultStoreDuplicate) {
		late := *m
		late.copy = true
		delay := s.storeTransit()
		if s.chance(0.5) {
			delay = s.spread(100*time.Millisecond, time.Minute)
		}
		s.plan(s.now.add(delay), &late)
	}
	if a.c.cutStore > s.now || s.strikes(faultStoreLoss) {
		m.lose()
		return
	}
	s.plan(s.now.add(s.storeTransit()), m)
}

func (s *sim) storeTransit() time.Duration {
	if s.strikes(faultStoreDelay) {
		return s.spread(20*time.Millisecond, 5*time.Second)
	}
	return s.swarm.latency[0] + s.upTo(s.swarm.latency[1])
}

func (m *simStep) happen() {
	s := m.s
	if m.returns {
		m.c.stepped(m)
		return
	}
	switch {
	case s.storeDownUntil > s.now:
		m.err = errSimStoreFailed
		if s.chance(0.3) { // it had done it before it failed
			s.claims.apply(&m.claimStep, m.claimKey, claimLease)
		}
	default:
		m.claim = s.claims.apply(&m.claimStep, m.claimKey, claimLease)
	}
	if s.traced(m.key) {
		s.note(m.key, "store: %s of attempt %d for %s: %s", stepNames[m.step], m.serial, m.claimKey.IdempotencyKey, s.describeClaim(m))
	}
	m.returns = true
	if m.c.cutStore > s.now || s.strikes(faultStoreLoss) {
		m.lose()
		return
	}
	s.plan(s.now.add(s.storeTransit()), m)
}

// lose makes the step fail at its caller.
func (m *simStep) lose() {
	if m.copy {
		return
	}
	m.returns = true
	m.err = errSimStoreLost
	at := max(m.deadline, m.s.now)
	if m.s.chance(0.5) {
		at = min(at, m.s.now.add(m.s.spread(time.Millisecond, 100*time.Millisecond)))
	}
	m.s.plan(at, m)
}

// stepped takes the answer to a step.
func (c *simCoordinator) stepped(m *simStep) {
	s := c.s
	if c.life != m.life || !c.up {
		return
	}
	if c.pausedUntil > s.now {
		s.plan(c.pausedUntil, m)
		return
	}
	a := m.attempt
	if a.gen != m.gen || a.awaited != m.number {
		return
	}
	a.awaited = 0
	switch m.step {
	case stepReserve:
		a.write.reserved(m.claim, m.err, s.now, &a.fx)
	case stepMint:
		a.write.minted(m.claim, m.err, s.now, &a.fx)
	}
	a.carryOut()
}

var (
	stepNames  = [...]string{"nothing", "reserve", "mint", "complete", "release"}
	claimNames = [...]string{"none", "reserved", "minted", "done"}
)

func (s *sim) describeClaim(m *simStep) string {
	if m.err != nil {
		return m.err.Error()
	}
	text := claimNames[m.claim.State]
	if m.claim.State >= ClaimMinted {
		text += " " + s.name(&m.claim.Minted)
	}
	return text
}
