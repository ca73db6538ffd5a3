package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pairdb/coordinator/rpc/codec"
)

// Operations travel between coordinators and storage nodes in frames on a
// connection of their own, TCP or TLS over it. HTTP/2 costs each message two
// more goroutines at both ends, its own flow control and several writes.
//
// A coordinator begins with a greeting (protocol.go). From then on both sides
// send frames: a header, and a message of storage.proto or a text.
//
//	bytes 0-3  CRC-32C of all that follows, little-endian
//	bytes 4-7  kind of the frame (8 bits) and length of the payload (24 bits), little-endian
//
// The node's first frame is a hello. TCP is the flow control: a side that has
// too much under way does not read.
const (
	headerBytes = 8
	// maxPayload is what a receiver takes in one frame.
	maxPayload = MaxValueBytes + messageSlack
	// readBuffer is how much is read at once. Longer frames get memory of their own.
	readBuffer = 64 << 10
	// keptBuffer is how long a frame may be for its memory to be used again.
	keptBuffer = 1 << 20
)

// The kinds of frames.
const (
	frameHello      = 1 // storagepb.Hello
	frameOperations = 2 // storagepb.Batch
	frameReplies    = 3 // storagepb.BatchReply
	framePing       = 4 // asks for a pong; empty
	framePong       = 5 // storagepb.Hello, of the node's clock and life alone
	frameBye        = 6 // the sender sends no more; a text says why

	// frameOptional is the first of the kinds that a receiver skips where it
	// does not know them.
	frameOptional = 128
)

var (
	errCorruptFrame = errors.New("corrupt frame")
	castagnoli      = crc32.MakeTable(crc32.Castagnoli)
)

// byeError is why the other side said that it sends no more.
type byeError struct{ text string }

func (e *byeError) Error() string { return e.text }

// frames reads and writes the frames of a connection. One goroutine may read,
// any may write.
type frames struct {
	conn     net.Conn
	protocol byte // the version that is spoken

	buffer   []byte
	from, to int    // of buffer: what was read and is not yet returned
	long     []byte // a frame too long for buffer
	memory   *memory
	silence  renewal

	writing sync.Mutex
	out     []byte
	stall   renewal
}

// Times of a connection for operations.
const (
	// pingEvery is how often a coordinator asks for a sign of life.
	pingEvery = 5 * time.Second
	// maxSilence is for how long nothing may come from the other side.
	maxSilence = 3 * pingEvery
	// maxStall is for how long a frame may wait for the other side to read.
	maxStall = 2 * maxSilence
)

func newFrames(conn net.Conn) *frames {
	return &frames{conn: conn, buffer: make([]byte, readBuffer), silence: renewal{within: maxSilence}, stall: renewal{within: maxStall}}
}

// renewal moves a deadline of a connection on, about once a second and not with
// every message.
type renewal struct {
	within time.Duration
	due    time.Time
}

func (r *renewal) renew(set func(time.Time) error) error {
	now := time.Now()
	if now.Before(r.due) {
		return nil
	}
	r.due = now.Add(time.Second)
	return set(now.Add(r.within))
}

func checksum(kindAndLength, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(kindAndLength, castagnoli), castagnoli, payload)
}

// next reads a frame. Its payload is valid until the call after this one, or
// for good where keep is called in between. At the orderly end of the
// connection the error is io.EOF.
func (f *frames) next() (kind byte, payload []byte, err error) {
	for f.to-f.from < headerBytes {
		if err := f.fill(); err != nil {
			return 0, nil, err
		}
	}
	header := f.buffer[f.from : f.from+headerBytes]
	length := int(binary.LittleEndian.Uint32(header[4:]) & 0xffffff)
	kind = header[7]
	if length > maxPayload {
		return 0, nil, fmt.Errorf("%w: %d bytes long, want at most %d", errCorruptFrame, length, maxPayload)
	}
	sum := binary.LittleEndian.Uint32(header)
	kindAndLength := [4]byte(header[4:])
	if headerBytes+length <= len(f.buffer) {
		for f.to-f.from < headerBytes+length {
			if err := f.fill(); err != nil {
				return 0, nil, noEOF(err)
			}
		}
		end := f.from + headerBytes + length
		payload = f.buffer[f.from+headerBytes : end : end]
		f.from = end
	} else if payload, err = f.readLong(length); err != nil {
		return 0, nil, noEOF(err)
	}
	if checksum(kindAndLength[:], payload) != sum {
		return 0, nil, fmt.Errorf("%w: its checksum differs", errCorruptFrame)
	}
	return kind, payload, nil
}

