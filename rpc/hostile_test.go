package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	runtime.GC() // pools keep what they hold over one
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

// Idle connections are held by another process: a process may have so many files
// open, and needs as many for the server's ends. These, in the environment, make
// this program that process: the address, and how many.
const (
	idleFor   = "PAIRDB_TEST_IDLE_FOR"
	idleCount = "PAIRDB_TEST_IDLE_COUNT"
)

// idle holds connections until standard input ends. It says when it has them.
func idle(address string) error {
	n, err := strconv.Atoi(os.Getenv(idleCount))
	if err != nil {
		return err
	}
	for range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return err
		}
		if err := http2.NewFramer(conn, nil).WriteSettings(); err != nil {
			return err
		}
		defer conn.Close()
	}
	fmt.Println("connected")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// idlers starts such a process, which ends with the test.
func (v *victim) idlers(n int) {
	v.t.Helper()
	self, err := os.Executable()
	if err != nil {
		v.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), idleFor+"="+v.address, idleCount+"="+strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		v.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			v.t.Error(err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "connected\n" {
		v.t.Fatalf("the idle clients say %q, %v", line, err)
	}
}

// Idle connections cost little, and beyond max_connections nothing.
func TestIdleConnections(t *testing.T) {
	n := *hostileConnections
	v := startVictim(t, Options{MaxConnections: n + 10})
	before := heap()
	v.idlers(n)
	eventually(t, "all are connected", func() bool { return v.server.Connections() >= n })
	v.isServed("with idle connections")
	grown := heap() - before
	t.Logf("%d idle connections, %d MiB, %d bytes each; the client beside them waits %v", n, grown>>20, grown/int64(n), v.slowest(20))
	if each, most := grown/int64(n), int64(128<<10); each > most {
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

// slowest is how long the slowest of some requests of the well-behaved client takes.
func (v *victim) slowest(of int) (most time.Duration) {
	v.t.Helper()
	for range of {
		began := time.Now()
		v.isServed("measured")
		most = max(most, time.Since(began))
	}
	return most.Round(time.Microsecond)
}

// slowConn takes in no more than so much at a time, and then waits.
type slowConn struct{ net.Conn }

func (c slowConn) Read(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return c.Conn.Read(p[:min(len(p), 8<<10)])
}

// Clients that read slowly get all they asked for, and keep nobody waiting.
func TestSlowReaders(t *testing.T) {
	const most = 32 << 20
	v := startVictim(t, Options{MaxHeldBytes: most})
	before := heap()
	readers := max(*hostileStreams/10, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	errs := make(chan error, readers)
	for range readers {
		conn := dial(t, "passthrough:///"+v.address, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			return slowConn{conn}, err
		}))
		go func() {
			r, err := coordinatorpb.NewCoordinatorServiceClient(conn).ReadKeyValue(ctx, &coordinatorpb.ReadKeyValueRequest{TenantId: "slow", Key: "k"})
			switch {
			case status.Code(err) == codes.ResourceExhausted:
				err = nil // there were too many of them
			case err == nil && len(r.Value) != largeValue1M:
				err = fmt.Errorf("%d bytes were read", len(r.Value))
			}
			errs <- err
		}()
	}
	peak, wait := int64(0), time.Duration(0)
	for done := 0; done < readers; {
		select {
		case err := <-errs:
			done++
			if err != nil {
				t.Error(err)
			}
		default:
			peak, wait = max(peak, v.server.Limiter().Bytes()), max(wait, v.slowest(1))
		}
	}
	t.Logf("%d slow readers: %d MiB wait, %d MiB of heap; the client beside them waits %v", readers, peak>>20, (heap()-before)>>20, wait)
	if peak > most {
		t.Errorf("%d MiB wait where %d may", peak>>20, most>>20)
	}
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
	t.Logf("after the resets: %d MiB of heap; the client beside them waits %v", (heap()-before)>>20, v.slowest(20))
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
		t.Logf("%d KiB of headers were taken from the client", sent>>10)
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
	eventually(t, "all reads have ended", func() bool { return v.server.Limiter().InFlight() == 0 })
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
