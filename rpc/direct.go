package rpc

import (
	"context"
	"sync"
	"time"

	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// direct is a call of one of the RPCs that most requests are of, with its
// request and its answer, which are used again for the next call: an answer is
// encoded before its call is over.
type direct interface {
	// request is the message to decode into.
	request() codec.Message
	// serve is the RPC's handler, of a call that began at a time. Its answer is
	// valid until reset.
	serve(ctx context.Context, s *service, began time.Time) (codec.Message, error)
	// reset drops what the messages hold.
	reset()
}

// newDirect makes a call of an RPC, nil for those that are not served this way.
func newDirect(method string) direct {
	switch method {
	case methodWrite:
		return new(directWrite)
	case methodDelete:
		return new(directDelete)
	case methodRead:
		return new(directRead)
	}
	return nil
}

type directWrite struct {
	req    coordinatorpb.WriteKeyValueRequest
	answer writeAnswer
}

func (d *directWrite) request() codec.Message { return &d.req }

func (d *directWrite) serve(ctx context.Context, s *service, began time.Time) (codec.Message, error) {
	return &d.answer.WriteKeyValueResponse, s.write(ctx, &d.req, &d.answer, began)
}

func (d *directWrite) reset() { *d = directWrite{} }

type directDelete struct {
	req    coordinatorpb.DeleteKeyValueRequest
	answer deleteAnswer
}

func (d *directDelete) request() codec.Message { return &d.req }

func (d *directDelete) serve(ctx context.Context, s *service, began time.Time) (codec.Message, error) {
	return &d.answer.DeleteKeyValueResponse, s.delete(ctx, &d.req, &d.answer, began)
}

func (d *directDelete) reset() { *d = directDelete{} }

type directRead struct {
	req    coordinatorpb.ReadKeyValueRequest
	answer readAnswer
}

func (d *directRead) request() codec.Message { return &d.req }

func (d *directRead) serve(ctx context.Context, s *service, began time.Time) (codec.Message, error) {
	return &d.answer.ReadKeyValueResponse, s.read(ctx, &d.req, &d.answer, began)
}

func (d *directRead) reset() { *d = directRead{} }

// serveDirect decodes a direct call's request, serves it, and encodes its answer.
func (r *routed) serveDirect(ctx context.Context, s *service) (any, error) {
	if err := r.readRequest(r.direct.request()); err != nil {
		return nil, err
	}
	answer, err := r.direct.serve(ctx, s, r.began)
	if err != nil {
		return nil, err
	}
	encoded, err := codec.Encode(answer)
	if err != nil {
		return nil, err
	}
	return encoded, nil
}

// routedPool makes calls of a method that are used again.
func routedPool(method string) *sync.Pool {
	return &sync.Pool{New: func() any {
		r := &routed{direct: newDirect(method)}
		r.read = r.readRequest
		return r
	}}
}
