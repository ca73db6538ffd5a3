//go:build !race

// The race detector learns from package net that what is sent comes before what
// is received, which it would not from these calls.

package rpc

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quick makes reads and writes of a TCP connection cheaper, where it can. Go
// tells its scheduler of each system call, in case it blocks, which wakes the
// runtime's monitor thread whenever the process was idle before: for a process
// that answers small messages that is up to a fifth of its processor time. A socket
// in non-blocking mode never blocks, so a short call need not be told of.
func quick(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	c := &quickConn{TCPConn: tcp, raw: raw}
	c.reading = transfer{call: unix.SYS_READ}
	c.writing = transfer{call: unix.SYS_WRITE}
	c.reading.try, c.writing.try = c.reading.once, c.writing.once
	return c
}

// quickBytes bounds what is copied without telling the scheduler, which could
// not use the processor for others meanwhile.
const quickBytes = 64 << 10

// quickConn is a TCP connection that quick has made.
type quickConn struct {
	*net.TCPConn
	raw              syscall.RawConn
	reading, writing transfer
}

func (c *quickConn) Read(p []byte) (int, error) {
	if len(p) == 0 || len(p) > quickBytes {
		return c.TCPConn.Read(p)
	}
	n, err := c.reading.do(c.raw.Read, p)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, c.explain("read", err)
}

func (c *quickConn) Write(p []byte) (int, error) {
	if len(p) > quickBytes {
		return c.TCPConn.Write(p)
	}
	written := 0
	for written < len(p) {
		n, err := c.writing.do(c.raw.Write, p[written:])
		written += n
		if err != nil {
			return written, c.explain("write", err)
		}
	}
	return written, nil
}

// explain gives an error the form that package net gives it.
func (c *quickConn) explain(op string, err error) error {
	if _, ok := err.(syscall.Errno); !ok {
		return err
	}
	return &net.OpError{
		Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(),
		Err: os.NewSyscallError(op, err),
	}
}

// transfer is one direction of a connection.
type transfer struct {
	call uintptr

	mu  sync.Mutex
	p   []byte // of the call under way
	n   int
	err error
	try func(fd uintptr) bool // once; made only once, so that a call allocates nothing
}

// do makes the call as soon as the socket is ready for it.
func (t *transfer) do(whenReady func(func(uintptr) bool) error, p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.n, t.err = p, 0, nil
	err := whenReady(t.try)
	t.p = nil
	if err == nil {
		err = t.err
	}
	return t.n, err
}

// once reports false where the socket is not ready.
func (t *transfer) once(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(t.call, fd, uintptr(unsafe.Pointer(&t.p[0])), uintptr(len(t.p)))
		switch errno {
		case 0:
			t.n = int(n)
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			t.err = errno
			return true
		}
	}
}
