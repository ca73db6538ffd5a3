package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

func save(t *testing.T, m *metadataTest, h coord.Metadata, name string, data []byte) {
	t.Helper()
	if err := h.SaveCheckpoint(m.ctx, name, data); err != nil {
		t.Fatalf("save checkpoint %q: %v", name, err)
	}
}

// wantCheckpoint compares with what every handle finds; nil is the lack of one.
func wantCheckpoint(t *testing.T, m *metadataTest, what, name string, want []byte, handles ...coord.Metadata) {
	t.Helper()
	for i, h := range handles {
		got, err := h.Checkpoint(m.ctx, name)
		if err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: handle %d finds %d bytes (none: %t) under %q, %v; want %d (none: %t)",
				what, i, len(got), got == nil, name, err, len(want), want == nil)
		}
	}
}

func saveCheckpoints(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	ids := sortedOddIDs(t)
	for i, name := range ids {
		wantCheckpoint(t, m, "before it was saved", name, nil, a, b)
		save(t, m, a, name, all[i:])
	}
	for i, name := range ids {
		wantCheckpoint(t, m, "saved", name, all[i:], a, b)
	}
	save(t, m, b, "a", []byte("another"))
	wantCheckpoint(t, m, "saved in place of another", "a", []byte("another"), a, b)
	wantCheckpoint(t, m, "saved under another name", "A", all[slices.Index(ids, "A"):], a, b)
	save(t, m, a, "a", []byte{})
	wantCheckpoint(t, m, "of no bytes", "a", []byte{}, a, b)
	for range 2 { // the second time there is nothing to remove
		save(t, m, b, "a", nil)
		wantCheckpoint(t, m, "removed", "a", nil, a, b)
	}
	wantCheckpoint(t, m, "another name's was removed", "aB", all[slices.Index(ids, "aB"):], a, b)
	save(t, m, a, "a", []byte("again"))
	wantCheckpoint(t, m, "saved again", "a", []byte("again"), a, b)
}

func checkpointBound(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	most := bytes.Repeat([]byte{0xff}, coord.MaxCheckpoint)
	save(t, m, a, "c", most)
	wantCheckpoint(t, m, "as large as may be", "c", most, a, b)
	err := b.SaveCheckpoint(m.ctx, "c", make([]byte, coord.MaxCheckpoint+1))
	if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Fatalf("larger than may be: got %v, want a plain error", err)
	}
	for _, part := range []string{`"c"`, fmt.Sprint(coord.MaxCheckpoint), fmt.Sprint(coord.MaxCheckpoint + 1)} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %s", err, part)
		}
	}
	wantCheckpoint(t, m, "after what was refused", "c", most, a, b)
}

// checkpointsConcurrently: of those saved at once one stands, whole.
func checkpointsConcurrently(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	for _, err := range concurrently(8, func(i int) error {
		return handles[i%2].SaveCheckpoint(m.ctx, "c", bytes.Repeat([]byte{byte(i)}, 1000+i))
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := handles[0].Checkpoint(m.ctx, "c")
	if err != nil || len(got) < 1000 || !bytes.Equal(got, bytes.Repeat(got[:1], 1000+int(got[0]))) {
		t.Errorf("%d bytes, %v; want those of one caller", len(got), err)
	}
}
