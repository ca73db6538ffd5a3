package rpc

import "sync"

// memory is that of long frames, to be used again: what is fresh costs a
// machine several times what is already there, since its pages are missing.
// The garbage collector takes what nobody has used between two of its runs. The zero
// value is ready; its methods are safe for concurrent use.
type memory struct{ unused sync.Pool } // of *[]byte, each longer than keptBuffer

// get returns length bytes of any content. A nil memory makes them.
func (m *memory) get(length int) []byte {
	if m == nil {
		return make([]byte, length)
	}
	if b, _ := m.unused.Get().(*[]byte); b != nil && cap(*b) >= length {
		return (*b)[:length]
	}
	return make([]byte, length, (length+keptBuffer-1)/keptBuffer*keptBuffer)
}

// put takes what get has returned, when nobody uses it any more.
func (m *memory) put(b []byte) {
	if m != nil && cap(b) > keptBuffer {
		kept := b // or each call would allocate b
		m.unused.Put(&kept)
	}
}
