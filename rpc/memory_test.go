package rpc

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

func TestMemoryIsUsedAgain(t *testing.T) {
	var m memory
	eventually(t, "what was put is got", func() bool {
		b := m.get(3<<20 + 1)
		m.put(b)
		again := m.get(2 << 20)
		return len(b) == 3<<20+1 && len(again) == 2<<20 && &b[0] == &again[0]
	})
	// What is kept anyway, or too short, is not handed out.
	m.put(make([]byte, keptBuffer))
	if got := m.get(keptBuffer + 1); len(got) != keptBuffer+1 {
		t.Errorf("got %d bytes, want %d", len(got), keptBuffer+1)
	}
	var none *memory
	none.put(none.get(2 << 20))
}

// Large values that come in while others are under way, and after, are not
// mixed up.
func TestLargeValuesKeepApart(t *testing.T) {
	replica := newMemoryReplica()
	client := startStorage(t, replica).connect(StorageOptions{})
	const values = 4
	size := func(i int) int { return keptBuffer<<(i%2) + 100*i }
	done := make(ended, values)
	for round := range 5 {
		replica.hold()
		for i := range values {
			value := bytes.Repeat([]byte{byte(10*round + i)}, size(i))
			client.Do(applyCall(fmt.Sprint(i), version(int64(round+1), value), done))
		}
		eventually(t, "all are under way", func() bool { return replica.waits() == values })
		replica.release()
		for range values {
			if err := done.wait(t).Err; err != nil {
				t.Fatal(err)
			}
		}
		for i := range values {
			client.Do(readCall(fmt.Sprint(i), 10*time.Second, done))
			got := done.wait(t)
			if got.Err != nil {
				t.Fatal(got.Err)
			}
			if want := bytes.Repeat([]byte{byte(10*round + i)}, size(i)); !bytes.Equal(got.Held.Value, want) {
				t.Fatalf("round %d: value %d is not what was written", round, i)
			}
		}
	}
}
