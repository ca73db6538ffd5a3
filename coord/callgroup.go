package coord

import "sync/atomic"

// callGroup waits for a set of calls that one goroutine starts.
type callGroup struct {
	left atomic.Int64
	done chan struct{}
}

func newCallGroup() *callGroup {
	g := &callGroup{done: make(chan struct{})}
	g.left.Store(1)
	return g
}

// start hands a call to a replica.
func (g *callGroup) start(r Replica, call *Call) {
	call.Caller = g
	g.left.Add(1)
	r.Do(call)
}

// wait waits for all that were started. Nothing can be started after it.
func (g *callGroup) wait() {
	g.finish()
	<-g.done
}

// Done implements Caller.
func (g *callGroup) Done(*Call) { g.finish() }

func (g *callGroup) finish() {
	if g.left.Add(-1) == 0 {
		close(g.done)
	}
}
