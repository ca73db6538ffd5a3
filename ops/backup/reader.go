package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Block is a block that was read: the field named like its kind is set.
type Block struct {
	Kind      Kind
	Offset    int64 // in the file
	Contents  *Contents
	Tenant    *Tenant
	Versions  *Versions
	TenantEnd *TenantEnd
	End       *End
}

// Reader reads a file and checks all that there is to check: each block's
// checksum, the order and number of blocks, the counts, and, in the end, the
// checksum of the whole. It holds one block in memory.
type Reader struct {
	r        *bufio.Reader
	sum      hash.Hash
	offset   int64
	blocks   int64
	last     Kind
	contents *Contents
	tenants  int // begun
	tenant   TenantEnd
	total    TenantEnd
	buffer   []byte
}

// NewReader reads the header. It fails with ErrUnknownFormat, wrapped, or with a
// *DamageError.
func NewReader(r io.Reader) (*Reader, error) {
	b := &Reader{r: bufio.NewReaderSize(r, 1<<16), sum: sha256.New()}
	header := make([]byte, headerBytes)
	n, err := io.ReadFull(b.r, header)
	begun := header[:min(n, len(magic))]
	switch {
	case n > 0 && !bytes.HasPrefix([]byte(magic), begun):
		return nil, &DamageError{Found: fmt.Sprintf("%q", begun), Want: fmt.Sprintf("%q, as every backup begins", magic)}
	case err != nil:
		return nil, b.short(n, headerBytes, err)
	}
	body, sum := header[:headerBytes-4], binary.LittleEndian.Uint32(header[headerBytes-4:])
	if want := crc32.Checksum(body, castagnoli); sum != want {
		return nil, &DamageError{Found: fmt.Sprintf("a header with the checksum %08x", sum), Want: fmt.Sprintf("%08x", want)}
	}
	if f := binary.LittleEndian.Uint32(header[len(magic):]); f != format {
		return nil, fmt.Errorf("%w: it is %d, and this release knows %d: a newer release has written it, and is needed to read it", ErrUnknownFormat, f, format)
	}
	b.sum.Write(header)
	b.offset = headerBytes64
	return b, nil
}

const headerBytes64 = int64(headerBytes)

// short tells that the file ends before size bytes of something.
func (b *Reader) short(n, size int, err error) error {
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		return fmt.Errorf("read backup: %w", err)
	}
	return &DamageError{Offset: b.offset, Found: fmt.Sprintf("the end of the file after %d more bytes", n), Want: fmt.Sprintf("at least %d", size), Short: true}
}

func (b *Reader) damaged(found, want string, args ...any) error {
	return &DamageError{Offset: b.offset, Found: found, Want: fmt.Sprintf(want, args...)}
}

// Next reads the next block, which is the caller's. Behind the last one the error is
// io.EOF; a file that is not whole ends with a *DamageError.
func (b *Reader) Next() (*Block, error) {
	if b.last == KindEnd {
		if extra, err := io.CopyN(io.Discard, b.r, 1); extra > 0 {
			return nil, b.damaged("more bytes", "the end of the file")
		} else if err != io.EOF {
			return nil, fmt.Errorf("read backup: %w", err)
		}
		return nil, io.EOF
	}
	payload, kind, err := b.read()
	if err != nil {
		return nil, err
	}
	block := &Block{Kind: kind, Offset: b.offset}
	if err := block.decode(payload); err != nil {
		return nil, b.damaged(fmt.Sprintf("in a block of kind %q %v", kind, err), "what this release writes")
	}
	if err := b.follow(block); err != nil {
		return nil, err
	}
	b.sum.Write(b.buffer)
	b.offset += int64(len(b.buffer))
	b.blocks++
	b.last = kind
	return block, nil
}

