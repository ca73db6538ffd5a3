package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// errNoPipeline means that the program under test has no Pipeline call.
var errNoPipeline = errors.New("the program under test has no Pipeline call")

// probeTimeout bounds the request that finds out whether there is one.
const probeTimeout = 10 * time.Second

// pipeline sends requests on one stream for each connection, as many in one
// message as have gathered.
type pipeline struct {
	conns   []*grpc.ClientConn
	streams []*stream
	cancel  context.CancelFunc
}

// dialPipeline opens the streams; errNoPipeline where there cannot be any.
func dialPipeline(s *system, connections int) (_ *pipeline, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pipeline{cancel: cancel}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for range connections {
		conn, err := dial(s.server.grpc)
		if err != nil {
			return nil, err
		}
		p.conns = append(p.conns, conn)
		opened, err := openStream(ctx, conn)
		if err != nil {
			return nil, err
		}
		p.streams = append(p.streams, opened)
	}
	ctx, cancelProbe := context.WithTimeout(ctx, probeTimeout)
	defer cancelProbe()
	switch err := p.lane(0, s.tenant).read(ctx, "probe"); status.Code(err) {
	case codes.OK, codes.NotFound:
		return p, nil
	case codes.Unimplemented:
		return nil, errNoPipeline
	default:
		return nil, fmt.Errorf("open a pipeline: %w", err)
	}
}

func (p *pipeline) close() {
	p.cancel()
	for _, conn := range p.conns {
		_ = conn.Close() // it says only whether it was closed before
	}
}

func (p *pipeline) lane(worker int, tenant string) lane {
	return p.streams[worker%len(p.streams)].lane(tenant)
}

// stream is one Pipeline call. Each lane has one operation under way at most,
// and the number of its lane is the operation's id.
type stream struct {
	call pb.CoordinatorService_PipelineClient
	wake chan struct{} // holds a token when send has something to do
	end  chan struct{} // closed when nothing more will be answered
	err  error         // why; valid once end is closed

	mu      sync.Mutex
	queue   []*pb.PipelineOperation
	sending bool // send is at work and will look at the queue again
	lanes   []*pipelineLane
}

func openStream(ctx context.Context, conn *grpc.ClientConn) (*stream, error) {
	call, err := pb.NewCoordinatorServiceClient(conn).Pipeline(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a pipeline: %w", err)
	}
	s := &stream{call: call, wake: make(chan struct{}, 1), end: make(chan struct{})}
	go s.send()
	go s.receive()
	return s, nil
}

func (s *stream) lane(tenant string) *pipelineLane {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &pipelineLane{
		stream: s, answered: make(chan error, 1),
		operation: pb.PipelineOperation{Id: uint64(len(s.lanes)), TenantId: tenant},
	}
	s.lanes = append(s.lanes, l)
	return l
}

func (s *stream) enqueue(op *pb.PipelineOperation) {
	s.mu.Lock()
	s.queue = append(s.queue, op)
	wake := !s.sending
	s.sending = true
	s.mu.Unlock()
	if wake {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// send writes what is queued, as much at a time as has gathered, until the
// stream ends.
func (s *stream) send() {
	var request pb.PipelineRequest
	for {
		select {
		case <-s.wake:
		case <-s.end:
			return
		}
		for {
			// Workers that are ready to run may have requests for the same message.
			runtime.Gosched()
			s.mu.Lock()
			request.Operations, s.queue = s.queue, request.Operations[:0]
			s.sending = len(request.Operations) > 0
			s.mu.Unlock()
			if len(request.Operations) == 0 {
				break
			}
			if err := s.call.SendMsg(&request); err != nil {
				return // receive learns why
			}
		}
	}
}

func (s *stream) receive() {
	defer close(s.end)
	var response pb.PipelineResponse
	for {
		response.ResetVT()
		if s.err = s.call.RecvMsg(&response); s.err != nil {
			return
		}
		s.mu.Lock()
		lanes := s.lanes // it is only ever appended to
		s.mu.Unlock()
		for _, a := range response.Answers {
			if a.Id >= uint64(len(lanes)) {
				s.err = fmt.Errorf("answer to operation %d, which was not asked", a.Id)
				return
			}
			var err error
			if a.Status != nil {
				err = status.Error(codes.Code(a.Status.Code), a.Status.Reason)
			}
			select {
			case lanes[a.Id].answered <- err:
			default:
				s.err = fmt.Errorf("operation %d was answered twice", a.Id)
				return
			}
		}
	}
}

// pipelineLane reuses its operation: once it is answered, it was sent.
type pipelineLane struct {
	stream    *stream
	operation pb.PipelineOperation
	answered  chan error // capacity 1
}

func (l *pipelineLane) write(ctx context.Context, key, idempotencyKey string, value []byte) error {
	op := &l.operation
	op.Kind, op.Key, op.IdempotencyKey, op.Value = pb.PipelineOperation_KIND_WRITE, key, idempotencyKey, value
	return l.do(ctx)
}

func (l *pipelineLane) read(ctx context.Context, key string) error {
	op := &l.operation
	op.Kind, op.Key, op.IdempotencyKey, op.Value = pb.PipelineOperation_KIND_READ, key, "", nil
	return l.do(ctx)
}

// do sends the operation. After ctx has ended the lane must not be used again.
func (l *pipelineLane) do(ctx context.Context) error {
	l.stream.enqueue(&l.operation)
	select {
	case err := <-l.answered:
		return err
	case <-l.stream.end:
		return l.stream.err
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}
