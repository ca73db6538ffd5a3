package rpc

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
)

// Call is one RPC of the service that has ended.
type Call struct {
	Method    string // the RPC's name, the same under both names of the service
	Operation string // read, write, delete or admin
	Tenant    string // as sent, perhaps invalid; empty where the request has none
	Key       string // likewise
	Code      codes.Code
	Reason    string // of the error; empty where it succeeded
	Took      time.Duration
	Err       error // what went wrong, in full: not for clients

	ctx context.Context
	id  string
}

// requestIDHeader is the metadata by which a client names its request.
const requestIDHeader = "x-request-id"

// maxRequestIDBytes bounds a request id that a client chose.
const maxRequestIDBytes = 128

// RequestID is the id that the client sent, or else a random one. It is made
// when it is first asked for, since most requests are never logged.
func (c *Call) RequestID() string {
	if c.id == "" {
		if sent := metadata.ValueFromIncomingContext(c.ctx, requestIDHeader); len(sent) == 1 && printable(sent[0]) {
			c.id = sent[0]
		} else {
			c.id = randomID()
		}
	}
	return c.id
}

func printable(id string) bool {
	for i := range len(id) {
		if id[i] < '!' || id[i] > '~' {
			return false
		}
	}
	return id != "" && len(id) <= maxRequestIDBytes
}

// randomID is 128 random bits in hexadecimal: unique, not secret.
func randomID() string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	return hex.EncodeToString(id[:])
}

// operationOf names what each RPC does to keys, where it does.
func operationOf(method string) string {
	switch method {
	case "WriteKeyValue":
		return "write"
	case "DeleteKeyValue":
		return "delete"
	case "ReadKeyValue", "ListKeys":
		return "read"
	}
	return "admin"
}

// readOnly tells the RPCs that ReadTimeout bounds.
func readOnly(method string) bool {
	switch method {
	case "ReadKeyValue", "ListKeys", "GetTenant", "ListTenants", "ListStorageNodes",
		"GetMigrationStatus", "ListMigrations", "GetStatus":
		return true
	}
	return false
}

// route wraps the generated handler of a method: it turns requests away while
// draining, bounds them in time, survives their panics, tells the observer,
// and turns errors into statuses.
func (s *Server) route(method string, handle grpc.MethodHandler) grpc.MethodHandler {
	operation := operationOf(method)
	mutation := operation == "write" || operation == "delete"
	timeout := s.opts.WriteTimeout
	if readOnly(method) {
		timeout = s.opts.ReadTimeout
	}
	// A read of an absent key is an answer like another, often a frequent one,
	// so its status is made once.
	notFound := judge(coord.ErrKeyNotFound).status(coord.ErrKeyNotFound, false, "").Err()

	return func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		started := time.Now()
		var request tolerant
		var unread error // what gRPC has already told the client
		response, err := s.serve(srv, ctx, timeout, handle, interceptor, func(in any) error {
			request.message = in
			if unread = decode(&request); unread != nil {
				return unread
			}
			if request.fault != nil {
				return fmt.Errorf("%w: %w", errMalformed, request.fault)
			}
			return nil
		})
		call := Call{Method: method, Operation: operation, Err: err, ctx: ctx}
		switch {
		case unread != nil:
			call.Code = status.Code(unread)
		case err != nil:
			v := judge(err)
			call.Code, call.Reason = v.code, v.reason
			switch {
			case v.kind == coord.ErrKeyNotFound && !mutation:
				err = notFound
			case v.code == codes.Internal:
				err = v.status(err, mutation, call.RequestID()).Err()
			default:
				err = v.status(err, mutation, "").Err()
			}
			response = nil
		}
		if s.opts.Observe != nil {
			if of, ok := request.message.(interface{ GetTenantId() string }); ok {
				call.Tenant = of.GetTenantId()
			}
			if of, ok := request.message.(interface{ GetKey() string }); ok {
				call.Key = of.GetKey()
			}
			call.Took = time.Since(started)
			s.opts.Observe(call)
		}
		return response, err
	}
}

// serve runs a handler within its limits.
func (s *Server) serve(srv any, ctx context.Context, timeout time.Duration, handle grpc.MethodHandler,
	interceptor grpc.UnaryServerInterceptor, decode func(any) error) (response any, err error) {
	s.inFlight.Add(1)
	defer func() {
		if fault := recover(); fault != nil {
			response, err = nil, fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
		}
		if s.inFlight.Add(-1) == 0 && s.draining.Load() {
			select {
			case s.idle <- struct{}{}:
			default:
			}
		}
	}()
	if s.draining.Load() {
		return nil, coord.ErrShuttingDown
	}
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > timeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return handle(srv, ctx, decode, interceptor)
}
