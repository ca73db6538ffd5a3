package redis

import (
	"bytes"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

func minted1() []byte {
	fp, at, h := fingerprint(1), attempt(1), head(1)
	b := appendReservation(nil, &fp, &at)
	b[1] = stageMinted
	return coord.AppendHead(b, &h)
}

// encode is the record of a claim, as the scripts would have made it.
func encode(c *coord.Claim) []byte {
	b := appendReservation(nil, &c.Fingerprint, &c.Attempt)
	if c.State >= coord.ClaimMinted {
		b[1] = stageMinted + byte(c.Level)
		b = coord.AppendHead(b, &c.Minted)
	}
	return b
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte{})
	f.Add(minted1()[:recordFixed])
	for stage := range byte(7) {
		b := minted1()
		b[1] = stage
		f.Add(b)
		f.Add(append(b, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		claim, err := decodeRecord(b)
		if err != nil {
			if claim.State != 0 {
				t.Errorf("a claim comes with the error %v", err)
			}
			return
		}
		again, err := decodeRecord(encode(&claim))
		if err != nil {
			t.Fatalf("what was decoded does not decode once encoded: %v", err)
		}
		if again.State != claim.State || again.Level != claim.Level || again.Attempt != claim.Attempt ||
			again.Fingerprint != claim.Fingerprint || again.Minted.Compare(&claim.Minted) != 0 ||
			again.Minted.Clock.Compare(claim.Minted.Clock) != coord.Equal {
			t.Errorf("decoded %+v, encoded and decoded again %+v", claim, again)
		}
	})
}

func TestDecodeRecordRefusesOtherFormats(t *testing.T) {
	for name, change := range map[string]func(b []byte) []byte{
		"cut":         func(b []byte) []byte { return b[:20] },
		"cut in head": func(b []byte) []byte { return b[:recordFixed+5] },
		"format":      func(b []byte) []byte { b[0] = 2; return b },
		"no stage":    func(b []byte) []byte { b[1] = 0; return b },
		"stage":       func(b []byte) []byte { b[1] = stageLast + 1; return b },
		"reserved":    func(b []byte) []byte { b[1] = stageReserved; return b },
		"longer":      func(b []byte) []byte { return append(b, 1) },
	} {
		if _, err := decodeRecord(change(minted1())); err == nil {
			t.Errorf("%s: decoded without an error", name)
		}
	}
}

// The complete script compares the identity with the beginning of the head.
func TestIdentityIsWhatHeadsBeginWith(t *testing.T) {
	h := head(3)
	h.Tombstone = true
	full := coord.AppendHead(nil, &h)
	identity := appendIdentity(nil, &h)
	if !bytes.HasPrefix(full[2:], identity[2:]) || full[0] != identity[0] {
		t.Errorf("head % x does not begin with % x", full, identity)
	}
	other := h
	other.Writer.Incarnation++
	if bytes.HasPrefix(full[2:], appendIdentity(nil, &other)[2:]) {
		t.Error("the identity of another incarnation matches")
	}
}

func TestSlotIsRediss(t *testing.T) {
	for key, want := range map[string]int{"123456789": 12739, "foo": 12182, "": 0} {
		if got := slot([]byte(key)); got != want {
			t.Errorf("slot of %q = %d, want %d", key, got, want)
		}
	}
}
