package badger

import (
	"fmt"
	"sync"
	"testing"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

const benchKeys = 10_000

// slots is a closed loop: a finished call may be used again.
type slots chan *coord.Call

func (s slots) Done(c *coord.Call) { s <- c }

func benchmarkDo(b *testing.B, opts NodeOptions, prepare func(call *coord.Call, i int)) {
	opts.Profile = Large
	n := openTestNode(b, opts)
	keys := make([]string, benchKeys)
	tokens := make([]ring.Token, benchKeys)
	var loaded sync.WaitGroup
	loaded.Add(benchKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%06d", i)
		tokens[i] = ring.KeyToken("default", keys[i])
		n.Do(&coord.Call{
			Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "default", Key: keys[i], Token: tokens[i],
			Version: testVersion(1, make([]byte, 100)), Caller: waitGroupCaller{&loaded},
		})
	}
	loaded.Wait()
	const concurrent = 64
	free := make(slots, concurrent)
	for range concurrent {
		free <- new(coord.Call)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		call := <-free
		if call.Err != nil {
			b.Fatal(call.Err)
		}
		k := i * 7919 % benchKeys
		*call = coord.Call{Tenant: "default", Key: keys[k], Token: tokens[k], Caller: free}
		prepare(call, i)
		n.Do(call)
	}
	for range concurrent {
		<-free
	}
}

type waitGroupCaller struct{ *sync.WaitGroup }

func (w waitGroupCaller) Done(*coord.Call) { w.WaitGroup.Done() }

func BenchmarkApply(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%t", sync), func(b *testing.B) {
			value := make([]byte, 100)
			clock := coord.Clock{{ID: "c1", Counter: 1, Updated: 1}}
			benchmarkDo(b, NodeOptions{Sync: sync}, func(call *coord.Call, i int) {
				call.Kind, call.Intent = coord.CallApply, coord.IntentWrite
				call.Version = coord.Version{Head: coord.Head{
					Timestamp: int64(i + 2), Writer: coord.Writer{ID: "c1", Incarnation: 1}, Clock: clock,
				}, Value: value}
			})
		})
	}
}

func BenchmarkHead(b *testing.B) {
	benchmarkDo(b, NodeOptions{}, func(call *coord.Call, _ int) { call.Kind = coord.CallHead })
}

func BenchmarkRead(b *testing.B) {
	benchmarkDo(b, NodeOptions{}, func(call *coord.Call, _ int) { call.Kind = coord.CallRead })
}

type ignored struct{}

func (ignored) Done(*coord.Call) {}

// TestAllocations holds what a call may allocate in the node: a cached head
// nothing, a cached read the copy of the value, an apply of a cached key a batch of one's worth.
func TestAllocations(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	if call := apply(n, "t", "k", testVersion(1, []byte("value"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	call := coord.Call{Tenant: "t", Key: "k", Token: ring.KeyToken("t", "k"), Caller: ignored{}}
	for kind, budget := range map[coord.CallKind]float64{coord.CallHead: 0, coord.CallRead: 1} {
		call.Kind = kind
		if allocs := testing.AllocsPerRun(1000, func() { n.Do(&call) }); allocs > budget {
			t.Errorf("a cached %s allocates %v times, at most %v are allowed", kind, allocs, budget)
		}
	}
	const budget = 40
	done := make(finished, 1)
	call.Kind, call.Intent, call.Caller = coord.CallApply, coord.IntentRepair, done
	call.Version = testVersion(1, []byte("value"))
	allocs := testing.AllocsPerRun(1000, func() {
		call.Version.Timestamp++
		n.Do(&call)
		<-done
	})
	if call.Err != nil || allocs > budget {
		t.Errorf("an apply alone in its batch allocates %v times, at most %d are allowed; error %v", allocs, budget, call.Err)
	}
	t.Logf("an apply alone in its batch allocates %v times", allocs)
}
