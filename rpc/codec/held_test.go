package codec

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// What is large is booked until gRPC frees it, or drops it.
func TestBooking(t *testing.T) {
	var booked atomic.Int64
	c := Booking(func(n int) { booked.Add(int64(n)) })
	encode := func(size int) mem.BufferSlice {
		t.Helper()
		data, err := c.Marshal(&coordinatorpb.ReadKeyValueResponse{Value: make([]byte, size)})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	small := encode(100)
	if booked.Load() != 0 {
		t.Errorf("%d bytes are booked of a small message", booked.Load())
	}
	small.Free()
	large := encode(1 << 20)
	if n := booked.Load(); n != int64(large.Len()) {
		t.Errorf("%d bytes are booked, want %d", n, large.Len())
	}
	// gRPC takes a message apart as it is sent.
	parts := large[0]
	parts.Ref()
	large.Free()
	if booked.Load() == 0 {
		t.Error("it is let go while somebody holds it")
	}
	parts.Free()
	if n := booked.Load(); n != 0 {
		t.Errorf("%d bytes are booked after it was freed", n)
	}

	encode(1 << 20) // and drop it
	for end := time.Now().Add(10 * time.Second); booked.Load() != 0; time.Sleep(time.Millisecond) {
		if runtime.GC(); time.Now().After(end) {
			t.Fatalf("%d bytes stay booked of a message that was dropped", booked.Load())
		}
	}
}
