package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pairdb/coordinator/rpc/client"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const (
	foregroundWorkers = 8
	// sampledKeys are those whose histories are kept for porcupine.
	sampledKeys = 32
	valueBytes  = 100
)

// foreground is a mixed load at quorum beside whatever a test does to a
// cluster: reads and writes of numbered keys, each of which has one writer, and
// of a few that all of them write, whose histories are kept. It goes through
// the coordinators that live.
type foreground struct {
	t            *testing.T
	coordinators []*process
	clients      []pb.CoordinatorServiceClient
	killed       []atomic.Bool // coordinators, whose requests in hand may fail
	keys         []numbered
	sampled      *history
	value        func(number int32) []byte

	stop    context.CancelFunc
	workers sync.WaitGroup

	mu     sync.Mutex
	during string // what is being done to the cluster
	took   map[string][]time.Duration
	failed int
	inHand int // of killed coordinators
}

// numbered is what may be read of a key: its writes are numbered from 1, and
// issued one after the other.
type numbered struct{ acknowledged, issued atomic.Int32 }

func bulkKey(i int) string { return fmt.Sprint("bulk-", i) }

func bulkValue(n int32) string {
	v := strconv.Itoa(int(n)) + " "
	return v + strings.Repeat("v", valueBytes-len(v))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func startForeground(t *testing.T, coordinators []*process, keys int) *foreground {
	t.Helper()
	f := &foreground{
		t: t, coordinators: coordinators, killed: make([]atomic.Bool, len(coordinators)), keys: make([]numbered, keys),
		sampled: &history{operations: map[string][]porcupine.Operation{}, observed: map[string]bool{}, began: time.Now()},
		took:    map[string][]time.Duration{},
		value:   func(n int32) []byte { return []byte(bulkValue(n)) },
	}
	for _, c := range coordinators {
		f.clients = append(f.clients, c.dial())
	}
	return f
}

// each calls do for each step'th key, many at a time, through a pipelined client.
func (f *foreground) each(step int, do func(c *client.Client, i int) error) {
	f.t.Helper()
	c, err := client.Dial(f.coordinators[f.living(0)].grpc, client.Options{MaxAttempts: 1})
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	var all sync.WaitGroup
	var failures atomic.Int64
	offset := rand.IntN(step)
	const width = 512
	for w := range width {
		all.Go(func() {
			for i := offset + w*step; i < len(f.keys); i += width * step {
				err := do(c, i)
				// A machine that does other things, too, sheds some of so many at once.
				for until := time.Now().Add(time.Minute); errors.Is(err, client.ErrOverloaded) && time.Now().Before(until); err = do(c, i) {
					time.Sleep(20 * time.Millisecond)
				}
				if err != nil && failures.Add(1) < 10 {
					f.t.Errorf("%s: %v", bulkKey(i), err)
				}
			}
		})
	}
	all.Wait()
	if n := failures.Load(); n > 0 {
		f.t.Fatalf("%d keys failed", n)
	}
}

// fill writes every key once.
func (f *foreground) fill() {
	f.t.Helper()
	f.each(1, func(c *client.Client, i int) error {
		f.keys[i].issued.Store(1)
		_, err := c.Write(f.t.Context(), client.WriteRequest{Key: bulkKey(i), Value: f.value(1), Level: client.Quorum})
		if err == nil {
			f.keys[i].acknowledged.Store(1)
		}
		return err
	})
}

// readAll reads each step'th key at level all: none is lost, none is older than
// what was acknowledged before.
func (f *foreground) readAll(step int) {
	f.t.Helper()
	f.readEach(step, client.All)
}

func (f *foreground) readEach(step int, level client.Level) {
	f.t.Helper()
	began := time.Now()
	f.each(step, func(c *client.Client, i int) error {
		acknowledged := f.keys[i].acknowledged.Load()
		r, err := c.Read(f.t.Context(), client.ReadRequest{Key: bulkKey(i), Level: level})
		if err != nil {
			return err
		}
		return f.plausible(i, acknowledged, string(r.Value))
	})
	f.t.Logf("read %d keys at %s in %v", len(f.keys)/step, level, time.Since(began).Round(time.Millisecond))
}

// plausible checks what a read found that began when the write of a number was acknowledged.
func (f *foreground) plausible(i int, acknowledged int32, value string) error {
	text, _, _ := strings.Cut(value, " ")
	n, err := strconv.Atoi(text)
	if issued := f.keys[i].issued.Load(); err != nil || int32(n) < acknowledged || int32(n) > issued {
		return fmt.Errorf("read %q, want a number of %d to %d", text, acknowledged, issued)
	}
	return nil
}

// run starts the load.
func (f *foreground) run() {
	ctx, stop := context.WithCancel(f.t.Context())
	f.stop = stop
	for w := range foregroundWorkers {
		rng := rand.New(rand.NewPCG(uint64(w), 17))
		f.workers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				f.one(rng, w, n)
				pause(ctx, time.Duration(rng.IntN(4_000))*time.Microsecond)
			}
		})
	}
}

