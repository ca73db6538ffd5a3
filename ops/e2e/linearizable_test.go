package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// An operation on a register as porcupine sees it. Values are unique, so the
// empty one stands for absent.
type register struct {
	write bool   // or delete, where value is empty
	value string // written, or read
}

var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(register); in.write {
			return true, in.value
		}
		return output.(register).value == state.(string), state
	},
	DescribeOperation: func(input, output any) string {
		if in := input.(register); in.write {
			return fmt.Sprintf("write %q", in.value)
		}
		return fmt.Sprintf("read %q", output.(register).value)
	},
}

// history is what clients saw of each key.
type history struct {
	mu         sync.Mutex
	operations map[string][]porcupine.Operation
	observed   map[string]bool // values that some read returned
	began      time.Time
	inDoubt    int
}

// open is the end of an operation that may take effect at any later time.
const open = int64(1) << 62

func (h *history) add(client int, key string, in register, call time.Time, returned int64, out register) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations[key] = append(h.operations[key], porcupine.Operation{
		ClientId: client, Input: in, Call: call.Sub(h.began).Nanoseconds(), Output: out, Return: returned,
	})
	if !in.write {
		h.observed[out.value] = true
	}
	if returned == open {
		h.inDoubt++
	}
}

// check asks porcupine about each key. A write in doubt that nobody ever read
// is left out: it may as well have taken effect at the end of time, so it
// cannot change the verdict, only make it dearer.
func (h *history) check(t *testing.T) {
	t.Helper()
	total := 0
	for key, operations := range h.operations {
		var kept []porcupine.Operation
		for _, op := range operations {
			if in := op.Input.(register); op.Return == open && in.value != "" && !h.observed[in.value] {
				continue
			}
			kept = append(kept, op)
		}
		total += len(kept)
		switch porcupine.CheckOperationsTimeout(registerModel, kept, 60*time.Second) {
		case porcupine.Illegal:
			t.Errorf("the history of %s is not linearizable: %d operations", key, len(kept))
		case porcupine.Unknown:
			t.Errorf("the history of %s could not be decided: %d operations", key, len(kept))
		}
	}
	t.Logf("%d operations on %d keys, %d writes in doubt", total, len(h.operations), h.inDoubt)
	if total < 1000 {
		t.Errorf("only %d operations: the run says nothing", total)
	}
}

