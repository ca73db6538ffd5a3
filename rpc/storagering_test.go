package rpc

import (
	"slices"
	"testing"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// FuzzReadSums reads whatever a node may answer.
func FuzzReadSums(f *testing.F) {
	sums := []coord.SpanSums{
		{{Space: "a", Keys: 1, Sum: 2}, {Space: "b\x011", Keys: 3, Sum: 4}}, {}, {{Space: "a", Keys: 5, Sum: 6}},
	}
	raw, err := sumsMessage(sums).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, 3)
	f.Add([]byte{}, 0)
	f.Add(raw[:len(raw)-2], 3)
	f.Fuzz(func(t *testing.T, raw []byte, spans int) {
		resp := new(storagepb.SumsResponse)
		if spans < 0 || spans > coord.MaxSumSpans || resp.UnmarshalVTUnsafe(raw) != nil {
			return
		}
		got, err := readSums(resp, spans)
		if err != nil {
			return
		}
		if len(got) != spans {
			t.Fatalf("read %d spans, want %d", len(got), spans)
		}
		again, err := readSums(sumsMessage(got), spans)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if !slices.Equal(got[i], again[i]) {
				t.Fatalf("span %d: read %v, written and read again %v", i, got[i], again[i])
			}
		}
	})
}

// FuzzReadFloors reads whatever a node, or a coordinator, may say of floors.
func FuzzReadFloors(f *testing.F) {
	for _, m := range []*storagepb.FloorsResponse{
		{}, {Floors: floorMessages([]coord.RangeFloor{{Range: 1, Timestamp: 2}, {Range: 4095, Timestamp: 1 << 62}})},
		{Floors: []*storagepb.RangeFloor{{Range: 4096, Timestamp: 1}}}, {Floors: []*storagepb.RangeFloor{{Range: 1, Timestamp: -1}}},
	} {
		raw, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		resp := new(storagepb.FloorsResponse)
		if resp.UnmarshalVTUnsafe(raw) != nil {
			return
		}
		floors, err := readFloors(resp.Floors)
		if err != nil {
			return
		}
		for _, floor := range floors {
			if floor.Range >= 1<<coord.OwedRangeBits || floor.Timestamp <= 0 {
				t.Fatalf("read floor %d of range %d", floor.Timestamp, floor.Range)
			}
		}
		if again, err := readFloors(floorMessages(floors)); err != nil || !slices.Equal(again, floors) {
			t.Fatalf("read %v, written and read again %v, %v", floors, again, err)
		}
	})
}
