// Package rpc is the coordinator's edge: it turns gRPC requests into calls of
// the engine, and the engine's calls of its replicas into messages to storage
// nodes.
//
// A request passes intercept.go (limits in time, recovery, access log), a
// handler (kv.go, tenant.go, node.go, migration.go) that checks it (check.go),
// calls the engine and fills the answer, and, where it failed, status.go.
//
// Many requests come on one stream (pipeline.go) or in one message (batch.go);
// each is checked, observed and answered like an RPC of its own. Package client
// sends them.
//
// Storage nodes are reached over one long-lived stream each (storagelink.go)
// and served by exchange.go. Operations gather into a message while the one
// before it is being written, so batches form without added delay. What a stream
// has under way on the serving side, theirs and ours, is in flow.go.
package rpc
