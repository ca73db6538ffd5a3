package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// Reserve implements coord.Idempotency.
func (s *Store) Reserve(ctx context.Context, key coord.ClaimKey, fp coord.Fingerprint, attempt coord.AttemptID, lease time.Duration) (coord.Claim, error) {
	record := appendReservation(make([]byte, 0, recordFixed), &fp, &attempt)
	reply, err := s.take(ctx, reserveScript, &key, record, milliseconds(lease), s.waits())
	if err != nil {
		return coord.Claim{}, err
	}
	if reply == int64(1) {
		return coord.Claim{State: coord.ClaimReserved, Fingerprint: fp, Attempt: attempt}, nil
	}
	return s.claim(reserveScript, reply)
}

// Mint implements coord.Idempotency.
func (s *Store) Mint(ctx context.Context, key coord.ClaimKey, attempt coord.AttemptID, version coord.Head) (coord.Claim, error) {
	if err := checkVersion(&version); err != nil {
		return coord.Claim{}, fmt.Errorf("mint claim: %w: %w", coord.ErrInvalidRequest, err)
	}
	head := coord.AppendHead(make([]byte, 0, 96), &version)
	reply, err := s.take(ctx, mintScript, &key, attempt[:], head, s.waits(), milliseconds(s.opts.TTL))
	if err != nil || reply == int64(0) {
		return coord.Claim{}, err
	}
	return s.claim(mintScript, reply)
}

// Complete implements coord.Idempotency.
func (s *Store) Complete(ctx context.Context, key coord.ClaimKey, version coord.Head, level coord.Level) error {
	if level == coord.LevelDefault || level > coord.All {
		return fmt.Errorf("complete claim: %w: level %d", coord.ErrInvalidRequest, level)
	}
	identity := appendIdentity(make([]byte, 0, 64), &version)
	_, err := s.take(ctx, completeScript, &key, identity, []byte{stageMinted + byte(level)})
	return err
}

// Release implements coord.Idempotency.
func (s *Store) Release(ctx context.Context, key coord.ClaimKey, attempt coord.AttemptID) error {
	_, err := s.take(ctx, releaseScript, &key, attempt[:])
	return err
}

// claim reads the record in an answer.
func (s *Store) claim(script *script, reply any) (coord.Claim, error) {
	record, ok := reply.(string)
	if !ok {
		return coord.Claim{}, s.unavailable(script.name+" claim", fmt.Errorf("the answer is %T, want a record", reply))
	}
	claim, err := decodeRecord([]byte(record))
	if err != nil {
		return coord.Claim{}, s.unavailable(script.name+" claim", err)
	}
	return claim, nil
}

// milliseconds rounds up, to one at least: Redis refuses an expiry of zero.
func milliseconds(d time.Duration) int64 {
	return max(int64((d+time.Millisecond-1)/time.Millisecond), 1)
}

// waits is the scripts' argument that tells whether replicas are waited for.
func (s *Store) waits() string {
	if s.opts.WaitReplicas > 0 {
		return "1"
	}
	return "0"
}
