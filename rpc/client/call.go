package client

import (
	"time"

	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// call is an operation: what is asked, and, once done holds a token, the
// answer. It is reused from one to the next.
type call struct {
	kind           coordinatorpb.PipelineOperation_Kind
	tenant, key    string
	level          Level
	value          []byte
	idempotencyKey string
	due            time.Time
	full           bool // the caller wants all of the answer

	written WriteResult
	found   ReadResult
	err     *Error
	done    chan struct{} // capacity 1
}

func newCall() any { return &call{done: make(chan struct{}, 1)} }

func (c *Client) take(kind coordinatorpb.PipelineOperation_Kind, tenant, key string, level Level) *call {
	call := c.calls.Get().(*call)
	call.kind, call.tenant, call.key, call.level = kind, tenant, key, level
	return call
}

func (c *Client) release(done *call) {
	*done = call{done: done.done}
	c.calls.Put(done)
}

func (c *call) mutates() bool { return c.kind != coordinatorpb.PipelineOperation_KIND_READ }

func (c *call) finish(err *Error) {
	c.err = err
	c.done <- struct{}{}
}

// weight is what an operation under way is counted for.
func (c *call) weight() int64 {
	return int64(operationWeight + len(c.key) + len(c.value))
}
