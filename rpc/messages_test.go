package rpc

import (
	"fmt"
	"testing"
)

func TestMessagesAreCounted(t *testing.T) {
	var sent Messages
	node := startStorage(t, newMemoryReplica())
	client := node.connect(StorageOptions{Messages: &sent})
	const calls = 100
	done := make(ended, calls)
	for i := range calls {
		client.Do(applyCall(fmt.Sprint(i), version(int64(i+1), []byte("v")), done))
	}
	for range calls {
		if err := done.wait(t).Err; err != nil {
			t.Fatal(err)
		}
	}
	messages, operations := sent.Count()
	if operations != calls || messages < 1 || messages > calls {
		t.Errorf("sent %d operations in %d messages, want %d operations in at most as many", operations, messages, calls)
	}
	if gotMessages, gotOperations := node.server.Messages().Count(); gotMessages != messages || gotOperations != operations {
		t.Errorf("the node got %d operations in %d messages, want %d in %d", gotOperations, gotMessages, operations, messages)
	}
}
