package backup

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Progress is how far an unfinished file has come.
type Progress struct {
	Contents *Contents // nil: not even what it is of
	// Done is how many of the tenants have ended, and Begun whether the next one
	// was begun; then Token is where its export goes on, unless Read says that
	// all of it is there.
	Done  int
	Begun bool
	Token string
	Read  bool
	// Whole: nothing is missing.
	Whole bool
	// Dropped is how many bytes at the end were no whole block.
	Dropped int64
}

// Resume opens an unfinished file, drops what is behind its last whole block, and
// makes a Writer that goes on there. A file that does not begin as a backup does
// is left alone and refused; an empty one is begun.
func Resume(f *os.File) (*Writer, *Progress, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read backup: %w", err)
	}
	r, err := NewReader(f)
	damage := (*DamageError)(nil)
	if errors.As(err, &damage) && damage.Short { // less than a header
		if err := cut(f, 0); err != nil {
			return nil, nil, err
		}
		w, err := NewWriter(f)
		return w, &Progress{Dropped: size}, err
	}
	if err != nil {
		return nil, nil, err
	}
	p := new(Progress)
	for {
		block, err := r.Next()
		if err == io.EOF {
			break
		}
		if errors.As(err, &damage) {
			break // whatever it is, what comes before it is whole
		}
		if err != nil {
			return nil, nil, err
		}
		p.note(block)
	}
	p.Dropped = size - r.offset
	if err := cut(f, r.offset); err != nil {
		return nil, nil, err
	}
	return &Writer{w: f, sum: r.sum, blocks: r.blocks, total: r.total, tenant: r.tenant}, p, nil
}

func (p *Progress) note(x *Block) {
	switch x.Kind {
	case KindContents:
		p.Contents = x.Contents
	case KindTenant:
		p.Begun, p.Token, p.Read = true, "", false
	case KindVersions:
		p.Token = x.Versions.Token
		p.Read = p.Token == ""
	case KindTenantEnd:
		p.Done++
		p.Begun = false
	case KindEnd:
		p.Whole = true
	}
}

func cut(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("drop the unfinished end of a backup: %w", err)
	}
	if _, err := f.Seek(size, io.SeekStart); err != nil {
		return fmt.Errorf("drop the unfinished end of a backup: %w", err)
	}
	return nil
}
