package rpc

import (
	"fmt"

	"google.golang.org/grpc"

	"github.com/pairdb/coordinator/rpc/codec"
)

// requested is the stream of an RPC that answers one request by many messages.
// It checks the request as route does those of other RPCs.
type requested struct {
	grpc.ServerStream
	server *Server
	rule   access
}

// RecvMsg reads the request, and fails with a status where it is malformed or
// its sender may not make it.
func (r *requested) RecvMsg(into any) error {
	caller, err := r.server.authenticate(r.Context())
	if err != nil {
		return statusOf(err)
	}
	request := codec.Tolerant{Message: into}
	if err := r.ServerStream.RecvMsg(&request); err != nil {
		return err
	}
	if request.Fault != nil {
		return statusOf(fmt.Errorf("%w: %w", errMalformed, request.Fault))
	}
	if err := r.rule.allow(caller, into); err != nil {
		return statusOf(err)
	}
	return nil
}