// end stops the load and waits for it.
func (f *foreground) end() {
	f.stop()
	f.workers.Wait()
}

// living is a coordinator that was not killed, i or the next.
func (f *foreground) living(i int) int {
	for range f.coordinators {
		if i %= len(f.coordinators); !f.killed[i].Load() {
			return i
		}
		i++
	}
	f.t.Fatal("no coordinator lives")
	return 0
}

// kill ends a coordinator, whose requests in hand may fail.
func (f *foreground) kill(i int) {
	f.killed[i].Store(true)
	f.coordinators[i].kill()
}

// back tells that a coordinator runs again.
func (f *foreground) back(i int, p *process) {
	f.coordinators[i] = p
	f.killed[i].Store(false)
}

func (f *foreground) one(rng *rand.Rand, w, n int) {
	at := f.living(rng.IntN(len(f.clients)))
	c := f.clients[at]
	began := time.Now()
	var err error
	switch kind := rng.IntN(20); {
	case kind < 2:
		err = f.sample(rng, c, w, n)
	case kind < 11:
		i := rng.IntN(len(f.keys))/foregroundWorkers*foregroundWorkers + w
		if i >= len(f.keys) {
			return
		}
		number := f.keys[i].issued.Add(1)
		if err = write(f.t, c, bulkKey(i), bulkValue(number), "quorum"); err == nil {
			f.keys[i].acknowledged.Store(number)
		}
	default:
		i := rng.IntN(len(f.keys))
		acknowledged := f.keys[i].acknowledged.Load()
		var value string
		if value, err = read(f.t, c, bulkKey(i), "quorum"); err == nil {
			if wrong := f.plausible(i, acknowledged, value); wrong != nil {
				f.t.Errorf("%s: %v", bulkKey(i), wrong)
			}
		}
	}
	took := time.Since(began)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.took[f.during] = append(f.took[f.during], took)
	case f.killed[at].Load() && reasonOf(err) == "":
		f.inHand++
	default:
		f.failed++
		if f.failed < 20 {
			f.t.Errorf("%s: %v after %v", f.during, err, took)
		}
	}
}

// sample reads, writes or deletes a key whose history is kept.
func (f *foreground) sample(rng *rand.Rand, c pb.CoordinatorServiceClient, w, n int) error {
	key := fmt.Sprint("sample-", rng.IntN(sampledKeys))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	in, out := register{}, register{}
	var err error
	call := time.Now()
	switch kind := rng.IntN(10); {
	case kind < 4:
		in = register{write: true, value: fmt.Sprintf("%d-%d", w, n)}
		_, err = c.WriteKeyValue(ctx, &pb.WriteKeyValueRequest{TenantId: "default", Key: key, Value: []byte(in.value), Consistency: "quorum"})
	case kind < 5:
		in = register{write: true}
		_, err = c.DeleteKeyValue(ctx, &pb.DeleteKeyValueRequest{TenantId: "default", Key: key, Consistency: "quorum"})
	default:
		out.value, err = read(f.t, c, key, "quorum")
		if reasonOf(err) == "KEY_NOT_FOUND" {
			err = nil
		}
	}
	_, outcome := infoOf(err)
	switch {
	case err == nil:
		f.sampled.add(w, key, in, call, time.Since(f.sampled.began).Nanoseconds(), out)
	case in.write && outcome != "not_applied":
		f.sampled.add(w, key, in, call, open, out)
	}
	return err
}

// now names what is being done to the cluster from now on.
func (f *foreground) now(during string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.during = during
}

// percentile is one of the latencies while something was done, and how many there were.
func (f *foreground) percentile(during string, p int) (took time.Duration, of int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Sorted(slices.Values(f.took[during]))
	if len(all) == 0 {
		return 0, 0
	}
	return all[len(all)*p/100], len(all)
}

var errNoLeader = errors.New("no coordinator leads")

// leader is the coordinator that does the housekeeping.
func (f *foreground) leader() (at int) {
	f.t.Helper()
	eventually(f.t, 20*time.Second, func() error {
		for i, c := range f.coordinators {
			if f.killed[i].Load() {
				continue
			}
			if metric(f.t, c, "coordinator_housekeeping_leader") == 1 {
				at = i
				return nil
			}
		}
		return errNoLeader
	})
	return at
}

// metric is the value of a metric without labels.
func metric(t *testing.T, p *process, name string) float64 {
	t.Helper()
	_, page := httpGet(t, "http://"+p.ops+"/metrics")
	_, rest, found := strings.Cut(page, "\n"+name+" ")
	text, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(text, 64)
	if !found || err != nil {
		t.Fatalf("metric %s of %s is %q, %v", name, p.ops, text, err)
	}
	return v
}
