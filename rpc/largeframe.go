package rpc

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pairdb/coordinator/rpc/codec"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// A large value is not copied into the frame that carries it: the frame is all
// else, and then the value. The wire format of protocol buffers allows that,
// since fields may come in any order, and a message that comes in two parts is
// the two merged: of the version, the value is the second part.

// Fields of storage.proto.
const (
	fieldOperations = 1 // of Batch
	fieldReplies    = 1 // of BatchReply
	fieldVersion    = 9 // of Operation
	fieldHeld       = 4 // of Reply
	fieldValue      = 6 // of Version
)

// sendOperations writes a batch.
func (f *frames) sendOperations(batch *storagepb.Batch) error {
	if len(batch.Operations) == 1 {
		op := batch.Operations[0]
		if value := op.GetVersion().GetValue(); len(value) > aliasAbove {
			op.Version.Value = nil
			return f.sendLarge(frameOperations, &storagepb.Batch{}, fieldOperations, op, fieldVersion, value)
		}
	}
	return f.send(frameOperations, batch)
}

// sendReplies writes a batch of replies.
func (f *frames) sendReplies(batch *storagepb.BatchReply) error {
	if len(batch.Replies) == 1 {
		reply := batch.Replies[0]
		if value := reply.GetHeld().GetValue(); len(value) > aliasAbove {
			reply.Held.Value = nil
			rest := &storagepb.BatchReply{Clock: batch.Clock, Boot: batch.Boot}
			return f.sendLarge(frameReplies, rest, fieldReplies, reply, fieldHeld, value)
		}
	}
	return f.send(frameReplies, batch)
}

// sendLarge writes a frame of a message that consists of rest and, in field, of
// entry, whose version, in its field, has the value that entry itself lacks.
func (f *frames) sendLarge(kind byte, rest codec.Message, field protowire.Number,
	entry codec.Message, version protowire.Number, value []byte) error {
	restSize, entrySize := rest.SizeVT(), entry.SizeVT()
	versionSize := protowire.SizeTag(fieldValue) + protowire.SizeBytes(len(value))
	wholeEntry := entrySize + protowire.SizeTag(version) + protowire.SizeBytes(versionSize)
	size := restSize + protowire.SizeTag(field) + protowire.SizeBytes(wholeEntry)

	f.writing.Lock()
	defer f.writing.Unlock()
	payload, err := f.room(size, size-len(value))
	if err != nil {
		return err
	}
	if _, err := rest.MarshalToSizedBufferVT(payload[:restSize]); err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	at := protowire.AppendVarint(protowire.AppendTag(payload[:restSize], field, protowire.BytesType), uint64(wholeEntry))
	if _, err := entry.MarshalToSizedBufferVT(payload[len(at) : len(at)+entrySize]); err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	at = protowire.AppendTag(payload[:len(at)+entrySize], version, protowire.BytesType)
	at = protowire.AppendVarint(at, uint64(versionSize))
	at = protowire.AppendTag(at, fieldValue, protowire.BytesType)
	protowire.AppendVarint(at, uint64(len(value)))
	return f.write(kind, value)
}
