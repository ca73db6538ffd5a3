package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// asker is a coordinator that says what the test wants.
type asker struct {
	*frames
	t testing.TB
}

// greet connects to a node and reads its hello.
func greet(t testing.TB, address string) *asker {
	t.Helper()
	opts := StorageOptions{Address: address}.withDefaults()
	f, _, err := dialFrames(testContext(t), &opts, new(traffic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.conn.Close() })
	return &asker{f, t}
}

func (a *asker) ask(batch *storagepb.Batch) {
	a.t.Helper()
	if err := a.send(frameOperations, batch); err != nil {
		a.t.Fatal(err)
	}
}

func (a *asker) replies() (*storagepb.BatchReply, error) {
	kind, payload, err := a.next()
	if err != nil {
		return nil, err
	}
	if kind != frameReplies {
		return nil, fmt.Errorf("a frame of kind %d: %q", kind, payload)
	}
	m := new(storagepb.BatchReply)
	return m, m.UnmarshalVTUnsafe(bytes.Clone(payload))
}

// script connections say what they are told and take what is written.
type scripted struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (c *scripted) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *scripted) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// encoded are frames with payloads of these sizes, as they are written.
func encoded(t testing.TB, sizes ...int) []byte {
	t.Helper()
	c := new(scripted)
	f := newFrames(c)
	for i, size := range sizes {
		if err := f.sendText(byte(i+1), strings.Repeat(string(rune('a'+i)), size)); err != nil {
			t.Fatal(err)
		}
	}
	return c.out.Bytes()
}

// trickle returns a few bytes at a time.
type trickle struct {
	r    io.Reader
	most int
}

func (r *trickle) Read(p []byte) (int, error) { return r.r.Read(p[:min(len(p), r.most)]) }

