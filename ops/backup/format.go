// Package backup is the format of backup files: what a cluster's tenants hold,
// version by version, so that it can be checked, resumed and restored.
//
// A file is a header and blocks. Integers are little-endian, checksums CRC-32C.
//
//	header  magic (8 bytes) | format (4) | checksum of the 12 bytes before (4)
//	block   checksum of the rest of the block (4) | length of the payload (4) | number (8) | kind (1) | payload
//
// Blocks are numbered from 0. In this order there are: one of kind Contents; for
// each tenant in it one of kind Tenant, any number of kind Versions and one of
// kind TenantEnd; and one of kind End, which ends the file. Payloads are JSON
// objects named like the kind, but for Versions:
//
//	token | number of versions | per version: key | head | value
//
// where the number is a varint, and the others are a varint length and so many
// bytes. The token is where the coordinator goes on behind the block, empty where
// the tenant ends; the head is a version without its value, in the binary form
// of coord.AppendHead, which has a format byte of its own.
//
// Whoever finds a format, a kind or a field that is unknown refuses the file: what
// it says might matter. So every block of an unfinished file stands for itself,
// and a writer goes on behind the last whole one.
package backup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/pairdb/coordinator/coord"
)

const (
	magic  = "PairDBbk"
	format = 1

	headerBytes = len(magic) + 4 + 4
	blockHeader = 4 + 4 + 8 + 1
	// maxPayload bounds a block. A message of an export, of which one is made, is
	// no larger than 11 MiB.
	maxPayload = 16 << 20
	maxKey     = 1 << 10
	maxValue   = 10 << 20
	maxToken   = 8 << 10
	maxHead    = 64 << 10
)

// Kind is what a block holds.
type Kind byte

// The kinds of blocks.
const (
	KindContents  Kind = 1
	KindTenant    Kind = 2
	KindVersions  Kind = 3
	KindTenantEnd Kind = 4
	KindEnd       Kind = 5
)

func (k Kind) String() string {
	switch k {
	case KindContents:
		return "contents"
	case KindTenant:
		return "tenant"
	case KindVersions:
		return "versions"
	case KindTenantEnd:
		return "end of a tenant"
	case KindEnd:
		return "end"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// ErrUnknownFormat is wrapped where a newer release has written the file.
var ErrUnknownFormat = errors.New("unknown format of backup")

// DamageError tells where a file is not what was written. Nothing behind
// Offset is to be trusted.
type DamageError struct {
	Offset int64  // in bytes, of the block or header that is damaged
	Found  string // what is there
	Want   string // what was expected
	// Short: the file ends within the block, as one that is still being written.
	Short bool
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("damaged at offset %d: found %s, expected %s", e.Offset, e.Found, e.Want)
}

// Contents is what a backup is of.
type Contents struct {
	CreatedAt int64    `json:"created_at"` // Unix seconds, when it was begun
	Version   string   `json:"version"`    // of the coordinator that was asked
	Only      string   `json:"only,omitempty"`
	Tenants   []string `json:"tenants"` // ids, in the order of the file
	Nodes     []Node   `json:"nodes"`   // for information
}

// Node is a storage node as it was.
type Node struct {
	ID           string `json:"id"`
	Host         string `json:"host"`
	Port         int32  `json:"port"`
	VirtualNodes int32  `json:"virtual_nodes"`
	Status       string `json:"status"`
}

// Tenant is how a tenant is made again.
type Tenant struct {
	ID                string `json:"id"`
	ReplicationFactor int32  `json:"replication_factor"`
	CreatedAt         int64  `json:"created_at"` // Unix seconds
	Limits            Limits `json:"limits"`
}

// Limits are a tenant's own limits: 0 as configured, -1 none.
type Limits struct {
	OperationsPerSecond int64 `json:"operations_per_second,omitempty"`
	BytesPerSecond      int64 `json:"bytes_per_second,omitempty"`
	Concurrency         int64 `json:"concurrency,omitempty"`
}

// Versions is a part of what a tenant holds.
type Versions struct {
	Token    string // where an export goes on behind it
	Versions []Version
}

// Version is a version of a key. Head is in coord's binary form.
type Version struct {
	Key   string
	Head  []byte
	Value []byte
}

// TenantEnd sums a tenant up.
type TenantEnd struct {
	ID       string `json:"id"`
	Versions int64  `json:"versions"`
	Bytes    int64  `json:"bytes"` // of keys and values
	// Gone: the tenant was deleted before all of it was read. It is not restored.
	Gone bool `json:"gone,omitempty"`
}

// End sums a file up.
type End struct {
	Blocks   int64  `json:"blocks"` // before this one
	Versions int64  `json:"versions"`
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256"` // of all bytes before this block, in hexadecimal
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendVersions(dst []byte, v *Versions) []byte {
	dst = appendBytes(dst, v.Token)
	dst = binary.AppendUvarint(dst, uint64(len(v.Versions)))
	for i := range v.Versions {
		dst = appendBytes(dst, v.Versions[i].Key)
		dst = appendBytes(dst, v.Versions[i].Head)
		dst = appendBytes(dst, v.Versions[i].Value)
	}
	return dst
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// decodeVersions reads a payload; what it returns shares its memory.
func decodeVersions(b []byte) (*Versions, error) {
	d := fields{rest: b}
	v := &Versions{Token: string(d.bytes("token", maxToken))}
	n := d.number("number of versions")
	if n > uint64(len(d.rest)) { // each takes three bytes at least
		d.fail("number of versions")
	}
	for ; n > 0 && d.err == nil; n-- {
		one := Version{Key: string(d.bytes("key", maxKey)), Head: d.bytes("head", maxHead), Value: d.bytes("value", maxValue)}
		if d.err != nil {
			break
		}
		head, rest, err := coord.DecodeHead(one.Head, nil)
		switch {
		case err != nil:
			return nil, fmt.Errorf("key %q: %w", one.Key, err)
		case len(rest) > 0:
			return nil, fmt.Errorf("key %q: %d bytes behind its head", one.Key, len(rest))
		case head.Tombstone && len(one.Value) > 0:
			return nil, fmt.Errorf("key %q: a deletion with a value of %d bytes", one.Key, len(one.Value))
		case one.Key == "":
			return nil, errors.New("a version without a key")
		}
		v.Versions = append(v.Versions, one)
	}
	if d.err == nil && len(d.rest) > 0 {
		return nil, fmt.Errorf("%d bytes behind the last version", len(d.rest))
	}
	return v, d.err
}

// fields reads fields until the first fault, which it keeps.
type fields struct {
	rest []byte
	err  error
}

func (d *fields) fail(field string) {
	if d.err == nil {
		d.err = fmt.Errorf("a bad %s", field)
	}
}

func (d *fields) number(field string) uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.fail(field)
		d.rest = nil
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *fields) bytes(field string, most int) []byte {
	n := d.number(field)
	if d.err != nil || n > uint64(min(most, len(d.rest))) {
		d.fail(field)
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}
