package rpc

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace moves much over a paced connection, alone and while others are
// served, in virtual time.
func TestPace(t *testing.T) {
	much := make([]byte, 16*pieceBytes)
	for i := range much {
		much[i] = byte(rand.Uint32())
	}
	least := (len(much)/pieceBytes - 1) * int(pieceTime) // nothing is waited for before the first piece
	pipe := func(t *testing.T, shared *traffic) (near, far net.Conn) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		return paced(a, shared), b
	}
	for what, move := range map[string]func(near, far net.Conn) []byte{
		"written": func(near, far net.Conn) []byte {
			var group sync.WaitGroup
			group.Go(func() {
				if n, err := near.Write(much); n != len(much) || err != nil {
					t.Errorf("wrote %d bytes, %v", n, err)
				}
			})
			defer group.Wait()
			return readFull(t, far, len(much))
		},
		"read": func(near, far net.Conn) []byte {
			var group sync.WaitGroup
			group.Go(func() {
				if n, err := far.Write(much); n != len(much) || err != nil {
					t.Errorf("wrote %d bytes, %v", n, err)
				}
			})
			defer group.Wait()
			return readFull(t, near, len(much))
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := new(traffic)
				near, far := pipe(t, shared)
				took := func() time.Duration {
					began := time.Now()
					if !bytes.Equal(move(near, far), much) {
						t.Error("other bytes arrived")
					}
					return time.Since(began)
				}
				if d := took(); d != 0 {
					t.Errorf("it took %v with nobody else there", d)
				}
				// Another is served now and then, more rarely than pieces are moved.
				other, client := pipe(t, shared)
				var group sync.WaitGroup
				group.Go(func() {
					for err := error(nil); err == nil; time.Sleep(sharedFor / 2) {
						_, err = other.Read(make([]byte, 100))
					}
				})
				group.Go(func() {
					for err := error(nil); err == nil; {
						_, err = client.Write(make([]byte, 100))
					}
				})
				synctest.Wait()
				if d := took(); d < time.Duration(least) {
					t.Errorf("it took %v beside others, want at least %v", d, time.Duration(least))
				}
				other.Close()
				group.Wait()
				took() // the first piece finds out
				time.Sleep(sharedFor)
				if d := took(); d != 0 {
					t.Errorf("it took %v after the others had gone", d)
				}
			})
		})
	}
}

func readFull(t *testing.T, c net.Conn, n int) []byte {
	p := make([]byte, n)
	if _, err := io.ReadFull(c, p); err != nil {
		t.Errorf("read: %v", err)
	}
	return p
}