func TestFramesArriveWhole(t *testing.T) {
	sizes := []int{0, 1, 100, readBuffer - headerBytes, readBuffer - headerBytes + 1, 5, keptBuffer + 1, 200_000, 3}
	raw := encoded(t, sizes...)
	for _, most := range []int{7, 4096, len(raw)} {
		f := newFrames(&scripted{in: &trickle{bytes.NewReader(raw), most}})
		for i, size := range sizes {
			kind, payload, err := f.next()
			if want := strings.Repeat(string(rune('a'+i)), size); err != nil || int(kind) != i+1 || string(payload) != want {
				t.Fatalf("at most %d bytes a read: frame %d: kind %d, %d bytes, %v", most, i, kind, len(payload), err)
			}
		}
		if _, _, err := f.next(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestAKeptFrameIsNotWrittenOver(t *testing.T) {
	f := newFrames(&scripted{in: bytes.NewReader(encoded(t, 100_000, 100_000))})
	_, first, err := f.next()
	if err != nil {
		t.Fatal(err)
	}
	f.keep()
	if _, _, err := f.next(); err != nil {
		t.Fatal(err)
	}
	if strings.Trim(string(first), "a") != "" {
		t.Error("the next frame was read into it")
	}
}

func TestCorruptFramesAreRefused(t *testing.T) {
	whole := encoded(t, 40)
	for at := range whole {
		for _, flip := range []byte{1, 0x80} {
			broken := bytes.Clone(whole)
			broken[at] ^= flip
			_, _, err := newFrames(&scripted{in: bytes.NewReader(broken)}).next()
			if !errors.Is(err, errCorruptFrame) && err != io.ErrUnexpectedEOF {
				t.Errorf("byte %d changed by %#x: %v", at, flip, err)
			}
		}
	}
	for cut := 1; cut < len(whole); cut++ {
		if _, _, err := newFrames(&scripted{in: bytes.NewReader(whole[:cut])}).next(); err != io.ErrUnexpectedEOF {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
	long := binary.LittleEndian.AppendUint32(make([]byte, 4), frameOperations<<24|(maxPayload+1))
	if _, _, err := newFrames(&scripted{in: bytes.NewReader(long)}).next(); !errors.Is(err, errCorruptFrame) {
		t.Errorf("too long: %v", err)
	}
}

func TestNodeSaysWhyItEndsAConnection(t *testing.T) {
	replica := newMemoryReplica()
	node := startStorage(t, replica)
	tooMany := &storagepb.Batch{Operations: make([]*storagepb.Operation, maxBatchOperations+1)}
	for i := range tooMany.Operations {
		tooMany.Operations[i] = &storagepb.Operation{Id: uint64(i)}
	}
	for want, spoil := range map[string]func(*asker) error{
		"operations, want at most": func(a *asker) error { return a.send(frameOperations, tooMany) },
		"kind 77":                  func(a *asker) error { return a.sendText(77, "") },
		"corrupt frame":            func(a *asker) error { return a.sendText(frameOperations, "\xff\xff\xff") },
		"its checksum differs":     func(a *asker) error { _, err := a.conn.Write(make([]byte, headerBytes)); return err },
	} {
		a := greet(t, node.address)
		if err := spoil(a); err != nil {
			t.Fatal(err)
		}
		if kind, payload, err := a.next(); err != nil || kind != frameBye || !strings.Contains(string(payload), want) {
			t.Errorf("got %d, %q, %v, want a farewell with %q", kind, payload, err, want)
		}
		if _, _, err := a.next(); err == nil {
			t.Errorf("%s: the connection goes on", want)
		}
	}
	if replica.started.Load() != 0 {
		t.Error("the replica was asked")
	}
}

func TestPingsAreAnswered(t *testing.T) {
	a := greet(t, startStorage(t, newMemoryReplica()).address)
	if err := a.sendText(framePing, ""); err != nil {
		t.Fatal(err)
	}
	if kind, payload, err := a.next(); err != nil || kind != framePong || len(payload) > 0 {
		t.Errorf("got %d, %q, %v", kind, payload, err)
	}
}

// spoiler changes one byte of what is read after so many.
type spoiler struct {
	net.Conn
	after int
}

func (c *spoiler) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.after < n && c.after >= 0 {
		p[c.after] ^= 1
	}
	c.after -= n
	return n, err
}

// A call that was sent is not sent again, whatever became of its answer.
func TestCorruptAnswerEndsTheConnection(t *testing.T) {
	replica := newMemoryReplica()
	node := startStorage(t, replica)
	spoil := 0
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil || spoil == 0 {
			return conn, err
		}
		return &spoiler{conn, spoil}, nil
	}
	opts := StorageOptions{Address: node.address, Dial: dial}.withDefaults()
	spoil = helloBytes(t, node.address) + headerBytes
	done := make(ended, 10)
	l := dialLink(&opts, new(nodeTime), new(traffic), linkBounds{calls: 8, bytes: 1 << 20, hungAfter: time.Second}, nil)
	defer l.close()
	eventually(t, "connected", func() bool { return l.unavailable() == nil })
	before := replica.started.Load()
	l.do(applyCall("k", version(1, []byte("v")), done))
	err := done.wait(t).Err
	wantKind(t, err, false, true)
	if !strings.Contains(err.Error(), "checksum") {
		t.Errorf("got %v", err)
	}
	eventually(t, "connected again", func() bool { return l.unavailable() == nil })
	if n := replica.started.Load() - before; n != 1 {
		t.Errorf("the node was asked %d times, want once", n)
	}
}

// helloBytes is how long a node's hello is on the wire.
func helloBytes(t *testing.T, address string) int {
	t.Helper()
	counted := &counter{}
	opts := StorageOptions{Address: address, Dial: func(ctx context.Context, address string) (_ net.Conn, err error) {
		counted.Conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return counted, err
	}}.withDefaults()
	f, _, err := dialFrames(testContext(t), &opts, new(traffic))
	if err != nil {
		t.Fatal(err)
	}
	f.conn.Close()
	return counted.n
}

type counter struct {
	net.Conn
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n += n
	return n, err
}

func TestNodeThatNeverSaysHelloIsNotUsed(t *testing.T) {
	lis := listen(t)
	defer lis.Close()
	client, err := DialStorage(StorageOptions{Address: lis.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	eventually(t, "the client says why", func() bool {
		err := client.Unavailable()
		return err != nil && strings.Contains(err.Error(), context.DeadlineExceeded.Error())
	})
}

func TestStaleRingTellsTheEpoch(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{})
	done := make(ended, 1)
	replica.failWith(fmt.Errorf("apply: %w", &coord.StaleRingError{Epoch: 1 << 40}))
	client.Do(applyCall("k", version(1, nil), done))
	err := done.wait(t).Err
	var stale *coord.StaleRingError
	if !errors.As(err, &stale) || stale.Epoch != 1<<40 {
		t.Errorf("got %v, want the ring's epoch", err)
	}
	wantKind(t, err, true, false)
}

// FuzzFrames reads whatever comes as frames, and those as messages.
func FuzzFrames(f *testing.F) {
	f.Add(encoded(f, 0, 3, 70_000))
	c := new(scripted)
	if err := newFrames(c).send(frameOperations, &storagepb.Batch{Operations: []*storagepb.Operation{{Id: 1, Key: "k"}}}); err != nil {
		f.Fatal(err)
	}
	f.Add(c.out.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		read := newFrames(&scripted{in: bytes.NewReader(raw)})
		for {
			kind, payload, err := read.next()
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, errCorruptFrame) {
					t.Fatalf("failed with %v", err)
				}
				return
			}
			again := new(scripted)
			if err := newFrames(again).sendText(kind, string(payload)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(raw, again.out.Bytes()) {
				t.Fatal("a frame that was read is written differently")
			}
			switch kind {
			case frameOperations:
				m := new(storagepb.Batch)
				if m.UnmarshalVTUnsafe(payload) == nil {
					shared := new(names)
					for _, op := range m.Operations {
						var task task
						_, _ = task.request(op, shared, new(keys), time.Now())
					}
				}
			case frameReplies:
				m := new(storagepb.BatchReply)
				if m.UnmarshalVTUnsafe(payload) == nil {
					for _, r := range m.Replies {
						_ = errorOf(r)
					}
				}
			}
		}
	})
}
