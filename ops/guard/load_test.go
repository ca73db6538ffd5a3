//go:build overload

package guard

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Clients are processes of their own: what they cost is not the coordinator's
// memory, and the system shares the processors out between them.

// generatorAddress, in the environment, makes this program a generator of load
// for the coordinator at that address.
const generatorAddress = "PAIRDB_TEST_LOAD_FOR"

func TestMain(m *testing.M) {
	if address := os.Getenv(generatorAddress); address != "" {
		if err := generate(address, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// load is writes of one tenant: so many under way, or so many a second, whatever
// becomes of them.
type load struct {
	Tenant    string
	Workers   int
	PerSecond float64
	For       time.Duration
}

// sample is one write, in a generator's answer.
type sample struct {
	Began, Took time.Duration
	OK          bool
	Code        codes.Code
}

// patience is how long a client waits for an answer.
const patience = time.Second

// generator is a process that makes load.
type generator struct {
	t   *testing.T
	in  *gob.Encoder
	out *gob.Decoder
}

func startGenerator(t *testing.T, address string) *generator {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), generatorAddress+"="+address)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &generator{t, gob.NewEncoder(in), gob.NewDecoder(out)}
}

// run makes a load, and returns its writes.
func (g *generator) run(l load) (all []sample) {
	if err := errors.Join(g.in.Encode(l), g.out.Decode(&all)); err != nil {
		g.t.Errorf("generate load: %v", err)
	}
	return all
}

// generate makes the loads that it reads.
func generate(address string, in io.Reader, out io.Writer) error {
	c := new(clients)
	for range connections {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		c.stubs = append(c.stubs, coordinatorpb.NewCoordinatorServiceClient(conn))
	}
	orders, answers := gob.NewDecoder(in), gob.NewEncoder(out)
	for {
		var l load
		if err := orders.Decode(&l); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := answers.Encode(c.run(l)); err != nil {
			return err
		}
	}
}

// connections are more than a flood needs: each takes a bounded number of
// requests at once, and those that wait for their turn would not reach the
// coordinator.
const connections = 16

// clients write.
type clients struct {
	stubs []coordinatorpb.CoordinatorServiceClient
	keys  atomic.Int64

	mu  sync.Mutex
	all []sample
}

func (c *clients) run(l load) []sample {
	c.all = nil
	var wait sync.WaitGroup
	start := time.Now()
	for range l.Workers {
		wait.Go(func() {
			for time.Since(start) < l.For {
				c.write(l.Tenant, start)
			}
		})
	}
	if l.PerSecond > 0 {
		for n := 0; time.Since(start) < l.For; time.Sleep(time.Millisecond) {
			for ; float64(n) < time.Since(start).Seconds()*l.PerSecond; n++ {
				wait.Go(func() { c.write(l.Tenant, start) })
			}
		}
	}
	wait.Wait()
	return c.all
}

func (c *clients) write(tenant string, start time.Time) {
	n := c.keys.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	_, err := c.stubs[n%connections].WriteKeyValue(ctx, &coordinatorpb.WriteKeyValueRequest{
		TenantId: tenant, Key: fmt.Sprint("k", n%1000), Value: make([]byte, 100),
	})
	s := sample{began.Sub(start), time.Since(began), err == nil, status.Code(err)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, s)
}

// codesOf counts what became of a load.
func codesOf(all []sample) map[string]int {
	n := map[string]int{}
	for _, s := range all {
		n[s.Code.String()]++
	}
	return n
}

// succeeded is how many writes of a load did, per second.
func succeeded(all []sample, d time.Duration) float64 {
	n := 0
	for _, s := range all {
		if s.OK {
			n++
		}
	}
	return float64(n) / d.Seconds()
}

// percentile is of the writes that were begun in a span; those that failed took
// as long as their client would have waited.
func percentile(all []sample, p float64, from, to time.Duration) time.Duration {
	var took []time.Duration
	for _, s := range all {
		if s.Began < from || s.Began >= to {
			continue
		}
		if !s.OK {
			s.Took = patience
		}
		took = append(took, s.Took)
	}
	if len(took) == 0 {
		return patience
	}
	slices.Sort(took)
	return took[int(float64(len(took)-1)*p)]
}

func latencyOfServed(all []sample) time.Duration {
	ok := slices.DeleteFunc(slices.Clone(all), func(s sample) bool { return !s.OK })
	return percentile(ok, 0.99, 0, time.Hour)
}
