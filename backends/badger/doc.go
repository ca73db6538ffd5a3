// Package badger keeps data in Badger, an embedded key-value store: Node is a
// storage node (coord.Replica), Claims an idempotency store
// (coord.Idempotency). Each owns one data directory, which one process may
// have open at a time.
//
// Badger runs in managed mode. One goroutine writes and chooses the versions of
// its transactions itself; readers take that of the last finished one as their
// snapshot. Where nobody reads from the database, since what is asked for is
// known, one transaction writes over the other (versions); the read that comes
// then waits for the end of at most one.
//
// A value of up to 4 KiB lies in its key's record, one of up to 64 KiB beside
// it, and a larger one in a file of its own, which is written before its call
// queues for the committer. Badger's value log stays empty.
//
// The memory of a node is bounded: memtables (limits.memTable, up to 1.3 times
// as much each), the block cache, the cache of heads and small values, and the
// queues' bytes. With Large, 5 memtables of 32 MiB, 128 MiB of blocks, 64 MiB of
// heads and values and up to 320 MiB of waiting values under overload; with
// Small, 3 of 8 MiB, no block cache, 2 MiB, and up to 120 MiB.
package badger
