// Package codec encodes messages for gRPC by their generated code, which
// neither reflects nor copies more than it must.
package codec

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Message is a message with generated code that, when it is decoded, does not
// copy: its strings and bytes point into the input.
type Message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVTUnsafe([]byte) error
}

// Inbound is a message to be received whose fields point into gRPC's buffer,
// for a receiver that copies what it keeps and then frees the buffer.
type Inbound struct {
	Message Message
	buffer  mem.Buffer
}

// Free gives the buffer back. The message's fields are invalid after it.
func (in *Inbound) Free() {
	if in.buffer != nil {
		in.buffer.Free()
		in.buffer = nil
	}
}

// Detach leaves the buffer to the garbage collector, because something that
// lives on points into it.
func (in *Inbound) Detach() { in.buffer = nil }

// Tolerant is a message to be received (an *Inbound too) that notes why it
// cannot be decoded. gRPC would answer INTERNAL by itself, where the fault is
// the sender's.
type Tolerant struct {
	Message any
	// Check, where it is set, looks at an encoded Message before it is decoded.
	Check func([]byte) error
	Fault error
}

// Encoded is a message that was encoded already, to be sent once.
type Encoded struct{ data mem.BufferSlice }

// Encode makes e what m is now; m may be changed after it.
func (e *Encoded) Encode(m Message) error {
	buffer, err := marshal(m)
	if err != nil {
		return err
	}
	e.data = mem.BufferSlice{buffer}
	return nil
}

// Encode makes what m is now, for one use; m may be changed after it.
func Encode(m Message) (*Encoded, error) {
	buffer, err := marshal(m)
	if err != nil {
		return nil, err
	}
	// gRPC holds on to the slice until it has written it.
	once := &struct {
		Encoded
		data [1]mem.Buffer
	}{data: [1]mem.Buffer{buffer}}
	once.Encoded.data = once.data[:]
	return &once.Encoded, nil
}

// Codec encodes Messages by their generated code and every other message
// (reflection, health) as gRPC does by itself.
type Codec struct {
	standard encoding.CodecV2
	book     func(bytes int) // nil: nothing is booked
}

// New makes a codec.
func New() Codec { return Codec{standard: encoding.GetCodecV2(proto.Name)} }

// Name is the content subtype, the same as that of gRPC's own codec.
func (Codec) Name() string { return proto.Name }

// Marshal encodes v into one buffer, from gRPC's pool where it is large.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *Encoded:
		data := m.data
		m.data = nil
		return c.hold(data), nil
	case Message:
		buffer, err := marshal(m)
		if err != nil {
			return nil, err
		}
		return c.hold(mem.BufferSlice{buffer}), nil
	}
	return c.standard.Marshal(v)
}

func marshal(m Message) (mem.Buffer, error) {
	size := m.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		buf := make([]byte, size)
		if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
			return nil, err
		}
		return mem.SliceBuffer(buf), nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.NewBuffer(buf, pool), nil
}

// Unmarshal decodes a Message from a buffer that nobody uses again, which lives
// as long as any of the message's fields, and an Inbound one from gRPC's buffer.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*Tolerant); ok {
		m.Fault = c.unmarshal(data, m.Message, m.Check)
		return nil
	}
	return c.unmarshal(data, v, nil)
}

func (c Codec) unmarshal(data mem.BufferSlice, v any, check func([]byte) error) error {
	var raw []byte
	var message Message
	switch m := v.(type) {
	case *Inbound:
		m.Free()
		m.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
		raw, message = m.buffer.ReadOnlyData(), m.Message
	case Message:
		raw, message = own(data), m
	default:
		return c.standard.Unmarshal(data, v)
	}
	if check != nil {
		if err := check(raw); err != nil {
			return err
		}
	}
	return message.UnmarshalVTUnsafe(raw)
}

// own is data as bytes that live on by themselves. Data of one plain slice, as
// small messages are, comes from no pool and needs no copy.
func own(data mem.BufferSlice) []byte {
	if len(data) == 1 {
		if plain, ok := data[0].(mem.SliceBuffer); ok {
			return plain
		}
	}
	return data.Materialize()
}
