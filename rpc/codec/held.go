package codec

import (
	"runtime"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// heldAbove is the size in bytes above which a message counts as held until it
// is sent: gRPC keeps what a client does not read.
const heldAbove = 64 << 10

// Booking is New with a book of what was encoded and is not sent yet: it is told
// the bytes of each large message, and the same number, negative, when gRPC has
// let go of it. It must be safe for concurrent use.
func Booking(book func(bytes int)) Codec {
	c := New()
	c.book = book
	return c
}

// hold books a message.
func (c Codec) hold(data mem.BufferSlice) mem.BufferSlice {
	if c.book == nil || len(data) != 1 || data.Len() <= heldAbove {
		return data
	}
	raw := data[0].ReadOnlyData()
	h := &held{inner: data[0], size: len(raw), book: c.book}
	c.book(h.size)
	whole := &raw
	// Of a connection that breaks gRPC drops buffers without a word.
	h.dropped = runtime.AddCleanup(whole, (*held).letGo, h)
	return mem.BufferSlice{mem.NewBuffer(whole, h)}
}

// held is a buffer that was booked, as the pool that its cover returns to.
type held struct {
	inner   mem.Buffer
	size    int
	book    func(int)
	done    atomic.Bool
	dropped runtime.Cleanup
}

func (h *held) letGo() {
	if !h.done.Swap(true) {
		h.book(-h.size)
	}
}

// Get is not used.
func (h *held) Get(length int) *[]byte { return mem.DefaultBufferPool().Get(length) }

// Put takes the buffer back.
func (h *held) Put(*[]byte) {
	h.dropped.Stop()
	h.letGo()
	h.inner.Free()
}
