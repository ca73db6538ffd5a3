package redis

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"

	"github.com/pairdb/coordinator/backends/redistest"
)

// A dialer of one's own secures the connections, each with what it knows then.
func TestDial(t *testing.T) {
	server := redistest.Start(t, redistest.Options{TLS: true})
	var dialed atomic.Int64
	opts := Options{Addresses: []string{server.Addr()}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed.Add(1)
		return (&tls.Dialer{Config: server.ClientTLS()}).DialContext(ctx, network, address)
	}}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if dialed.Load() == 0 {
		t.Error("it was not used")
	}
}
