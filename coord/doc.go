// Package coord is PairDB's quorum engine: it coordinates the replicas of each
// key so that writes, deletes and reads at quorum are linearizable, and keyed
// requests take effect once.
//
// A write is a state machine (write.go): it asks a majority of the key's
// replicas which version they hold, issues a version above all of them
// (issuer.go), sends it to every replica and answers when the level has
// acknowledged. A keyed write claims its idempotency key at the same time and
// mints the version into the claim before it sends anything. A read (read.go)
// asks as many replicas as its level needs, and where they disagree writes the
// greatest version back to a majority before it answers.
//
// State machines do no I/O and know no goroutines: events go in, calls to make
// come out. The driver (driver.go) runs them over real replicas and stores;
// the simulator in the tests runs the same ones in virtual time.
//
// What the engine needs of the world it declares as small interfaces: Replica,
// Metadata, Idempotency. It imports no network, no SQL and no files.
package coord
