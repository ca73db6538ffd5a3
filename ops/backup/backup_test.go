package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

func head(timestamp int64, tombstone bool) []byte {
	return coord.AppendHead(nil, &coord.Head{
		Timestamp: timestamp, Writer: coord.Writer{ID: "c1", Incarnation: 3}, Clock: coord.Clock{}.With("c1", 7, timestamp), Tombstone: tombstone,
	})
}

// step is a call on a Writer.
type step func(*Writer) error

// example is a backup of three tenants, of which one is empty and one is gone.
func example() []step {
	var steps []step
	add := func(s step) { steps = append(steps, s) }
	add(func(w *Writer) error {
		return w.Contents(&Contents{CreatedAt: 5, Version: "v1", Tenants: []string{"a", "b", "c"}, Nodes: []Node{{ID: "s1", Host: "h", Port: 7, VirtualNodes: 150, Status: "active"}}})
	})
	add(func(w *Writer) error {
		return w.Tenant(&Tenant{ID: "a", ReplicationFactor: 3, CreatedAt: 4, Limits: Limits{Concurrency: -1}})
	})
	for i := range 3 {
		v := &Versions{Token: fmt.Sprint("behind ", i)}
		for j := range 4 {
			one := Version{Key: fmt.Sprintf("%d/%d", i, j), Head: head(int64(9+i+j), j == 1), Value: bytes.Repeat([]byte{0, 0xff}, i*j)}
			if j == 1 {
				one.Value = nil
			}
			v.Versions = append(v.Versions, one)
		}
		if i == 2 {
			v.Token = ""
		}
		add(func(w *Writer) error { return w.Versions(v) })
	}
	add(func(w *Writer) error { return w.TenantEnd(false) })
	add(func(w *Writer) error { return w.Tenant(&Tenant{ID: "b", ReplicationFactor: 1}) })
	add(func(w *Writer) error { return w.Versions(&Versions{}) })
	add(func(w *Writer) error { return w.TenantEnd(false) })
	add(func(w *Writer) error { return w.Tenant(&Tenant{ID: "c"}) })
	add(func(w *Writer) error { return w.TenantEnd(true) })
	add((*Writer).End)
	return steps
}

