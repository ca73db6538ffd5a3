package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Writer writes a file, block by block. A block is one write. It keeps no order
// of blocks; a Reader refuses one that is wrong.
type Writer struct {
	w      io.Writer
	sum    hash.Hash
	blocks int64
	buffer []byte
	total  TenantEnd // of all tenants
	tenant TenantEnd // of the one that was begun
}

// NewWriter begins a file.
func NewWriter(w io.Writer) (*Writer, error) {
	b := &Writer{w: w, sum: sha256.New()}
	header := binary.LittleEndian.AppendUint32([]byte(magic), format)
	header = binary.LittleEndian.AppendUint32(header, crc32.Checksum(header, castagnoli))
	return b, b.write(header)
}

func (b *Writer) write(p []byte) error {
	b.sum.Write(p)
	if _, err := b.w.Write(p); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// Contents writes the first block.
func (b *Writer) Contents(c *Contents) error { return b.object(KindContents, c) }

// Tenant begins a tenant.
func (b *Writer) Tenant(t *Tenant) error {
	b.tenant = TenantEnd{ID: t.ID}
	return b.object(KindTenant, t)
}

// Versions writes a part of the tenant that was begun.
func (b *Writer) Versions(v *Versions) error {
	b.tenant.count(v)
	b.total.count(v)
	return b.block(KindVersions, func(dst []byte) []byte { return appendVersions(dst, v) })
}

func (e *TenantEnd) count(v *Versions) {
	e.Versions += int64(len(v.Versions))
	for i := range v.Versions {
		e.Bytes += int64(len(v.Versions[i].Key) + len(v.Versions[i].Value))
	}
}

// TenantEnd ends the tenant that was begun. Gone: it was deleted meanwhile.
func (b *Writer) TenantEnd(gone bool) error {
	b.tenant.Gone = gone
	return b.object(KindTenantEnd, &b.tenant)
}

// End writes the last block.
func (b *Writer) End() error {
	return b.object(KindEnd, &End{
		Blocks: b.blocks, Versions: b.total.Versions, Bytes: b.total.Bytes, SHA256: hex.EncodeToString(b.sum.Sum(nil)),
	})
}

// Written is the versions that were written, and the bytes of their keys and values.
func (b *Writer) Written() (versions, bytes int64) { return b.total.Versions, b.total.Bytes }

func (b *Writer) object(kind Kind, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return b.block(kind, func(dst []byte) []byte { return append(dst, text...) })
}

func (b *Writer) block(kind Kind, payload func([]byte) []byte) error {
	block := append(b.buffer[:0], make([]byte, blockHeader)...)
	block = payload(block)
	b.buffer = block
	if size := len(block) - blockHeader; size > maxPayload {
		return fmt.Errorf("write backup: a block of %d bytes, at most %d are allowed", size, maxPayload)
	}
	binary.LittleEndian.PutUint32(block[4:], uint32(len(block)-blockHeader))
	binary.LittleEndian.PutUint64(block[8:], uint64(b.blocks))
	block[16] = byte(kind)
	binary.LittleEndian.PutUint32(block, crc32.Checksum(block[4:], castagnoli))
	b.blocks++
	return b.write(block)
}
