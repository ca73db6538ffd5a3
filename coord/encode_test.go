package coord

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

func randomHead(rng *rand.Rand) Head {
	h := Head{Timestamp: 1 + rng.Int64N(1<<60), Writer: Writer{"coordinator-1", rng.Uint64N(1000)}, Tombstone: rng.IntN(2) == 0}
	for i := range rng.IntN(MaxClockEntries + 1) {
		h.Clock = append(h.Clock, ClockEntry{string(rune('a' + i)), rng.Int64N(1 << 40), h.Timestamp - rng.Int64N(h.Timestamp)})
	}
	return h
}

func TestHeadRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		h := randomHead(rng)
		b := AppendHead([]byte("front"), &h)
		got, rest, err := DecodeHead(append(b[5:], "value"...), nil)
		if err != nil || !reflect.DeepEqual(got, h) || string(rest) != "value" {
			t.Fatalf("%v came back as %v, rest %q, error %v", &h, &got, rest, err)
		}
		for cut := range len(b) - 5 {
			if _, _, err := DecodeHead(b[5:5+cut], nil); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%d of %d bytes: error %v", cut, len(b)-5, err)
			}
		}
	}
}

func FuzzDecodeHead(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 8 {
		h := randomHead(rng)
		f.Add(AppendHead(nil, &h))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := DecodeHead(b, nil)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, _, err := DecodeHead(AppendHead(nil, &h), nil)
		if err != nil || !reflect.DeepEqual(again, h) || len(rest) > len(b) {
			t.Errorf("%v came back as %v, error %v", &h, &again, err)
		}
	})
}
