// Package badger keeps data in Badger, an embedded key-value store: Node is a
// storage node (coord.Replica), Claims an idempotency store
// (coord.Idempotency). Each owns one data directory, which one process may
// have open at a time.
//
// Badger runs in managed mode. One goroutine writes and numbers its
// transactions itself; readers take the number of the last finished one as
// their snapshot, so no read waits for a commit or its sync.
//
// A value of up to 4 KiB lies in its key's record, one of up to 64 KiB beside
// it, and a larger one in a file of its own. Badger's value log stays empty.
package badger