// client writes, reads and deletes random keys at quorum, through any
// coordinator, until ctx ends.
func (h *history) client(ctx context.Context, id int, clients []pb.CoordinatorServiceClient, keys int) {
	rng := rand.New(rand.NewPCG(uint64(id), 7))
	for n := 0; ctx.Err() == nil; n++ {
		client := clients[rng.IntN(len(clients))]
		key := fmt.Sprint("key-", rng.IntN(keys))
		bounded, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		call := time.Now()
		var err error
		in := register{}
		out := register{}
		switch kind := rng.IntN(10); {
		case kind < 4:
			in = register{write: true, value: fmt.Sprintf("%d-%d", id, n)}
			_, err = client.WriteKeyValue(bounded, &pb.WriteKeyValueRequest{TenantId: "default", Key: key, Value: []byte(in.value), Consistency: "quorum"})
		case kind < 5:
			in = register{write: true}
			_, err = client.DeleteKeyValue(bounded, &pb.DeleteKeyValueRequest{TenantId: "default", Key: key, Consistency: "quorum"})
		default:
			var resp *pb.ReadKeyValueResponse
			resp, err = client.ReadKeyValue(bounded, &pb.ReadKeyValueRequest{TenantId: "default", Key: key, Consistency: "quorum"})
			out.value = string(resp.GetValue())
			if reasonOf(err) == "KEY_NOT_FOUND" {
				err = nil
			}
		}
		cancel()
		end := time.Since(h.began).Nanoseconds()
		_, outcome := infoOf(err)
		switch {
		case err == nil:
			h.add(id, key, in, call, end, out)
		case in.write && outcome != "not_applied":
			h.add(id, key, in, call, open, out)
		}
		if err != nil && status.Code(err) == codes.Unavailable {
			// Whoever is down stays so for a while; do not spend the time on refusals.
			pause(ctx, 20*time.Millisecond)
		}
		pause(ctx, time.Duration(rng.IntN(10))*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// pair is two coordinators over one set of storage nodes.
type pair struct {
	t            *testing.T
	coordinators []*process
	storage      []*process
	restart      []func() // of each coordinator
}

func startPair(t *testing.T, start func(i int, listen string) *process) *pair {
	t.Helper()
	p := &pair{t: t}
	for i := range 2 {
		p.coordinators = append(p.coordinators, start(i, "127.0.0.1:0"))
		p.restart = append(p.restart, func() { p.coordinators[i] = start(i, p.coordinators[i].grpc) })
	}
	for i := range 3 {
		p.storage = append(p.storage, startStorage(t, fmt.Sprintf("storage-%d", i+1), t.TempDir(), "-join", p.coordinators[0].grpc, "-sync=false"))
	}
	first := p.coordinators[0].dial()
	eventually(t, startTimeout, func() error {
		_, err := first.CreateTenant(t.Context(), &pb.CreateTenantRequest{TenantId: "default"})
		if status.Code(err) == codes.AlreadyExists {
			err = nil
		}
		return err
	})
	for _, c := range p.coordinators {
		client := c.dial()
		eventually(t, startTimeout, func() error { return write(t, client, "warm", "up", "all") })
	}
	return p
}

// torment kills, pauses and brings back one storage node or coordinator at a
// time until ctx ends, and then brings everything back.
func (p *pair) torment(ctx context.Context) {
	rng := rand.New(rand.NewPCG(11, 13))
	faults := map[string]int{}
	for ctx.Err() == nil {
		i, down := rng.IntN(3), time.Duration(200+rng.IntN(1000))*time.Millisecond
		switch rng.IntN(5) {
		case 0, 1:
			faults["storage killed"]++
			old := p.storage[i]
			old.kill()
			pause(ctx, down)
			p.storage[i] = start(p.t, servingLine, "storage", "-id", fmt.Sprintf("storage-%d", i+1), "-data", old.dir, "-listen", old.grpc, "-sync=false")
			p.storage[i].dir = old.dir
		case 2, 3:
			faults["storage paused"]++
			p.storage[i].cmd.Process.Signal(syscall.SIGSTOP)
			pause(ctx, down)
			p.storage[i].cmd.Process.Signal(syscall.SIGCONT)
		default:
			c := i % 2
			if rng.IntN(2) == 0 {
				faults["coordinator killed"]++
				p.coordinators[c].kill()
				pause(ctx, down)
				p.restart[c]()
			} else {
				faults["coordinator paused"]++
				p.coordinators[c].cmd.Process.Signal(syscall.SIGSTOP)
				pause(ctx, down)
				p.coordinators[c].cmd.Process.Signal(syscall.SIGCONT)
			}
		}
		pause(ctx, 300*time.Millisecond)
	}
	p.t.Logf("faults: %v", faults)
}

// converged asks each storage node itself what it holds for a key.
func (p *pair) converged(key string) error {
	var first coord.Head
	for i, s := range p.storage {
		client, err := rpc.DialStorage(rpc.StorageOptions{Address: s.grpc})
		if err != nil {
			return err
		}
		defer client.Close()
		for deadline := time.Now().Add(2 * time.Second); client.Unavailable() != nil; pause(context.Background(), 5*time.Millisecond) {
			if time.Now().After(deadline) {
				return client.Unavailable()
			}
		}
		done := make(answer, 1)
		client.Do(&coord.Call{Kind: coord.CallHead, Tenant: "default", Key: key, Token: ring.KeyToken("default", key),
			Deadline: time.Now().Add(time.Second), Caller: done})
		call := <-done
		if call.Err != nil {
			return call.Err
		}
		if i == 0 {
			first = call.Held.Head
		} else if call.Held.Compare(&first) != 0 {
			return fmt.Errorf("%s: storage-1 holds %v, storage-%d holds %v", key, &first, i+1, &call.Held.Head)
		}
	}
	return nil
}

type answer chan *coord.Call

func (a answer) Done(c *coord.Call) { a <- c }

// tormentFor is how long processes are killed and paused: a minute where it
// counts, less where a developer waits.
func tormentFor() time.Duration {
	if os.Getenv("CI") == "true" {
		return time.Minute
	}
	return 10 * time.Second
}

// Eight clients, eight keys, two coordinators, three storage nodes that die,
// freeze and come back: what clients saw is linearizable, and in the end every
// replica holds the same.
func TestLinearizableUnderFaults(t *testing.T) {
	dir := t.TempDir()
	p := startPair(t, func(i int, listen string) *process {
		return startConfiguredAt(t, fmt.Sprintf("coordinator-%d", i+1), dir, listen,
			"hash_ring {\n update_interval = \"1s\"\n}\nconsistency {\n read_timeout = \"1s\"\n write_timeout = \"1s\"\n}\n")
	})
	const keys = 8
	h := &history{operations: map[string][]porcupine.Operation{}, observed: map[string]bool{}, began: time.Now()}
	ctx, cancel := context.WithTimeout(t.Context(), tormentFor())
	defer cancel()
	clients := []pb.CoordinatorServiceClient{p.coordinators[0].dial(), p.coordinators[1].dial()}
	var running sync.WaitGroup
	for id := range 8 {
		running.Go(func() { h.client(ctx, id, clients, keys) })
	}
	p.torment(ctx)
	running.Wait()
	h.check(t)
	eventually(t, 60*time.Second, func() error {
		for k := range keys {
			if err := p.converged(fmt.Sprint("key-", k)); err != nil {
				return err
			}
		}
		return nil
	})
}
