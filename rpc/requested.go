package rpc

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/rpc/codec"
)

// requested is the stream of an RPC that answers one request by many messages.
// It checks the request as route does those of other RPCs, and tells of it.
type requested struct {
	grpc.ServerStream
	server  *Server
	method  string
	rule    access
	began   time.Time
	caller  *caller
	request any           // nil where none was read
	took    time.Duration // until the first answer; 0 before it
	ended   error         // why it was cut off: what its handler makes of that tells less
}

// RecvMsg reads the request, and fails with a status where it is malformed or
// its sender may not make it.
func (r *requested) RecvMsg(into any) error {
	var err error
	if r.caller, err = r.server.authenticate(r.Context()); err != nil {
		return statusOf(err)
	}
	request := codec.Tolerant{Message: into}
	if err := r.ServerStream.RecvMsg(&request); err != nil {
		return err
	}
	if request.Fault != nil {
		return statusOf(fmt.Errorf("%w: %w", errMalformed, request.Fault))
	}
	r.request = into
	if err := r.rule.allow(r.caller, into); err != nil {
		return statusOf(err)
	}
	return nil
}

// SendMsg sends an answer, as long as the caller's token is good.
func (r *requested) SendMsg(m any) error {
	if r.took == 0 {
		r.took = time.Since(r.began)
	}
	if err := r.caller.stillGood(); err != nil {
		r.ended = statusOf(err)
		return r.ended
	}
	return r.ServerStream.SendMsg(m)
}

// serve runs the handler, and tells the observer and the audit of the request.
func (r *requested) serve(srv any, handler grpc.StreamHandler) error {
	r.began = time.Now()
	err := survive(srv, r, handler)
	if r.ended != nil {
		err = r.ended
	}
	call := Call{Method: r.method, Operation: operationOf(r.method), Code: status.Code(err), Took: r.took, Err: err, ctx: r.Context()}
	if r.took == 0 {
		call.Took = time.Since(r.began)
	}
	if of := (*told)(nil); errors.As(err, &of) {
		call.Err, call.Reason = of.cause, judge(of.cause).reason
		if call.Code == codes.Internal {
			call.id = of.requestID
		}
	}
	if of, ok := r.request.(ofTenant); ok {
		call.Tenant = clip(of.GetTenantId(), MaxTenantBytes)
	}
	if r.server.opts.Observe != nil {
		r.server.opts.Observe(call)
	}
	if r.rule == accessAdmin && r.server.opts.Audit != nil {
		r.server.audit(call, r.caller, r.request)
	}
	return err
}