// fill reads what there is into the buffer.
func (f *frames) fill() error {
	if f.from > 0 {
		f.to = copy(f.buffer, f.buffer[f.from:f.to])
		f.from = 0
	}
	if err := f.silence.renew(f.conn.SetReadDeadline); err != nil {
		return err
	}
	n, err := f.conn.Read(f.buffer[f.to:])
	f.to += n
	if n > 0 {
		return nil // an error comes again
	}
	if err == io.EOF && f.to > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (f *frames) readLong(length int) ([]byte, error) {
	if cap(f.long) < length || cap(f.long) > keptBuffer {
		f.memory.put(f.long)
		f.long = f.memory.get(length)
	}
	payload := f.long[:length:length]
	had := copy(payload, f.buffer[f.from+headerBytes:f.to])
	f.from, f.to = 0, 0
	for had < length {
		if err := f.silence.renew(f.conn.SetReadDeadline); err != nil {
			return nil, err
		}
		n, err := f.conn.Read(payload[had:])
		had += n
		if err != nil && had < length {
			return nil, err
		}
	}
	return payload, nil
}

// skips tells whether a frame of an unknown kind is none of this side's business.
func (f *frames) skips(kind byte) bool { return f.protocol >= 2 && kind >= frameOptional }

// keep leaves the memory of the last frame to those who point into it, and
// returns it. It is a long frame's: what is pointed to is longer than the buffer.
func (f *frames) keep() []byte {
	kept := f.long
	f.long = nil
	return kept
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// send writes a message, all of it at once.
func (f *frames) send(kind byte, m codec.Message) error {
	size := m.SizeVT()
	f.writing.Lock()
	defer f.writing.Unlock()
	payload, err := f.room(size, size)
	if err != nil {
		return err
	}
	if _, err := m.MarshalToSizedBufferVT(payload); err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	return f.write(kind, nil)
}

// sendText writes a frame that holds a text, or nothing.
func (f *frames) sendText(kind byte, text string) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	payload, err := f.room(len(text), len(text))
	if err != nil {
		return err
	}
	copy(payload, text)
	return f.write(kind, nil)
}

// room is where the payload of the frame to be written goes: of size bytes, or
// as much of them as is not written from elsewhere.
func (f *frames) room(size, here int) ([]byte, error) {
	if size > maxPayload {
		return nil, fmt.Errorf("encode frame: %d bytes long, want at most %d", size, maxPayload)
	}
	if need := headerBytes + here; cap(f.out) < need {
		f.out = make([]byte, max(need+need/4, 4<<10))
	}
	f.out = f.out[:headerBytes+here]
	return f.out[headerBytes:], nil
}

// write sends the frame whose payload is what room gave, then rest.
func (f *frames) write(kind byte, rest []byte) error {
	here := f.out[headerBytes:]
	binary.LittleEndian.PutUint32(f.out[4:], uint32(kind)<<24|uint32(len(here)+len(rest)))
	sum := crc32.Update(checksum(f.out[4:headerBytes], here), castagnoli, rest)
	binary.LittleEndian.PutUint32(f.out, sum)
	err := f.stall.renew(f.conn.SetWriteDeadline)
	if err == nil {
		_, err = f.conn.Write(f.out)
	}
	if err == nil && len(rest) > 0 {
		_, err = f.conn.Write(rest)
	}
	if cap(f.out) > keptBuffer {
		f.out = nil
	}
	return err
}
