package rpc

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
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
	least := time.Duration(len(much)/pieceBytes-1) * pieceTime // nothing is waited for before the first piece
	pipe := func(t *testing.T, shared *traffic) (near, far net.Conn) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		return paced(a, shared), b
	}
	for what, pick := range map[string]func(near, far net.Conn) (from, to net.Conn){
		"written": func(near, far net.Conn) (from, to net.Conn) { return near, far },
		"read":    func(near, far net.Conn) (from, to net.Conn) { return far, near },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := new(traffic)
				from, to := pick(pipe(t, shared))
				took := func() time.Duration {
					began := time.Now()
					var group sync.WaitGroup
					group.Go(func() {
						if n, err := from.Write(much); n != len(much) || err != nil {
							t.Errorf("wrote %d bytes, %v", n, err)
						}
					})
					got := make([]byte, len(much))
					if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, much) {
						t.Errorf("other bytes arrived: %v", err)
					}
					group.Wait()
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
				if d := took(); d < least {
					t.Errorf("it took %v beside others, want at least %v", d, least)
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

// TestConnectionsArePaced: those of a server with each other, and those to a
// node with each other.
func TestConnectionsArePaced(t *testing.T) {
	limited := &limitListener{Listener: listen(t), max: 2, open: new(atomic.Int64), refused: new(atomic.Int64)}
	var accepted [2]*pacedConn
	for i := range accepted {
		client, err := net.Dial("tcp", limited.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		conn, err := limited.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		accepted[i] = conn.(*countedConn).Conn.(*pacedConn)
	}
	if _, err := accepted[0].Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if own, other := accepted[0].others(), accepted[1].others(); own != 0 || other != 1 {
		t.Errorf("who was read from knows of %d reads of others, another of %d; want 0 and 1", own, other)
	}

	client := startStorage(t, newMemoryReplica()).connect(StorageOptions{})
	if client.small.traffic != client.large.traffic {
		t.Error("the link for large values does not know of the one for small ones")
	}
	done := make(ended, 1)
	before := client.small.traffic.reads.Load()
	client.Do(applyCall("k", version(5, nil), done))
	if c := done.wait(t); c.Err != nil {
		t.Fatal(c.Err)
	}
	if client.small.traffic.reads.Load() == before {
		t.Error("an answer of the node was not counted")
	}
}
