//go:build previousprotocol

package rpc

// Built with the tag previousprotocol, a program speaks as those of before the
// present version of the storage protocol do, for tests of an upgrade.
const lowestProtocol, highestProtocol = 1, 1
