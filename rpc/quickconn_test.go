package rpc

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

// tcpPair is two ends of a TCP connection, both quick.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	dialed, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return quick(dialed), quick(accepted)
}

// A quick connection keeps what net.Conn promises: deadlines, concurrent use,
// how it ends.
func TestQuickConnections(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		a, b = tcpPair(t)
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

// What does not fit into the socket's buffer is written once there is room.
func TestQuickWritesAreWhole(t *testing.T) {
	a, b := tcpPair(t)
	const piece, pieces = 64 << 10, 512
	sent := make(chan error, 1)
	go func() {
		for i := range pieces {
			if n, err := a.Write(bytes.Repeat([]byte{byte(i)}, piece)); err != nil || n != piece {
				sent <- errors.Join(err, io.ErrShortWrite)
				return
			}
		}
		sent <- a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || len(got) != piece*pieces {
		t.Fatalf("read %d bytes of %d: %v", len(got), piece*pieces, err)
	}
	for i := range pieces {
		if got[i*piece] != byte(i) || got[(i+1)*piece-1] != byte(i) {
			t.Fatalf("piece %d is another's", i)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// A failed call tells of it as package net does.
func TestQuickErrors(t *testing.T) {
	a, b := tcpPair(t)
	if err := b.(interface{ SetLinger(int) error }).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	b.Close() // a reset
	_, err := a.Read(make([]byte, 1))
	var failure *net.OpError
	if !errors.As(err, &failure) || failure.Op != "read" || failure.Addr == nil {
		t.Errorf("read after a reset: %#v, want a net.OpError of a read", err)
	}
	a.Close()
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v, want %v", err, net.ErrClosed)
	}
}

func TestQuickConnectionsDoNotAllocate(t *testing.T) {
	a, b := tcpPair(t)
	message := make([]byte, 100)
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := a.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, message); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("a write and a read allocate %v times", allocs)
	}
}
