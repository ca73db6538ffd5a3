package rpc

import (
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// fastMessage is a message with generated code that neither reflects nor,
// when it is decoded, copies: its strings and bytes point into the input.
type fastMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVTUnsafe([]byte) error
}

// inbound is a message to be received whose fields point into buffer, for a
// receiver that copies what it keeps and then frees the buffer.
type inbound struct {
	message fastMessage
	buffer  mem.Buffer
}

// free gives the buffer back. The message's fields are invalid after it.
func (in *inbound) free() {
	if in.buffer != nil {
		in.buffer.Free()
		in.buffer = nil
	}
}

// detach leaves the buffer to the garbage collector, because something that
// lives on points into it.
func (in *inbound) detach() { in.buffer = nil }

// tolerant is a message to be received that notes why it cannot be decoded.
// gRPC would answer INTERNAL by itself, where the fault is the sender's.
type tolerant struct {
	message any
	fault   error
}

// codec encodes fastMessages by their generated code and every other message
// (reflection, health) as gRPC does by itself.
type codec struct {
	standard encoding.CodecV2
}

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

// Name is the content subtype, the same as that of gRPC's own codec.
func (codec) Name() string { return encodingproto.Name }

// Marshal encodes v into one buffer, from gRPC's pool where it is large.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(fastMessage)
	if !ok {
		return c.standard.Marshal(v)
	}
	size := m.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		buf := make([]byte, size)
		if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal decodes a fastMessage from a buffer of its own, which lives as long
// as any of the message's fields, and an inbound one from gRPC's buffer.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *tolerant:
		m.fault = c.Unmarshal(data, m.message)
		return nil
	case *inbound:
		m.free()
		m.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
		return m.message.UnmarshalVTUnsafe(m.buffer.ReadOnlyData())
	case fastMessage:
		return m.UnmarshalVTUnsafe(data.Materialize())
	}
	return c.standard.Unmarshal(data, v)
}
