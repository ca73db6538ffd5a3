package badger

import (
	"bytes"
	"testing"

	"github.com/pairdb/coordinator/ring"
)

// What is taken for a key comes back as it was.
func FuzzSplitKey(f *testing.F) {
	f.Add(appendKey(nil, 1, ring.KeyToken("t", "k"), "t", "k"))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		token, tenant, key, err := splitKey(b)
		if err != nil {
			return
		}
		if again := appendKey(nil, b[0], token, string(tenant), string(key)); !bytes.Equal(again, b) {
			t.Errorf("%x comes back as %x", b, again)
		}
	})
}
