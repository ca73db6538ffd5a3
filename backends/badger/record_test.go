package badger

import (
	"bytes"
	"cmp"
	"testing"
	"testing/quick"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

func TestKeyOrderIsPositionOrder(t *testing.T) {
	var positions []coord.Position
	for _, token := range []ring.Token{0, 1, 255, 256, 1 << 63, ^ring.Token(0)} {
		for _, tenant := range []string{"", "a", "a\x01", "aa", "b", "\xff"} {
			for _, key := range []string{"", "a", "a\x01", "ab", "b", "\xff\xff"} {
				positions = append(positions, coord.Position{Token: token, Tenant: tenant, Key: key})
			}
		}
	}
	stored := func(p coord.Position) []byte { return appendKey(nil, nsRecord, p.Token, p.Tenant, p.Key) }
	for _, p := range positions {
		for _, q := range positions {
			if got, want := bytes.Compare(stored(p), stored(q)), p.Compare(q); got != want {
				t.Fatalf("%+v and %+v: keys compare %d, positions %d", p, q, got, want)
			}
		}
		token, tenant, key, err := splitKey(stored(p))
		if err != nil || token != p.Token || string(tenant) != p.Tenant || string(key) != p.Key {
			t.Fatalf("%+v: split into %d, %q, %q, error %v", p, token, tenant, key, err)
		}
	}
	law := func(a, b uint64, t1, t2, k1, k2 string) bool {
		p := coord.Position{Token: ring.Token(a % 4), Tenant: t1, Key: k1}
		q := coord.Position{Token: ring.Token(b % 4), Tenant: t2, Key: k2}
		if checkKey(t1, k1) != nil || checkKey(t2, k2) != nil {
			return true
		}
		return cmp.Compare(bytes.Compare(stored(p), stored(q)), 0) == p.Compare(q)
	}
	if err := quick.Check(law, nil); err != nil {
		t.Error(err)
	}
}

func TestClaimKeysDoNotCollide(t *testing.T) {
	parts := []string{"", "\x00", "\x01", "\x01a", "a", "ab", "b", "\x00a"}
	seen := make(map[string]coord.ClaimKey)
	for _, tenant := range parts {
		for _, key := range parts {
			for _, idem := range parts {
				k := coord.ClaimKey{Tenant: tenant, Key: key, IdempotencyKey: idem}
				stored := string(claimKey(k))
				if other, ok := seen[stored]; ok {
					t.Fatalf("%+v and %+v are stored under one key", k, other)
				}
				seen[stored] = k
			}
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	head := testVersion(1_700_000_000_000_000_000, nil).Head
	f.Add(appendRecord(nil, &head, []byte("value"), valueRef{}, moment{}))
	f.Add(appendRecord(nil, &head, make([]byte, 10<<20), valueRef{file: 7, size: 10 << 20, sum: 9}, moment{}))
	f.Add(appendRecord(nil, &head, make([]byte, 10<<10), valueRef{}, moment{}))
	head.Tombstone = true
	f.Add(appendRecord(nil, &head, nil, valueRef{}, moment{boot: 3, clock: time.Hour}))
	head.Tombstone, head.Expires = false, head.Timestamp+1
	f.Add(appendRecord(nil, &head, make([]byte, 10<<10), valueRef{}, moment{boot: 3, clock: time.Hour}))
	f.Add([]byte{recordFormat, flagSeparate, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b, nil)
		if err != nil {
			return
		}
		if r.ref.size != 0 && (r.ref.size <= inlineBytes || r.ref.size > maxValueBytes || r.inline != nil) {
			t.Fatalf("decoded %+v", r)
		}
		if r.ref.size != 0 || len(r.inline) > inlineBytes {
			return // where it lies depends on more than its length
		}
		again, err := decodeRecord(appendRecord(nil, &r.head, r.inline, valueRef{}, r.stored), nil)
		if err != nil || again.head.Compare(&r.head) != 0 || again.stored != r.stored || !bytes.Equal(again.inline, r.inline) {
			t.Fatalf("decoded %+v, encoded and decoded again %+v, error %v", r, again, err)
		}
	})
}

func FuzzDecodeClaim(f *testing.F) {
	claim := claimRecord{claim: coord.Claim{State: coord.ClaimReserved, Attempt: coord.AttemptID{1}}, ends: time.Unix(0, 5)}
	f.Add(appendClaim(nil, &claim))
	claim.claim.State, claim.claim.Minted, claim.claim.Level = coord.ClaimDone, testVersion(9, nil).Head, coord.Quorum
	f.Add(appendClaim(nil, &claim))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeClaim(b)
		if err != nil {
			return
		}
		again, err := decodeClaim(appendClaim(nil, &r))
		if err != nil || again.claim.State != r.claim.State || !again.ends.Equal(r.ends) ||
			again.claim.Attempt != r.claim.Attempt || again.claim.Minted.Compare(&r.claim.Minted) != 0 {
			t.Fatalf("decoded %+v, encoded and decoded again %+v, error %v", r, again, err)
		}
	})
}