// read reads a block into the buffer.
func (b *Reader) read() (payload []byte, kind Kind, err error) {
	b.buffer = make([]byte, blockHeader)
	if n, err := io.ReadFull(b.r, b.buffer); err != nil {
		return nil, 0, b.short(n, blockHeader, err)
	}
	size := binary.LittleEndian.Uint32(b.buffer[4:])
	if size > maxPayload {
		return nil, 0, b.damaged(fmt.Sprintf("a block of %d bytes", size), "at most %d", maxPayload)
	}
	// Memory is taken as bytes come, not as a length promises.
	var rest bytes.Buffer
	rest.Write(b.buffer)
	n, err := io.CopyN(&rest, b.r, int64(size))
	if err != nil {
		return nil, 0, b.short(blockHeader+int(n), blockHeader+int(size), err)
	}
	b.buffer = rest.Bytes()
	sum := binary.LittleEndian.Uint32(b.buffer)
	if is := crc32.Checksum(b.buffer[4:], castagnoli); is != sum {
		return nil, 0, b.damaged(fmt.Sprintf("a block whose bytes have the checksum %08x", is), "%08x, which it says", sum)
	}
	if number := binary.LittleEndian.Uint64(b.buffer[8:]); number != uint64(b.blocks) {
		return nil, 0, b.damaged(fmt.Sprintf("block %d", number), "block %d", b.blocks)
	}
	return b.buffer[blockHeader:], Kind(b.buffer[16]), nil
}

func (x *Block) decode(payload []byte) (err error) {
	object := func(v any) error {
		d := json.NewDecoder(bytes.NewReader(payload))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			return err
		}
		if _, err := d.Token(); err != io.EOF {
			return errors.New("more than one object")
		}
		return nil
	}
	switch x.Kind {
	case KindContents:
		x.Contents = new(Contents)
		return object(x.Contents)
	case KindTenant:
		x.Tenant = new(Tenant)
		return object(x.Tenant)
	case KindVersions:
		x.Versions, err = decodeVersions(payload)
		return err
	case KindTenantEnd:
		x.TenantEnd = new(TenantEnd)
		return object(x.TenantEnd)
	case KindEnd:
		x.End = new(End)
		return object(x.End)
	}
	return errors.New("an unknown kind")
}

// follow checks a block against those before it.
func (b *Reader) follow(x *Block) error {
	inTenant := b.last == KindTenant || b.last == KindVersions
	order := func(allowed bool) error {
		if allowed {
			return nil
		}
		after := "the header"
		if b.last != 0 {
			after = fmt.Sprintf("one of kind %q", b.last)
		}
		return b.damaged(fmt.Sprintf("a block of kind %q behind %s", x.Kind, after), "another order")
	}
	switch x.Kind {
	case KindContents:
		if err := order(b.last == 0); err != nil {
			return err
		}
		b.contents = x.Contents
	case KindTenant:
		if err := order(!inTenant && b.last != 0); err != nil {
			return err
		}
		if b.tenants >= len(b.contents.Tenants) || b.contents.Tenants[b.tenants] != x.Tenant.ID {
			return b.damaged(fmt.Sprintf("tenant %q", x.Tenant.ID), "number %d of the tenants %q", b.tenants+1, b.contents.Tenants)
		}
		b.tenants++
		b.tenant = TenantEnd{ID: x.Tenant.ID}
	case KindVersions:
		if err := order(inTenant); err != nil {
			return err
		}
		b.tenant.count(x.Versions)
		b.total.count(x.Versions)
	case KindTenantEnd:
		if err := order(inTenant); err != nil {
			return err
		}
		found := *x.TenantEnd
		found.Gone = false
		if found != b.tenant {
			return b.damaged(fmt.Sprintf("the end of tenant %q with %d versions and %d bytes", found.ID, found.Versions, found.Bytes),
				"that of %q with %d and %d", b.tenant.ID, b.tenant.Versions, b.tenant.Bytes)
		}
	case KindEnd:
		if err := order(!inTenant && b.last != 0); err != nil {
			return err
		}
		want := End{Blocks: b.blocks, Versions: b.total.Versions, Bytes: b.total.Bytes, SHA256: hex.EncodeToString(b.sum.Sum(nil))}
		if *x.End != want || b.tenants != len(b.contents.Tenants) {
			return b.damaged(fmt.Sprintf("the end of %d tenants, %+v", b.tenants, *x.End), "that of %d, %+v", len(b.contents.Tenants), want)
		}
	}
	return nil
}
