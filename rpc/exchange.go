package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// errNoRoom refuses the value of a read whose reply finds too much waiting.
var errNoRoom = fmt.Errorf("%w: too many bytes wait to be sent to this coordinator", coord.ErrReplicaRefused)

// errNodeStopping refuses what comes while the node shuts down.
var errNodeStopping = fmt.Errorf("%w: the storage node is shutting down", coord.ErrReplicaRefused)

// operationStream is what an exchange serves. One goroutine receives, one sends.
type operationStream interface {
	// receive reads operations into an empty batch. They point into memory that
	// is valid until the next receive or, after keep, as long as the memory that
	// keep returns is left alone. At the orderly end it fails with io.EOF.
	receive(*storagepb.Batch) error
	keep() []byte
	send(*storagepb.BatchReply) error
}

// frameStream is an operationStream on a connection.
type frameStream struct {
	*frames
	heard func() (boot, clock uint64) // of the node
}

func (s *frameStream) receive(batch *storagepb.Batch) error {
	for {
		kind, payload, err := s.next()
		if err != nil {
			return err
		}
		switch kind {
		case frameOperations:
			if err := batch.UnmarshalVTUnsafe(payload); err != nil {
				return fmt.Errorf("%w: %w", errCorruptFrame, err)
			}
			return nil
		case framePing:
			boot, clock := s.heard()
			if err := s.frames.send(framePong, &storagepb.Hello{Clock: clock, Boot: boot}); err != nil {
				return err
			}
		default:
			if s.skips(kind) {
				continue
			}
			return fmt.Errorf("%w: kind %d", errCorruptFrame, kind)
		}
	}
}

func (s *frameStream) send(replies *storagepb.BatchReply) error {
	return s.sendReplies(replies)
}

// exchange is the serving side of one connection. One goroutine reads operations
// and starts them on the replica, and writes the replies that are known at once;
// another writes the others. Replies leave in the order in which operations finish.
type exchange struct {
	flow[*task]
	server  *StorageServer
	stream  operationStream
	replies replies
}

func newExchange(server *StorageServer, stream operationStream) *exchange {
	x := &exchange{server: server, stream: stream}
	x.open(server.opts.MaxOperations, server.opts.MaxBytes)
	return x
}

// run serves the stream until the coordinator, the server or ctx ends it.
func (x *exchange) run(ctx context.Context) error {
	ctx, broken := context.WithCancelCause(ctx)
	defer broken(nil)
	read := make(chan error, 1)
	go func() {
		err := x.read()
		if err != nil {
			broken(err)
			return
		}
		read <- nil
	}()
	err := x.serve(ctx, endings{read: read, stopping: x.server.stopping, stopped: errNodeStopping}, x.send)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	for _, f := range x.end() {
		x.server.release(f.item)
	}
	return err
}

// read starts operations until the stream ends. It outlives run until the
// connection is closed.
func (x *exchange) read() error {
	batch := storagepb.BatchFromVTPool()
	defer batch.ReturnToVTPool()
	shared, own := new(names), new(keys)
	for {
		if err := x.stream.receive(batch); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		x.server.messages.add(len(batch.Operations))
		if n := len(batch.Operations); n > maxBatchOperations {
			batch.Operations = nil
			return fmt.Errorf("message holds %d operations, want at most %d", n, maxBatchOperations)
		}
		bytes := 0
		for _, op := range batch.Operations {
			bytes += operationBytes(op)
		}
		if !x.admit(len(batch.Operations), bytes) {
			return nil
		}
		x.hold()
		x.start(batch, shared, own)
		batch.ResetVT()
		if err := x.let(x.send); err != nil {
			return err
		}
	}
}

func operationBytes(op *storagepb.Operation) int {
	return operationOverhead + len(op.GetVersion().GetValue())
}

// start hands each operation to the replica.
func (x *exchange) start(batch *storagepb.Batch, shared *names, own *keys) {
	now := time.Now()
	stopping := x.server.isStopping()
	for _, op := range batch.Operations {
		t := x.server.newTask(x, op)
		t.cost = operationBytes(op)
		aliased, err := t.request(op, shared, own, now)
		if aliased {
			kept := x.stream.keep()
			// Where others point into it too, it is left to the collector.
			if len(batch.Operations) == 1 && len(t.call.Version.Value) > keptBuffer {
				t.memory = kept
			}
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
	if tracing := x.server.opts.Tracing; tracing != nil && t.call.Trace.Span != 0 {
		tracing.Call(&t.call, t.began, t.err)
	}
	cost := operationOverhead
	if t.call.Kind == coord.CallRead && t.err == nil {
		cost += len(t.call.Held.Value)
		if !t.large && len(t.call.Held.Value) > largeValue {
			cost = operationOverhead // told as large, not sent
		}
	}
	// The request's value is kept no longer.
	t.call.Version = coord.Version{}
	x.server.memory.put(t.memory)
	t.memory = nil
	if !x.done(t, t.cost, cost, (*task).refuse) {
		x.server.release(t)
	}
}

// send writes replies to tasks, and releases them.
func (x *exchange) send(tasks []*task) error {
	x.replies.fill(tasks)
	x.replies.batch.Boot, x.replies.batch.Clock = x.server.heard()
	err := x.stream.send(&x.replies.batch)
	for i, t := range tasks {
		x.replies.versions[i].clear()
		x.server.release(t)
	}
	return err
}

// replies is a message being made, reused from one to the next.
type replies struct {
	batch    storagepb.BatchReply
	messages []*storagepb.Reply
	versions []*outbound
}

func (m *replies) fill(tasks []*task) {
	for len(m.messages) < len(tasks) {
		m.messages = append(m.messages, new(storagepb.Reply))
		m.versions = append(m.versions, new(outbound))
	}
	for i, t := range tasks {
		t.reply(m.messages[i], m.versions[i])
	}
	m.batch.Replies = m.messages[:len(tasks)]
}
