package rpc

import "sync/atomic"

// Messages counts messages of operations between coordinators and storage
// nodes: how many operations one holds tells how much gathers while others are
// on their way. The zero value is ready; all methods are safe for concurrent use.
type Messages struct{ messages, operations atomic.Uint64 }

func (m *Messages) add(operations int) {
	m.messages.Add(1)
	m.operations.Add(uint64(operations))
}

// Count is how many messages there were, and how many operations in them.
func (m *Messages) Count() (messages, operations uint64) {
	return m.messages.Load(), m.operations.Load()
}
