// Package redis remembers keyed requests in Redis (or Valkey, or whatever else
// answers to EVALSHA), shared by any number of coordinators: Store is a
// coord.Idempotency on a single server, on a primary that Sentinel watches, or
// on a Redis Cluster.
//
// Each step on a claim is one script on one key, atomic in the server and timed
// by the server's clock: a coordinator's clock decides nothing. Steps that
// gather while a pipeline is under way go out together in the next one; a lone
// step goes out at once. Every step may be repeated without harm, so what a
// broken connection left open is sent again, within a budget.
//
// # What Redis may forget
//
// A claim is forgotten early in four ways. A reservation that is forgotten does
// no harm, since the mint that follows fails and the request starts again. A
// minted claim that is forgotten does: the request, sent again by its client,
// finds no trace of the first attempt, mints another version, and takes effect
// twice.
//
//   - Eviction. With any maxmemory-policy but noeviction Redis drops claims when
//     memory runs short. With noeviction it refuses the step instead, and the
//     keyed request with it.
//   - Restart. Without appendonly a server that restarts has forgotten the
//     claims since its last snapshot, or all. With appendonly and appendfsync
//     everysec (Redis's default) the death of the process loses nothing, that of
//     the machine up to a second or two; with appendfsync always, nothing.
//   - Failover. Replication is asynchronous: a primary confirms a mint before any
//     replica has it. A replica that takes over without it has forgotten it.
//     Sentinel and Cluster both fail over like this, and so do hosted services.
//   - Two primaries. A primary that is cut off from the others goes on confirming
//     until it learns that it was replaced; all that it confirmed after that is
//     dropped when it returns as a replica.
//
// min-replicas-to-write 1 with a short min-replicas-max-lag bounds the last case
// to that lag (a primary without replicas stops confirming) and does nothing for
// the third. Options.WaitReplicas closes both as far as Redis can: a minted claim
// is not confirmed, by Mint or by a Reserve that finds it, before so many
// replicas hold it (WAIT); where they do not in time, the step fails. With
// WaitReplicas at the number of all replicas, whichever takes over has every
// confirmed mint, and the loss of one replica stops keyed requests; with fewer,
// the claims are as safe as the choice of the new primary is lucky. WAIT counts
// replicas that have the claim in memory, not on disk. It works on a single
// primary and with Sentinel, not with Cluster, whose nodes each have their own
// replicas: there, set min-replicas-to-write.
//
// Check tells which of these a server's settings leave open. Whoever must not
// lose a claim at all keeps them in Postgres instead.
package redis