func written(t testing.TB, steps []step) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if err := s(w); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// read reads a file to its end.
func read(file []byte) (blocks []*Block, err error) {
	r, err := NewReader(bytes.NewReader(file))
	for err == nil {
		var b *Block
		if b, err = r.Next(); err == nil {
			blocks = append(blocks, b)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return blocks, err
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	file := written(t, example())
	blocks, err := read(file)
	if err != nil || len(blocks) != len(example()) {
		t.Fatalf("%d blocks, %v", len(blocks), err)
	}
	if c := blocks[0].Contents; c.Version != "v1" || c.Nodes[0].Port != 7 || len(c.Tenants) != 3 {
		t.Errorf("contents %+v", c)
	}
	if a := blocks[1].Tenant; a.ReplicationFactor != 3 || a.Limits.Concurrency != -1 {
		t.Errorf("tenant %+v", a)
	}
	got := blocks[4].Versions
	if got.Token != "" || len(got.Versions) != 4 {
		t.Fatalf("versions %+v", got)
	}
	want := Version{Key: "2/3", Head: head(14, false), Value: []byte{0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255}}
	if !reflect.DeepEqual(got.Versions[3], want) {
		t.Errorf("version %+v, want %+v", got.Versions[3], want)
	}
	if e := blocks[len(blocks)-1].End; e.Versions != 12 || e.Blocks != int64(len(blocks)-1) {
		t.Errorf("end %+v", e)
	}
	if e := blocks[len(blocks)-2].TenantEnd; !e.Gone || e.ID != "c" {
		t.Errorf("end of the tenant that is gone: %+v", e)
	}
}

// Any byte that differs is found, in the block where it is.
func TestEveryFlippedByteIsFound(t *testing.T) {
	file := written(t, example())
	blocks, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	for at := range file {
		for _, flip := range []byte{1, 0x80} {
			broken := bytes.Clone(file)
			broken[at] ^= flip
			block := int64(0)
			for _, b := range blocks {
				if b.Offset <= int64(at) {
					block = b.Offset
				}
			}
			_, err := read(broken)
			damage := (*DamageError)(nil)
			if !errors.As(err, &damage) || damage.Offset != block || damage.Found == "" || damage.Want == "" {
				t.Fatalf("byte %d changed by %#x: %v, want damage at offset %d", at, flip, err, block)
			}
		}
	}
}

func TestAFileThatIsCutIsNotWhole(t *testing.T) {
	file := written(t, example())
	for size := range file {
		_, err := read(file[:size])
		damage := (*DamageError)(nil)
		if !errors.As(err, &damage) || !damage.Short {
			t.Fatalf("cut after %d bytes: %v", size, err)
		}
	}
	if _, err := read(append(bytes.Clone(file), 0)); err == nil || !strings.Contains(err.Error(), "expected the end of the file") {
		t.Errorf("with one more byte: %v", err)
	}
}

// Blocks that are whole, each for itself, do not make a file that is.
func TestBlocksInAnotherOrderAreFound(t *testing.T) {
	file := written(t, example())
	blocks, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	at := func(i int) []byte {
		end := int64(len(file))
		if i+1 < len(blocks) {
			end = blocks[i+1].Offset
		}
		return file[blocks[i].Offset:end]
	}
	start := file[:blocks[0].Offset]
	splice := func(order ...int) []byte {
		out := bytes.Clone(start)
		for n, i := range order {
			block := bytes.Clone(at(i))
			binary.LittleEndian.PutUint64(block[8:], uint64(n)) // as a forger would
			binary.LittleEndian.PutUint32(block, crc32.Checksum(block[4:], castagnoli))
			out = append(out, block...)
		}
		return out
	}
	for name, order := range map[string][]int{
		"a block left out":           {0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11},
		"a block twice":              {0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
		"two blocks exchanged":       {0, 1, 3, 2, 4, 5, 6, 7, 8, 9, 10, 11},
		"a tenant left out":          {0, 1, 2, 3, 4, 5, 9, 10, 11},
		"the last tenants left out":  {0, 1, 2, 3, 4, 5, 11},
		"no contents":                {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
		"contents twice":             {0, 0},
		"versions without a tenant":  {0, 2},
		"a tenant in another":        {0, 1, 6},
		"an end without a beginning": {0, 5},
		"an end in a tenant":         {0, 1, 11},
		"only an end":                {11},
	} {
		if _, err := read(splice(order...)); !errors.As(err, new(*DamageError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := splice(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11); !bytes.Equal(got, file) {
		t.Error("the test does not put blocks together as they were")
	}
}

func TestUnknownFormatsAreRefused(t *testing.T) {
	file := written(t, example())
	binary.LittleEndian.PutUint32(file[len(magic):], format+1)
	binary.LittleEndian.PutUint32(file[len(magic)+4:], crc32.Checksum(file[:len(magic)+4], castagnoli))
	if _, err := read(file); !errors.Is(err, ErrUnknownFormat) || !strings.Contains(err.Error(), "it is 2, and this release knows 1") {
		t.Errorf("a newer format: %v", err)
	}
	if _, err := read([]byte("-- PostgreSQL database dump")); err == nil || !strings.Contains(err.Error(), `damaged at offset 0: found "-- Postg", expected "PairDBbk"`) {
		t.Errorf("a file of another kind: %v", err)
	}
	var out bytes.Buffer
	w, err := NewWriter(&out)
	if err == nil {
		err = w.object(KindContents, map[string]any{"tenants": []string{}, "encryption": "aes"})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(out.Bytes()); err == nil || !strings.Contains(err.Error(), `unknown field "encryption"`) {
		t.Errorf("an unknown field: %v", err)
	}
}

// However little of a file is there, what is missing can be written behind it,
// and the whole is the same.
func TestAnyBeginningIsCompleted(t *testing.T) {
	steps := example()
	whole := written(t, steps)
	for size := 0; size <= len(whole); size += 1 + size%3 {
		for _, torn := range []string{"", "\x00\x00\x00\x00 and what a disk left"} {
			if torn != "" && size < headerBytes {
				continue // that is no backup, and left alone
			}
			path := filepath.Join(t.TempDir(), "b.partial")
			if err := os.WriteFile(path, append(bytes.Clone(whole[:size]), torn...), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			w, p, err := Resume(f)
			if err != nil {
				t.Fatalf("with %d bytes: %v", size, err)
			}
			if p.Whole && torn == "" && size != len(whole) {
				t.Errorf("%d of %d bytes are whole", size, len(whole))
			}
			at := 0
			switch {
			case p.Whole:
				at = len(steps)
			case p.Contents == nil:
			default: // each tenant's place in the example
				at = []int{1, 6, 9, 11}[p.Done]
				if p.Begun {
					at++
					switch p.Token {
					case "behind 0":
						at++
					case "behind 1":
						at += 2
					default:
						if p.Read {
							at = []int{5, 8}[p.Done]
						}
					}
				}
			}
			for _, s := range steps[at:] {
				if err := s(w); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, whole) {
				t.Fatalf("completed from %d bytes and %q: %d bytes, %v; %+v", size, torn, len(got), err, p)
			}
		}
	}
}

func TestOtherFilesAreNotResumed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	const text = "something that somebody needs"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := Resume(f); !errors.As(err, new(*DamageError)) {
		t.Errorf("got %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != text {
		t.Errorf("the file is now %q", got)
	}
}

// Whatever a file holds, it is read or refused, and what was read is written the
// same again.
func FuzzReader(f *testing.F) {
	whole := written(f, example())
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, file []byte) {
		blocks, err := read(file)
		if err != nil {
			if len(blocks) > 0 && blocks[len(blocks)-1].Kind == KindEnd && !strings.Contains(err.Error(), "the end of the file") {
				t.Errorf("after the end: %v", err)
			}
			return
		}
		for _, b := range blocks {
			if b.Versions == nil {
				continue
			}
			again, err := decodeVersions(appendVersions(nil, b.Versions))
			if err != nil || !reflect.DeepEqual(normal(again), normal(b.Versions)) {
				t.Errorf("%+v comes back as %+v, %v", b.Versions, again, err)
			}
		}
	})
}

// FuzzVersions is FuzzReader without the checksums, which hide what is behind them.
func FuzzVersions(f *testing.F) {
	f.Add(appendVersions(nil, &Versions{Token: "t", Versions: []Version{{Key: "k", Head: head(4, false), Value: []byte("v")}, {Key: "d", Head: head(5, true)}}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := decodeVersions(payload)
		if err != nil {
			return
		}
		for _, one := range v.Versions {
			if h, _, err := coord.DecodeHead(one.Head, nil); err != nil || one.Key == "" || len(one.Key) > maxKey || len(one.Value) > maxValue || h.Tombstone && len(one.Value) > 0 {
				t.Errorf("%+v is taken for a version: %v", one, err)
			}
		}
		again, err := decodeVersions(appendVersions(nil, v))
		if err != nil || !reflect.DeepEqual(normal(again), normal(v)) {
			t.Errorf("%+v comes back as %+v, %v", v, again, err)
		}
	})
}

// normal has nil for what is empty.
func normal(v *Versions) *Versions {
	n := &Versions{Token: v.Token}
	for _, one := range v.Versions {
		n.Versions = append(n.Versions, Version{one.Key, append([]byte(nil), one.Head...), append([]byte(nil), one.Value...)})
	}
	return n
}
