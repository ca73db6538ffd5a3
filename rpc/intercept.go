package rpc

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/codec"
)

// Call is one RPC of the service that has ended.
type Call struct {
	Method    string // the RPC's name, the same under both names of the service
	Operation string // read, write, delete or admin
	Tenant    string // as sent, perhaps invalid; empty where the request has none
	Key       string // likewise
	Code      codes.Code
	Reason    string        // of the error; empty where it succeeded
	Took      time.Duration // of a stream of answers, until the first
	Err       error         // what went wrong, in full: not for clients

	ctx context.Context
	id  string
	// nth is the operation of a stream, named by the client, that this is;
	// the stream's id is ctx's.
	nth    uint64
	stream *pipeline
}

// requestIDHeader is the metadata by which a client names its request.
const requestIDHeader = "x-request-id"

// maxRequestIDBytes bounds a request id that a client chose.
const maxRequestIDBytes = 128

// RequestID is the id that the client sent, or else a random one; for an
// operation of a Pipeline it is the stream's, a slash, and the operation's. It
// is made when it is first asked for, since most requests are never logged.
func (c *Call) RequestID() string {
	switch {
	case c.id != "":
	case c.stream != nil:
		c.id = c.stream.requestID() + "/" + strconv.FormatUint(c.nth, 10)
	default:
		c.id = sentRequestID(c.ctx)
	}
	return c.id
}

func sentRequestID(ctx context.Context) string {
	if sent := metadata.ValueFromIncomingContext(ctx, requestIDHeader); len(sent) == 1 && printable(sent[0]) {
		return sent[0]
	}
	return randomID()
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
	var text [2 * 16]byte
	putRandomID(&text)
	return string(text[:])
}

func putRandomID(text *[2 * 16]byte) {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	hex.Encode(text[:], id[:])
}

// operationOf names what each RPC does to keys, where it does.
func operationOf(method string) string {
	switch method {
	case methodWrite, "BatchWrite":
		return "write"
	case methodDelete:
		return "delete"
	case methodRead, "BatchRead", "ListKeys", "ScanKeys", "Explain":
		return "read"
	}
	return "admin"
}

// Names of RPCs that stand for operations that were sent in other ways, too.
const (
	methodWrite  = "WriteKeyValue"
	methodDelete = "DeleteKeyValue"
	methodRead   = "ReadKeyValue"
	methodImport = "ImportVersions"
)

// readOnly tells the RPCs that ReadTimeout bounds.
func readOnly(method string) bool {
	switch method {
	case methodRead, "BatchRead", "ListKeys", "GetTenant", "ListTenants", "ListStorageNodes",
		"GetMigrationStatus", "ListMigrations", "PlanNodeChange", "GetStatus", "GetTenantLimits", "Explain":
		return true
	}
	return false
}

// keepsTime tells the RPCs that bound themselves in time, for less than a
// context of their own costs.
func keepsTime(method string) bool {
	switch method {
	case methodWrite, methodDelete, methodRead, "BatchWrite", "BatchRead":
		return true
	}
	return false
}

// routed is an RPC on its way through route. It is reused from one to the next.
type routed struct {
	request codec.Tolerant
	decode  func(any) error // gRPC's own
	unread  error           // what gRPC has already told the client
	read    func(any) error // its method, kept since making it allocates
	direct  direct          // nil where the generated handler serves it
	began   time.Time
	caller  *caller
	access  access
}

func (r *routed) readRequest(in any) error {
	r.request.Message, r.request.Check = in, wireCheck(in)
	if r.unread = r.decode(&r.request); r.unread != nil {
		return r.unread
	}
	if r.request.Fault != nil {
		return fmt.Errorf("%w: %w", errMalformed, r.request.Fault)
	}
	return r.access.allow(r.caller, in)
}

// route wraps the generated handler of a method: it turns requests away while
// draining, bounds them in time, survives their panics, tells the observer,
// and turns errors into statuses.
func (s *Server) route(method string, handle grpc.MethodHandler) grpc.MethodHandler {
	operation, rule := operationOf(method), accessRules[method]
	mutation := operation == "write" || operation == "delete"
	timeout := s.opts.WriteTimeout
	if readOnly(method) {
		timeout = s.opts.ReadTimeout
	}
	if keepsTime(method) {
		timeout = 0
	}
	pool := routedPool(method)
	return func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		r := pool.Get().(*routed)
		r.began, r.decode, r.access = time.Now(), decode, rule
		var response any
		var err error
		if r.caller, err = s.authenticate(ctx); err == nil {
			response, err = s.serve(srv, ctx, timeout, handle, interceptor, r)
		}
		call := Call{Method: method, Operation: operation, Err: err, ctx: ctx}
		switch {
		case r.unread != nil:
			call.Code = status.Code(r.unread)
		case err != nil:
			v := judge(err)
			call.Code, call.Reason = v.code, v.reason
			switch {
			case v.kind == coord.ErrKeyNotFound && !mutation:
				err = notFoundError
			case v.code == codes.Internal:
				err = v.answer(err, mutation, call.RequestID()).status().Err()
			default:
				err = v.answer(err, mutation, "").status().Err()
			}
			response = nil
			if s.opts.Tracing != nil {
				s.opts.Tracing.Failed(ctx, call.Reason)
			}
		}
		if s.opts.Observe != nil {
			if of, ok := r.request.Message.(interface{ GetTenantId() string }); ok {
				call.Tenant = of.GetTenantId()
			}
			if of, ok := r.request.Message.(interface{ GetKey() string }); ok {
				call.Key = of.GetKey()
			}
			call.Took = time.Since(r.began)
			if rule == accessAdmin {
				call.RequestID() // one and the same in both logs
			}
			s.opts.Observe(call)
		}
		if rule == accessAdmin && s.opts.Audit != nil {
			s.audit(call, r.caller, r.request.Message)
		}
		r.request, r.decode, r.unread, r.caller = codec.Tolerant{}, nil, nil, nil
		if r.direct != nil {
			r.direct.reset()
		}
		pool.Put(r)
		return response, err
	}
}

// serve runs a handler within its limits. A timeout of 0 is none.
func (s *Server) serve(srv any, ctx context.Context, timeout time.Duration, handle grpc.MethodHandler,
	interceptor grpc.UnaryServerInterceptor, r *routed) (response any, err error) {
	s.inFlight.Add(1)
	defer func() {
		if fault := recover(); fault != nil {
			response, err = nil, fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
		}
		s.answered(1)
	}()
	if s.draining.Load() {
		return nil, coord.ErrShuttingDown
	}
	if deadline, ok := ctx.Deadline(); timeout != 0 && (!ok || time.Until(deadline) > timeout) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if r.direct != nil {
		return r.serveDirect(ctx, s.service)
	}
	return handle(srv, ctx, r.read, interceptor)
}

// answered counts requests out, and wakes Stop after the last.
func (s *Server) answered(n int) {
	if s.inFlight.Add(-int64(n)) == 0 && s.draining.Load() {
		s.signalIdle()
	}
}

func (s *Server) signalIdle() {
	select {
	case s.idle <- struct{}{}:
	default:
	}
}
