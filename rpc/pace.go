package rpc

import (
	"net"
	"sync/atomic"
	"time"
)

// To move a large value takes milliseconds of a processor at each hop. Where it
// moves as fast as it can, small operations queue behind it meanwhile, and a
// machine that had little to spare works that queue off for ten times as long.
// So it moves in pieces, with a rest after each, while others are served too.
// Beside two values of 10 MiB a second, at half of the peak, small operations had
// a p99 of 55 to 62 ms, and have one of 6 to 18 with pieces, in turns.
const (
	pieceBytes = 64 << 10
	// pieceTime is what a piece takes at least while others are served, which
	// leaves a connection 94 MB/s.
	pieceTime = 700 * time.Microsecond
	// sharedFor is how long others count as served after they were: those who
	// wait because of what is moved must not seem to be gone.
	sharedFor = 20 * time.Millisecond
	// smallRead is what is read at once, at most, by who is served between pieces.
	smallRead = 8 << 10
)

// traffic counts the small reads of connections that share it.
type traffic struct{ reads atomic.Uint64 }

// pacedConn is a connection that moves what is much in pieces while others are
// traffic. As with every net.Conn, its methods may be called by several
// goroutines, but Read only by one at a time, and so Write.
type pacedConn struct {
	net.Conn
	shared           *traffic
	own              atomic.Uint64 // of shared.reads
	reading, writing pace
}

func paced(conn net.Conn, shared *traffic) *pacedConn {
	return &pacedConn{Conn: conn, shared: shared}
}

func (c *pacedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), pieceBytes)])
	if 0 < n && n <= smallRead {
		c.own.Add(1)
		c.shared.reads.Add(1)
	}
	c.reading.moved(n, c)
	return n, err
}

func (c *pacedConn) Write(p []byte) (written int, err error) {
	for {
		n, err := c.Conn.Write(p[written:min(len(p), written+pieceBytes)])
		written += n
		c.writing.moved(n, c)
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// others is how often others have been served.
func (c *pacedConn) others() uint64 { return c.shared.reads.Load() - c.own.Load() }

// pace is that of one direction of a connection.
type pace struct {
	bytes  int       // of the piece that is moved
	since  time.Time // it is moved
	others uint64    // how often they had been served then
	shared time.Time // until then, because others have been served lately
}

// moved notes bytes, and rests where they were a piece that took less than
// pieceTime.
func (p *pace) moved(n int, c *pacedConn) {
	if p.bytes += n; p.bytes < pieceBytes {
		return
	}
	now := time.Now()
	if others := c.others(); others != p.others {
		p.others, p.shared = others, now.Add(sharedFor)
	}
	least := pieceTime * time.Duration(p.bytes) / pieceBytes
	if rest := least - now.Sub(p.since); rest > 0 && now.Before(p.shared) {
		time.Sleep(rest)
		now = time.Now()
	}
	p.bytes, p.since = 0, now
}
