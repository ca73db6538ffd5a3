//go:build !previousprotocol

package rpc

// The versions of the storage protocol that this release speaks.
const lowestProtocol, highestProtocol = 1, 2
