package rpc

import (
	"net"
	"sync"
	"sync/atomic"
)

// limitListener closes connections beyond max at once, and counts them. Those
// within it are paced.
type limitListener struct {
	net.Listener
	max     int64
	open    *atomic.Int64
	refused *atomic.Int64
	traffic traffic
}

// Accept waits for a connection that is within the limit.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.max {
			return &countedConn{Conn: paced(quick(conn), &l.traffic), open: l.open}, nil
		}
		l.open.Add(-1)
		l.refused.Add(1)
		// The peer sees the connection end; why is in the coordinator's metrics.
		_ = conn.Close()
	}
}

type countedConn struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
