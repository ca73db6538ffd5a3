package rpc

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Tests of clients that mean harm are short by default; make hostile runs them
// at full size.
var (
	hostileConnections = flag.Int("hostile.connections", 500, "idle connections")
	hostileResets      = flag.Int("hostile.resets", 20_000, "streams that are reset at once")
	hostileStreams     = flag.Int("hostile.streams", 200, "answers of 1 MiB that nobody reads")
)

// largeValue1M is what reads find in these tests.
const largeValue1M = 1 << 20

// victim is a server on a real socket, and a client of its own that must be
// served meanwhile.
type victim struct {
	t       *testing.T
	server  *Server
	address string
	client  coordinatorpb.CoordinatorServiceClient
}

func startVictim(t *testing.T, opts Options) *victim {
	t.Helper()
	opts.Engine = &script{
		write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
			return coord.WriteResult{Level: coord.Quorum}, nil
		},
		read: func(context.Context, coord.ReadRequest) (coord.ReadResult, error) {
			return coord.ReadResult{Value: make([]byte, largeValue1M)}, nil
		},
	}
	server, err := NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Stop(ctx)
		<-served
	})
	v := &victim{t: t, server: server, address: lis.Addr().String()}
	v.client = coordinatorpb.NewCoordinatorServiceClient(dial(t, v.address))
	v.isServed("before")
	return v
}

// isServed fails unless the well-behaved client is served in good time.
func (v *victim) isServed(when string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := v.client.WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{TenantId: "good", Key: "k"}); err != nil {
		v.t.Errorf("%s: the well-behaved client: %v", when, err)
	}
}

// attack opens a connection that speaks HTTP/2 by hand.
func (v *victim) attack() (net.Conn, *http2.Framer) {
	v.t.Helper()
	conn, err := net.Dial("tcp", v.address)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { conn.Close() })
	framer := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		v.t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		v.t.Fatal(err)
	}
	return conn, framer
}

// heap is the live heap in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func headers(t *testing.T, path string, more ...hpack.HeaderField) []byte {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "a"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		if err := encoder.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	return block.Bytes()
}

const writePath = "/pairdb.coordinator.v1.CoordinatorService/WriteKeyValue"

// Idle connections cost little, and beyond max_connections nothing.
func TestIdleConnections(t *testing.T) {
	n := *hostileConnections
	v := startVictim(t, Options{MaxConnections: n + 10})
	before := heap()
	for range n {
		v.attack()
	}
	eventually(t, "all are connected", func() bool { return v.server.Connections() >= n })
	v.isServed("with idle connections")
	each := (heap() - before) / int64(n)
	t.Logf("%d idle connections, %d bytes each", n, each)
	if most := int64(128 << 10); each > most {
		t.Errorf("an idle connection costs %d bytes, want at most %d", each, most)
	}
	for range 20 {
		conn, err := net.Dial("tcp", v.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	eventually(t, "some are refused", func() bool { return v.server.RefusedConnections() > 0 })
	v.isServed("beyond the limit")
}

// Streams that are reset as soon as they are opened (CVE-2023-44487).
func TestRapidResets(t *testing.T) {
	v := startVictim(t, Options{})
	before := heap()
	conn, framer := v.attack()
	go io.Copy(io.Discard, conn)
	block := headers(t, writePath)
	for i := range *hostileResets {
		id := uint32(2*i + 1)
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
		if err == nil {
			err = framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			break // the server has had enough of it
		}
		if i%1000 == 0 {
			v.isServed("during resets")
		}
	}
	v.isServed("after resets")
	eventually(t, "what they cost is given back", func() bool { return heap()-before < 8<<20 })
}

// Headers without end are cut off early, and are not kept.
func TestHugeHeaders(t *testing.T) {
	v := startVictim(t, Options{})
	before := heap()
	for range 8 {
		conn, framer := v.attack()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			io.Copy(io.Discard, conn)
		}()
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(t, writePath)}); err != nil {
			t.Fatal(err)
		}
		// A literal field without indexing, again and again, 16 MiB in all.
		field := append([]byte{0x00, 0x01, 'a', 0x7f, 0x80, 0x7e}, bytes.Repeat([]byte{'b'}, 16255)...)
		sent := 0
		for sent < 16<<20 && framer.WriteContinuation(1, false, field) == nil {
			sent += len(field)
		}
		_ = framer.WriteContinuation(1, true, nil) // the connection may be gone
		v.isServed("during huge headers")
		conn.Close()
		<-ended
	}
	eventually(t, "what they cost is given back", func() bool { return heap()-before < 8<<20 })
}

// Clients that ask for large values and do not read them cost no more than what
// may be held; others are served.
func TestAnswersThatNobodyReads(t *testing.T) {
	const most = 32 << 20
	v := startVictim(t, Options{MaxHeldBytes: most})
	before := heap()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// A window so small that hardly anything is sent.
	conn := dial(t, v.address, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
	client := coordinatorpb.NewCoordinatorServiceClient(conn)
	var failed atomic.Int64
	for range *hostileStreams {
		go func() {
			// Not reading is simulated by a connection whose window is full: the
			// first answers fill it, and a Pipeline that is never read keeps it so.
			stream, err := client.Pipeline(ctx)
			if err != nil {
				failed.Add(1)
				return
			}
			var ops []*coordinatorpb.PipelineOperation
			for i := range 4 {
				ops = append(ops, &coordinatorpb.PipelineOperation{Id: uint64(i), Kind: coordinatorpb.PipelineOperation_KIND_READ, TenantId: "bad", Key: "k"})
			}
			_ = stream.Send(&coordinatorpb.PipelineRequest{Operations: ops})
		}()
	}
	eventually(t, "answers wait", func() bool { return v.server.Limiter().Bytes() > most/8 })
	v.isServed("while nobody reads")
	peak := int64(0)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		peak = max(peak, v.server.Limiter().Bytes())
		v.isServed("while nobody reads")
	}
	grown := heap() - before
	t.Logf("%d MiB wait, %d MiB of heap", peak>>20, grown>>20)
	if peak > most || grown > 4*most {
		t.Errorf("%d MiB wait and take %d MiB of heap, where %d may", peak>>20, grown>>20, most>>20)
	}
	cancel()
	conn.Close()
	eventually(t, "what waited is given back", func() bool {
		runtime.GC()
		return v.server.Limiter().Bytes() == 0
	})
}
