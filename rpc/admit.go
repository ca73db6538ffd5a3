package rpc

import (
	"context"
	"sync"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/limit"
)

// admission is an Engine that takes on no more than the limiter admits, however
// operations are sent. What it refuses never reaches the engine: no version is
// made, and no hint is left.
type admission struct {
	Engine
	limiter *limit.Limiter
	started sync.Pool // of *admitted
}

func newAdmission(engine Engine, limiter *limit.Limiter) *admission {
	a := &admission{Engine: engine, limiter: limiter}
	a.started.New = func() any { return &admitted{admission: a} }
	return a
}

func refused(err error) error { return &coord.WriteError{Outcome: coord.NotApplied, Err: err} }

// errNoRoomForAnswer refuses a value that was found while too many wait to be
// read by clients.
var errNoRoomForAnswer = &limit.Refusal{Kind: coord.ErrOverloaded, After: retryAfter,
	Text: coord.ErrOverloaded.Error() + ": too many bytes of answers wait to be read"}

func (a *admission) Write(ctx context.Context, req coord.WriteRequest) (result coord.WriteResult, err error) {
	pass, err := a.limiter.Enter(req.Tenant, len(req.Value))
	if err != nil {
		return coord.WriteResult{}, refused(err)
	}
	defer func() { a.limiter.Leave(pass, 0, err) }()
	return a.Engine.Write(ctx, req)
}

func (a *admission) Read(ctx context.Context, req coord.ReadRequest) (result coord.ReadResult, err error) {
	pass, err := a.limiter.Enter(req.Tenant, 0)
	if err != nil {
		return coord.ReadResult{}, err
	}
	defer func() { a.limiter.Leave(pass, len(result.Value), err) }()
	result, err = a.Engine.Read(ctx, req)
	// Small ones are not booked, and so always find room.
	if len(result.Value) > limit.Large && !a.limiter.HasRoom(len(result.Value)) {
		return coord.ReadResult{}, errNoRoomForAnswer
	}
	return result, err
}

func (a *admission) Keys(ctx context.Context, req coord.KeysRequest) (page coord.KeysPage, err error) {
	pass, err := a.limiter.Enter(req.Tenant, 0)
	if err != nil {
		return coord.KeysPage{}, err
	}
	defer func() { a.limiter.Leave(pass, 0, err) }()
	return a.Engine.Keys(ctx, req)
}

func (a *admission) StartWrite(req coord.WriteRequest, w coord.Waiter) {
	pass, err := a.limiter.Enter(req.Tenant, len(req.Value))
	if err != nil {
		w.Written(coord.WriteResult{}, refused(err))
		return
	}
	a.Engine.StartWrite(req, a.start(pass, w))
}

func (a *admission) StartRead(req coord.ReadRequest, w coord.Waiter) {
	pass, err := a.limiter.Enter(req.Tenant, 0)
	if err != nil {
		w.Found(coord.ReadResult{}, err)
		return
	}
	a.Engine.StartRead(req, a.start(pass, w))
}

func (a *admission) start(pass limit.Pass, w coord.Waiter) *admitted {
	t := a.started.Get().(*admitted)
	t.waiter, t.pass = w, pass
	return t
}

// admitted is an operation that was started, and the coord.Waiter between the
// engine and whoever waits.
type admitted struct {
	admission *admission
	waiter    coord.Waiter
	pass      limit.Pass
}

var _ coord.Waiter = (*admitted)(nil)

// Written passes the answer to a write on.
func (t *admitted) Written(r coord.WriteResult, err error) { t.leave(0, err).Written(r, err) }

// Found passes the answer to a read on.
func (t *admitted) Found(r coord.ReadResult, err error) { t.leave(len(r.Value), err).Found(r, err) }

// leave ends the operation, and returns its waiter.
func (t *admitted) leave(found int, failure error) coord.Waiter {
	a, w, pass := t.admission, t.waiter, t.pass
	t.waiter, t.pass = nil, limit.Pass{}
	a.started.Put(t)
	a.limiter.Leave(pass, found, failure)
	return w
}
