package coord

import "time"

// Events are told to whoever runs the engine, for metrics and logs. Callbacks
// left nil are no-ops. They are called on the path of requests, from any
// goroutine: they must be quick and must not call the engine.
type Events struct {
	// Conflict: two versions of a key were written without knowledge of each
	// other; winner replaced, or will replace, loser.
	Conflict func(tenant, key string, winner, loser Head)
	// Repair: a version is being sent to a replica that lacked it.
	Repair func(tenant, key, node string)
	// QuorumFailure: an operation ("write", "read" or "delete") ended with ErrNoQuorum.
	QuorumFailure func(operation string, err *QuorumError)
	// TenantCache: a tenant was looked up; hit when metadata was not asked.
	TenantCache func(hit bool)
	// ReplicaCall: a call on a node has ended.
	ReplicaCall func(node string, kind CallKind, took time.Duration, err error)
	// Hedge: a read asked one more replica because the first was slow.
	Hedge func(node string)
	// Background: work that no request waits for went wrong and what it was.
	Background func(what string, err error)
}
