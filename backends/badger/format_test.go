package badger

import (
	"encoding/json"
	"strings"
	"testing"
)

// reformat makes a directory say that it is of another format.
func reformat(t *testing.T, dir string, who identity) {
	t.Helper()
	st, _, err := openStore(dir, Small.options(dir, false), nil, identity{Kind: who.Kind, ID: who.ID})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(who)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.commit([]change{{key: []byte(identityKey), value: text}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
}

// A directory that a newer release has changed is left alone, by nodes and by
// idempotency stores.
func TestANewerFormatIsRefused(t *testing.T) {
	for kind, open := range map[string]func(dir string) error{
		kindNode: func(dir string) error {
			n, err := OpenNode(NodeOptions{ID: "a", Dir: dir, MinFreeBytes: 1})
			if err == nil {
				err = n.Close()
			}
			return err
		},
		kindClaims: func(dir string) error {
			c, err := OpenClaims(ClaimsOptions{Dir: dir, MinFreeBytes: 1})
			if err == nil {
				err = c.Close()
			}
			return err
		},
	} {
		dir := t.TempDir()
		if err := open(dir); err != nil {
			t.Fatal(err)
		}
		id := ""
		if kind == kindNode {
			id = "a"
		}
		reformat(t, dir, identity{Format: identityFormat + 1, Kind: kind, ID: id, UUID: "u"})
		for range 2 { // it is not changed by being refused
			err := open(dir)
			if err == nil || !strings.Contains(err.Error(), "its format is 2, and this release knows formats up to 1: it was last opened by a newer release") ||
				!strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}
