package rpc

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

func TestTheHighestCommonVersionIsSpoken(t *testing.T) {
	for _, c := range []struct {
		node, coordinator speech
		want              byte
		outdated          int
	}{
		{node: speech{1, 2}, coordinator: speech{1, 2}, want: 2},
		{node: speech{1, 1}, coordinator: speech{1, 2}, want: 1},
		{node: speech{1, 2}, coordinator: speech{1, 1}, want: 1, outdated: 1},
		{node: speech{1, 1}, coordinator: speech{1, 1}, want: 1},
		{node: speech{2, 4}, coordinator: speech{1, 3}, want: 3, outdated: 1},
		{node: speech{1, 2}, coordinator: speech{2, 9}, want: 2},
	} {
		node := startSpeaking(t, newMemoryReplica(), c.node)
		opts := StorageOptions{Address: node.address, speaks: c.coordinator}.withDefaults()
		f, hello, err := dialFrames(testContext(t), &opts, new(traffic))
		if err != nil || f.protocol != c.want || hello.Id == "" {
			t.Errorf("node %v, coordinator %v: %+v, %v, want version %d", c.node, c.coordinator, f, err, c.want)
			continue
		}
		// A ping is answered only once the exchange has begun.
		if err := f.sendText(framePing, ""); err != nil {
			t.Error(err)
		}
		if kind, _, err := f.next(); kind != framePong || err != nil {
			t.Errorf("node %v, coordinator %v: frame %d, %v", c.node, c.coordinator, kind, err)
		}
		if n := node.server.OutdatedConnections(); n != c.outdated {
			t.Errorf("node %v, coordinator %v: %d outdated connections, want %d", c.node, c.coordinator, n, c.outdated)
		}
		f.conn.Close()
	}
}

func TestOperationsTravelBetweenVersions(t *testing.T) {
	for _, node := range []speech{{1, 1}, {1, 2}} {
		for _, coordinator := range []speech{{1, 1}, {1, 2}} {
			client := startSpeaking(t, newMemoryReplica(), node).connect(StorageOptions{speaks: coordinator})
			done := make(ended, 1)
			v := coord.Version{Head: coord.Head{Timestamp: 7, Writer: coord.Writer{ID: "c", Incarnation: 1}}, Value: []byte("v")}
			client.Do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: "k", Version: v, Caller: done})
			if c := done.wait(t); c.Err != nil || c.Held.Timestamp != 7 {
				t.Errorf("node %v, coordinator %v: %v, %v", node, coordinator, c.Held.Head, c.Err)
			}
		}
	}
}

func TestWithoutACommonVersionTheReasonIsTold(t *testing.T) {
	for _, c := range []struct {
		node, coordinator speech
		want              string
	}{
		{speech{3, 4}, speech{1, 2}, "this coordinator speaks versions 1 to 2: this node speaks versions 3 to 4 of the storage protocol, not version 1"},
		{speech{1, 2}, speech{3, 4}, "this coordinator speaks versions 3 to 4: this node speaks versions 1 to 2 of the storage protocol, not versions 3 to 4"},
		{speech{1, 1}, speech{2, 2}, "this coordinator speaks version 2: this node speaks version 1 of the storage protocol, not 2"},
		{speech{2, 2}, speech{1, 1}, "this coordinator speaks version 1: this node speaks version 2 of the storage protocol, not version 1"},
	} {
		node := startSpeaking(t, newMemoryReplica(), c.node)
		opts := StorageOptions{Address: node.address, speaks: c.coordinator}.withDefaults()
		_, _, err := dialFrames(testContext(t), &opts, new(traffic))
		if !errors.Is(err, errProtocol) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("node %v, coordinator %v: %v, want %q", c.node, c.coordinator, err, c.want)
		}
	}
}

func TestBadGreetingsAreRefused(t *testing.T) {
	node := startSpeaking(t, newMemoryReplica(), speech{1, 2})
	for greeting, want := range map[string]string{
		"PDBX\x00":         "versions 1 to 2 of the storage protocol, not 0",
		"PDBX\x03":         "versions 1 to 2 of the storage protocol, not 3",
		"PDBX\x02\x02\x01": "versions 1 to 2 of the storage protocol, not versions 2 to 1",
		"PDBX\x02\x03\xff": "versions 1 to 2 of the storage protocol, not versions 3 to 255",
	} {
		conn, err := net.Dial("tcp", node.address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(greeting)); err != nil {
			t.Fatal(err)
		}
		kind, payload, err := newFrames(conn).next()
		if err != nil || kind != frameBye || !strings.Contains(string(payload), want) {
			t.Errorf("%q: got %d, %q, %v, want %q", greeting, kind, payload, err, want)
		}
		conn.Close()
	}
}

// Version 2 may be added to: frames that are marked as optional are skipped.
func TestOptionalFramesAreSkipped(t *testing.T) {
	for version, skipped := range map[byte]bool{1: false, 2: true} {
		node := startSpeaking(t, newMemoryReplica(), speech{1, 2})
		opts := StorageOptions{Address: node.address, speaks: speech{1, version}}.withDefaults()
		f, _, err := dialFrames(testContext(t), &opts, new(traffic))
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []byte{frameOptional, framePing} {
			if err := f.sendText(kind, ""); err != nil {
				t.Fatal(err)
			}
		}
		if kind, payload, err := f.next(); err != nil || (kind == framePong) != skipped {
			t.Errorf("version %d: frame %d, %q, %v", version, kind, payload, err)
		}
		f.conn.Close()
	}
}
