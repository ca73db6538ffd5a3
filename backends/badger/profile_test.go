package badger

import "testing"

// Replicas get the same writes, and must not all flush at the same moment.
func TestMemTablesDiffer(t *testing.T) {
	for _, p := range []Profile{Small, Large} {
		sizes, most := map[int64]bool{}, p.limits().memTable
		for range 20 {
			size := p.options("", false).MemTableSize
			if size > most || size < most/2 {
				t.Errorf("a memtable of %d bytes, the profile's is %d", size, most)
			}
			sizes[size] = true
		}
		if len(sizes) < 10 {
			t.Errorf("20 stores have memtables of %d sizes", len(sizes))
		}
	}
}
