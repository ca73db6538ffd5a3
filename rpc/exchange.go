package rpc

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// errNoRoom refuses the value of a read whose reply finds too much waiting.
var errNoRoom = fmt.Errorf("%w: too many bytes wait to be sent to this coordinator", coord.ErrReplicaRefused)

// errNodeStopping refuses what comes while the node shuts down.
var errNodeStopping = fmt.Errorf("%w: the storage node is shutting down", coord.ErrReplicaRefused)

// exchange is the serving side of one stream. One goroutine reads operations
// and starts them on the replica, one writes replies, as many at a time as have
// gathered; replies leave in the order in which operations finish.
//
// What is under way is bounded in number and in bytes: beyond the bounds
// the stream is not read, and the coordinator's own queue fills and refuses.
type exchange struct {
	server *StorageServer
	stream grpc.ServerStream

	mu       sync.Mutex
	room     sync.Cond // signalled when there is room for more, and at the end
	finish   []*task   // finished, to be sent
	underWay int       // read and not yet sent
	bytes    int       // kept by what is under way
	writing  bool      // write is at work and will look at finish again
	ended    bool      // the stream is gone; nothing will be sent any more

	wake chan struct{} // holds a token when write has something to do
}

func newExchange(server *StorageServer, stream grpc.ServerStream) *exchange {
	x := &exchange{server: server, stream: stream, wake: make(chan struct{}, 1)}
	x.room.L = &x.mu
	return x
}

// run serves the stream until the coordinator or the server ends it.
func (x *exchange) run() error {
	read := make(chan error, 1)
	go func() { read <- x.read() }()
	err := x.write(read)
	x.mu.Lock()
	x.ended = true
	finished := x.finish
	x.finish = nil
	x.room.Signal()
	x.mu.Unlock()
	for _, t := range finished {
		x.server.release(t)
	}
	return err
}

// read starts operations until the stream ends. It outlives run by as long as
// gRPC takes to tell it that the stream is gone.
func (x *exchange) read() error {
	batch := storagepb.BatchFromVTPool()
	defer batch.ReturnToVTPool()
	in := inbound{message: batch}
	defer in.free()
	shared := make(names)
	for {
		if err := x.stream.RecvMsg(&in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if len(batch.Operations) > maxBatchOperations {
			n := len(batch.Operations)
			batch.Operations = nil
			return fmt.Errorf("message holds %d operations, want at most %d", n, maxBatchOperations)
		}
		if !x.admit(batch) {
			return nil
		}
		x.start(batch, &in, shared)
		batch.ResetVT()
		in.free()
	}
}

// admit waits until there is room and books the batch; it fails at the end.
func (x *exchange) admit(batch *storagepb.Batch) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for !x.ended && x.underWay > 0 &&
		(x.underWay+len(batch.Operations) > x.server.opts.MaxOperations || x.bytes >= x.server.opts.MaxBytes) {
		x.room.Wait()
	}
	if x.ended {
		return false
	}
	x.underWay += len(batch.Operations)
	for _, op := range batch.Operations {
		x.bytes += operationBytes(op)
	}
	return true
}

func operationBytes(op *storagepb.Operation) int {
	return operationOverhead + len(op.GetVersion().GetValue())
}

// start hands each operation to the replica.
func (x *exchange) start(batch *storagepb.Batch, in *inbound, shared names) {
	now := time.Now()
	stopping := x.server.isStopping()
	for _, op := range batch.Operations {
		t := x.server.newTask(x, op)
		t.cost = operationBytes(op)
		aliased, err := t.request(op, shared, now)
		if aliased {
			in.detach()
		}
		if op.Version != nil {
			op.Version.Value = nil
		}
		switch {
		case err != nil:
			t.call.Finish(err)
		case stopping:
			t.call.Finish(errNodeStopping)
		default:
			x.server.opts.Replica.Do(&t.call)
		}
	}
}

// finished takes a task whose call has ended.
func (x *exchange) finished(t *task) {
	t.err = t.call.Err
	cost := operationOverhead
	if t.call.Kind == coord.CallRead && t.err == nil {
		cost += len(t.call.Held.Value)
		if !t.large && len(t.call.Held.Value) > largeValue {
			cost = operationOverhead // told as large, not sent
		}
	}
	// The request's value is kept no longer.
	t.call.Version = coord.Version{}

	x.mu.Lock()
	x.bytes -= t.cost
	if x.ended {
		x.underWay--
		x.mu.Unlock()
		x.server.release(t)
		return
	}
	// Reads that were started while there was room may together have found
	// more than may wait: twice the bound is the end of it.
	if cost > operationOverhead && x.underWay > 1 && x.bytes+cost > 2*x.server.opts.MaxBytes {
		t.err, cost = errNoRoom, operationOverhead
		t.call.Held = coord.Version{}
	}
	t.cost = cost
	x.bytes += cost
	x.finish = append(x.finish, t)
	wake := !x.writing
	x.writing = true
	x.mu.Unlock()
	if wake {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

// write sends replies until the stream breaks, or, once the coordinator has
// closed its side or the server stops, until what is under way is answered.
func (x *exchange) write(read <-chan error) error {
	m := new(replies)
	stopping := x.server.stopping
	ending, last := false, error(nil)
	for {
		select {
		case <-x.wake:
		case err := <-read:
			if err != nil {
				return err
			}
			ending, read = true, nil
		case <-stopping:
			ending, last, stopping = true, errStopping, nil
		case <-x.stream.Context().Done():
			return x.stream.Context().Err()
		}
		for {
			// Whatever else is ready to run may finish more for the same message.
			runtime.Gosched()
			underWay := x.gather(m)
			if len(m.tasks) == 0 {
				if ending && underWay == 0 {
					return last
				}
				break
			}
			err := x.stream.SendMsg(&m.batch)
			x.sent(m)
			if err != nil {
				return err
			}
		}
	}
}

// gather fills m with replies to finished tasks, in the order in which they
// finished, and returns how many tasks are under way.
func (x *exchange) gather(m *replies) int {
	x.mu.Lock()
	size, n := 0, 0
	for n < len(x.finish) && n < batchOperations && (n == 0 || size+x.finish[n].cost <= batchBytes) {
		size += x.finish[n].cost
		n++
	}
	m.tasks = append(m.tasks[:0], x.finish[:n]...)
	rest := copy(x.finish, x.finish[n:])
	clear(x.finish[rest:])
	x.finish = x.finish[:rest]
	x.writing = n > 0
	underWay := x.underWay
	x.mu.Unlock()
	m.fill()
	return underWay
}

// sent makes room for others.
func (x *exchange) sent(m *replies) {
	x.mu.Lock()
	x.underWay -= len(m.tasks)
	for _, t := range m.tasks {
		x.bytes -= t.cost
	}
	x.room.Signal()
	x.mu.Unlock()
	for i, t := range m.tasks {
		m.versions[i].clear()
		x.server.release(t)
		m.tasks[i] = nil
	}
}

// replies is a message being made, reused from one to the next.
type replies struct {
	batch    storagepb.BatchReply
	tasks    []*task
	messages []*storagepb.Reply
	versions []*outbound
}

func (m *replies) fill() {
	for len(m.messages) < len(m.tasks) {
		m.messages = append(m.messages, new(storagepb.Reply))
		m.versions = append(m.versions, new(outbound))
	}
	for i, t := range m.tasks {
		t.reply(m.messages[i], m.versions[i])
	}
	m.batch.Replies = m.messages[:len(m.tasks)]
}
