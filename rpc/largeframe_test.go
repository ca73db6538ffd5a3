package rpc

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pairdb/coordinator/rpc/storagepb"
)

// A frame whose value was not copied into it says the same as one that was
// encoded in one piece, whoever decodes it.
func TestLargeFramesSayTheSame(t *testing.T) {
	version := func(size int) *storagepb.Version {
		return &storagepb.Version{
			Timestamp: 5, WriterId: "c1", WriterIncarnation: 2, Expires: 9,
			Clock: []*storagepb.ClockEntry{{Id: "c1", Counter: 3, Updated: 5}, {Id: "c2", Counter: 1}},
			Value: bytes.Repeat([]byte("v"), size),
		}
	}
	for _, size := range []int{1, aliasAbove, aliasAbove + 1, largeValue + 1, MaxValueBytes} {
		batch := &storagepb.Batch{Operations: []*storagepb.Operation{{
			Id: 7, Kind: storagepb.Kind_KIND_APPLY, Tenant: "t", Key: "k", Token: 11, Epoch: 3,
			TimeoutMs: 100, Version: version(size), Heard: 4, Boot: 2,
		}}}
		replies := &storagepb.BatchReply{Clock: 12, Boot: 2, Replies: []*storagepb.Reply{{
			Id: 7, Held: version(size), Floor: 3,
		}}}
		wantBatch, wantReplies := proto.Clone(batch), proto.Clone(replies)
		conn := &scripted{}
		f := newFrames(conn)
		if err := f.sendOperations(batch); err != nil {
			t.Fatal(err)
		}
		if err := f.sendReplies(replies); err != nil {
			t.Fatal(err)
		}
		conn.in = &conn.out
		received := newFrames(conn)
		check := func(kind byte, fast interface {
			proto.Message
			UnmarshalVTUnsafe([]byte) error
		}, whole, want proto.Message) {
			t.Helper()
			got, payload, err := received.next()
			if err != nil || got != kind {
				t.Fatalf("%d bytes: a frame of kind %d, %v; want %d", size, got, err, kind)
			}
			if err := fast.UnmarshalVTUnsafe(payload); err != nil || !proto.Equal(fast, want) {
				t.Errorf("%d bytes, generated decoder: %v, another message of kind %d", size, err, kind)
			}
			if err := proto.Unmarshal(payload, whole); err != nil || !proto.Equal(whole, want) {
				t.Errorf("%d bytes, standard decoder: %v, another message of kind %d", size, err, kind)
			}
		}
		check(frameOperations, new(storagepb.Batch), new(storagepb.Batch), wantBatch)
		check(frameReplies, new(storagepb.BatchReply), new(storagepb.BatchReply), wantReplies)
	}
}
