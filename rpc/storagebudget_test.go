package rpc

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// The allocation budget of the way between coordinator and storage node, per
// operation, the replica aside: only what outlives the message. A coordinator
// keeps the clock of what a node holds, and the value of a read. A node keeps
// of an apply the clock and the value, and the key, which lies together with many
// others. Messages, frames, slots and tasks are used again.
var storageBudget = map[coord.CallKind]struct{ link, node float64 }{
	coord.CallHead:  {link: 1, node: 0},
	coord.CallRead:  {link: 2, node: 0},
	coord.CallApply: {link: 1, node: 2},
}

// steady is a replica that holds one version, and answers at once.
type steady struct {
	coord.Replica
	held coord.Version
}

func (*steady) Heard() (uint64, time.Duration) { return 1, time.Second }

func (r *steady) Do(c *coord.Call) {
	c.Held = r.held
	if c.Kind != coord.CallRead {
		c.Held.Value = nil
	}
	c.Finish(nil)
}

// forgetful is a caller that does nothing with an answer.
type forgetful struct{}

func (forgetful) Done(*coord.Call) {}

// repeated receives a message of operations again and again.
type repeated struct {
	raw  []byte
	left int
	out  []byte
}

func (s *repeated) receive(batch *storagepb.Batch) error {
	if s.left == 0 {
		return io.EOF
	}
	s.left--
	return batch.UnmarshalVTUnsafe(s.raw)
}

func (s *repeated) keep() []byte { return nil }

func (s *repeated) send(m *storagepb.BatchReply) error {
	s.out = marshalled(m, s.out)
	return nil
}

// marshalled is m as bytes, in the memory of out where there is enough.
func marshalled(m codec.Message, out []byte) []byte {
	size := m.SizeVT()
	if cap(out) < size {
		out = make([]byte, size)
	}
	out = out[:size]
	if _, err := m.MarshalToSizedBufferVT(out); err != nil {
		panic(err)
	}
	return out
}

// budgetCalls are calls of a kind.
func budgetCalls(kind coord.CallKind, n int) []*coord.Call {
	calls := make([]*coord.Call, n)
	for i := range calls {
		key := fmt.Sprint("some-key-", i)
		calls[i] = &coord.Call{Kind: kind, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
			Deadline: time.Now().Add(time.Hour), Caller: forgetful{}}
		if kind == coord.CallApply {
			calls[i].Version = version(1, make([]byte, 100))
		}
	}
	return calls
}

func testLink() *link {
	l := &link{opts: &StorageOptions{}, bounds: linkBounds{calls: 4096, bytes: 16 << 20}, wake: make(chan struct{}, 1), sweeping: true}
	return l
}

func TestStorageAllocationBudget(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates; the budget is checked without it")
		return
	}
	const batch = 64
	for kind, budget := range storageBudget {
		calls := budgetCalls(kind, batch)

		l := testLink()
		m := new(outgoing)
		held := version(2, make([]byte, 100))
		answer, answers, replies := new(storagepb.BatchReply), new(replies), storagepb.BatchReplyFromVTPool()
		shared := new(names)
		f := newFrames(new(scripted))
		var out, in []byte
		var found []*coord.Call
		tasks := make([]*task, batch)
		for i := range tasks {
			tasks[i] = &task{call: coord.Call{Kind: kind, Held: held}}
		}
		perOperation := testing.AllocsPerRun(1000, func() {
			for _, c := range calls {
				l.do(c)
			}
			if !l.gather(m) || m.len() != batch {
				t.Fatal("not all calls were gathered")
			}
			out = marshalled(&m.batch, out)
			for i, op := range m.batch.Operations {
				tasks[i].id = op.Id
			}
			m.clear()
			answers.fill(tasks)
			answer.Replies = answers.batch.Replies
			in = marshalled(answer, in)
			if err := replies.UnmarshalVTUnsafe(in); err != nil {
				t.Fatal(err)
			}
			found = l.answered(replies, found[:0])
			for i, call := range found {
				l.finish(f, shared, call, replies.Replies[i])
			}
			replies.ResetVT()
		}) / batch
		if perOperation > budget.link+0.1 {
			t.Errorf("%v: %.2f allocations in the coordinator, the budget is %.0f", kind, perOperation, budget.link)
		}

		server, err := NewStorageServer(StorageServerOptions{Replica: &steady{held: held}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			m.add(1, c, time.Minute, false)
		}
		stream := &repeated{raw: marshalled(&m.batch, nil)}
		const messages = 1000
		perOperation = testing.AllocsPerRun(3, func() {
			stream.left = messages
			if err := newExchange(server, stream).run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}) / (batch * messages)
		// What an exchange costs is spread over its operations.
		if perOperation > budget.node+0.2 {
			t.Errorf("%v: %.2f allocations in the storage node, the budget is %.0f", kind, perOperation, budget.node)
		}
		server.Stop(t.Context())
	}
}

// Keys lie together, but each stays as it was, and none keeps much of the memory
// of others.
func TestKeysKeep(t *testing.T) {
	own := new(keys)
	var kept, want []string
	received := make([]byte, MaxKeyBytes)
	for i := range 10_000 {
		key := received[:i*31%MaxKeyBytes]
		for j := range key {
			key[j] = byte(i + j)
		}
		kept, want = append(kept, own.keep(unsafe.String(unsafe.SliceData(key), len(key)))), append(want, string(key))
		if n := own.piece.Cap(); n > 2*keysPiece {
			t.Fatalf("keys lie together in %d bytes", n)
		}
	}
	if !slices.Equal(kept, want) {
		t.Error("what was kept has changed")
	}
}

// A replica may keep what was copied for it, and not what lies in a frame that others use.
func TestRequestIsOwned(t *testing.T) {
	for size, want := range map[int]bool{100: true, aliasAbove: true, aliasAbove + 1: false} {
		m := new(outgoing)
		call := budgetCalls(coord.CallApply, 1)[0]
		call.Version.Value = make([]byte, size)
		m.add(1, call, time.Minute, true)
		var received task
		aliased, err := received.request(m.batch.Operations[0], new(names), new(keys), time.Now())
		if err != nil || received.call.Owned != want || aliased == want {
			t.Errorf("value of %d bytes: owned %t, aliased %t, error %v, want owned %t", size, received.call.Owned, aliased, err, want)
		}
	}
}

// BenchmarkFrames measures the encoding of messages of 64 operations, without a
// connection, an operation being one of theirs.
func BenchmarkFrames(b *testing.B) {
	for _, kind := range []coord.CallKind{coord.CallHead, coord.CallApply} {
		b.Run(kind.String(), func(b *testing.B) {
			m := new(outgoing)
			c := new(scripted)
			f := newFrames(c)
			calls := budgetCalls(kind, 64)
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(calls) {
				for id, call := range calls {
					m.add(uint64(id), call, time.Minute, false)
				}
				if err := f.send(frameOperations, &m.batch); err != nil {
					b.Fatal(err)
				}
				m.clear()
				c.out.Reset()
			}
		})
	}
}
