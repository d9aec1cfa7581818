package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A frame has the raft messages that were queued when it was made.
//
//	offset 0   1 byte    format version
//	then for each message
//	           uvarint   its length
//	           n bytes   raftpb.Message
//
// It is sent in parts, each a gRPC message of weir.Peers/Messages: the first is the frame's beginning, others have the same first
// byte before what they carry. In all but the last part that byte has the bit continued set. So no gRPC message is large, and
// the server may refuse one that is, whoever sends it and whatever the call.
//
// Nearly all frames have one part. A raft message is in one frame, whatever its size: raft bounds an append by what one entry
// may have, and an entry by --max-request-bytes.
const (
	formatVersion = 1
	continued     = 0x80
	frameSize     = 1 << 20   // what several messages in one frame have at most
	maxFrameSize  = 512 << 20 // what a frame of a single message may have, as at etcd
	partSize      = 2 << 20   // what all parts but the last have: more than what members say in one message, but for a large request
)

var (
	errTruncated = errors.New("the frame is truncated")
	errFormat    = errors.New("unknown format")
	errTooLarge  = errors.New("the frame is too large")
	errSmallPart = errors.New("a part of a frame is too small")
)

// encodeFrame copies messages into a buffer that gRPC puts back into the pool when it is written, after partsOf.
func encodeFrame(ms []outgoing) (mem.Buffer, error) {
	size := 1
	for _, m := range ms {
		size += protowire.SizeVarint(uint64(m.size)) + m.size
	}
	return encode(size, func(b []byte) ([]byte, error) {
		b = append(b, formatVersion)
		if size > partSize {
			b[0] |= continued
		}
		for _, m := range ms {
			var err error
			if b, err = appendMessage(b, m.Message, m.size); err != nil {
				return nil, err
			}
		}
		return b, nil
	})
}

// partsOf returns the parts of an encoded frame, in order. It takes the frame's buffer, and who ranges over the parts takes theirs.
func partsOf(frame mem.Buffer) iter.Seq[mem.BufferSlice] {
	return func(yield func(mem.BufferSlice) bool) {
		if frame.Len() <= partSize {
			yield(mem.BufferSlice{frame})
			return
		}
		part, rest := mem.SplitUnsafe(frame, partSize)
		for more := yield(mem.BufferSlice{part}); ; {
			if !more {
				rest.Free()
				return
			}
			if rest.Len() < partSize {
				yield(mem.BufferSlice{mem.SliceBuffer{formatVersion}, rest})
				return
			}
			part, rest = mem.SplitUnsafe(rest, partSize-1)
			more = yield(mem.BufferSlice{mem.SliceBuffer{formatVersion | continued}, part})
		}
	}
}

// assembly puts frames together from their parts. It keeps the parts and joins them once the last has come: a slice that grows would
// take three times as much, and one that is made for what is announced would take it before anything has come. No part but the last
// may be small, so that a frame has few, and one that comes bit by bit is quiet: see Transport.watch.
type assembly struct {
	part  int        // bytes of all parts but the last
	limit func() int // of a frame of several parts, in bytes
	parts [][]byte   // of a frame that is not whole
	size  int        // of that frame so far
}

// add takes the next part, and returns the frame that is whole with it, or nil. A frame of one part is not copied.
func (a *assembly) add(part []byte) (frame []byte, err error) {
	switch {
	case len(part) == 0:
		return nil, errTruncated
	case part[0]&^continued != formatVersion:
		return nil, fmt.Errorf("%w %d, want %d", errFormat, part[0]&^continued, formatVersion)
	}
	more := part[0]&continued != 0
	if !more && !a.begun() {
		return part, nil
	}
	switch {
	case len(part) == 1:
		return nil, errTruncated
	case more && len(part) < a.part:
		return nil, errSmallPart
	}
	size := max(a.size, 1) + len(part) - 1
	if limit := a.limit(); size > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	a.parts, a.size = append(a.parts, part), size
	if more {
		return nil, nil
	}
	frame = append(make([]byte, 0, size), formatVersion)
	for _, part := range a.parts {
		frame = append(frame, part[1:]...)
	}
	a.parts, a.size = nil, 0
	return frame, nil
}

// begun tells whether there is a frame that is not whole.
func (a *assembly) begun() bool { return len(a.parts) > 0 }

// decodeFrame calls deliver with the messages of a frame, in order. The first error ends it.
func decodeFrame(b []byte, deliver func(*raftpb.Message) error) error {
	b, err := checkFormat(b)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		m := new(raftpb.Message)
		if b, err = consumeMessage(b, m); err != nil {
			return err
		}
		if err := deliver(m); err != nil {
			return err
		}
	}
	return nil
}

// A snapshotHead is the first gRPC message of weir.Peers/Snapshot. The bytes follow in messages of at most chunkSize, and then
// their checksum, SHA-256, in one of its own.
//
//	offset 0   1 byte    format version
//	offset 1   uvarint   size of the snapshot in bytes
//	           uvarint   length of the message
//	           n bytes   raftpb.Message
type snapshotHead struct {
	size    int64
	message *raftpb.Message
}

const chunkSize = 64 << 10

func (h snapshotHead) encode() (mem.BufferSlice, error) {
	n := proto.Size(h.message)
	size := 1 + protowire.SizeVarint(uint64(h.size)) + protowire.SizeVarint(uint64(n)) + n
	b, err := encode(size, func(b []byte) ([]byte, error) {
		b = append(b, formatVersion)
		b = protowire.AppendVarint(b, uint64(h.size))
		return appendMessage(b, h.message, n)
	})
	return mem.BufferSlice{b}, err
}

func decodeSnapshotHead(b []byte) (h snapshotHead, err error) {
	if b, err = checkFormat(b); err != nil {
		return h, err
	}
	size, n := binary.Uvarint(b)
	if n <= 0 || int64(size) < 0 {
		return h, errTruncated
	}
	h.size, h.message = int64(size), new(raftpb.Message)
	if b, err = consumeMessage(b[n:], h.message); err != nil {
		return h, err
	}
	if len(b) > 0 {
		return h, fmt.Errorf("%d bytes after the message", len(b))
	}
	return h, nil
}

// encode makes a buffer of the size that write appends.
func encode(size int, write func([]byte) ([]byte, error)) (mem.Buffer, error) {
	pool := mem.DefaultBufferPool()
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := write(make([]byte, 0, size))
		return mem.SliceBuffer(b), err
	}
	b := pool.Get(size)
	if _, err := write((*b)[:0]); err != nil {
		pool.Put(b)
		return nil, err
	}
	return mem.NewBuffer(b, pool), nil
}

// appendMessage needs the size that proto.Size has returned for m. Other goroutines may encode the same entries.
func appendMessage(b []byte, m *raftpb.Message, size int) ([]byte, error) {
	b = protowire.AppendVarint(b, uint64(size))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
}

func checkFormat(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, errTruncated
	}
	if b[0] != formatVersion {
		return nil, fmt.Errorf("%w %d, want %d", errFormat, b[0], formatVersion)
	}
	return b[1:], nil
}

func consumeMessage(b []byte, m *raftpb.Message) ([]byte, error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, errTruncated
	}
	end := n + int(size)
	if err := proto.Unmarshal(b[n:end], m); err != nil {
		return nil, fmt.Errorf("decode a raft message: %w", err)
	}
	return b[end:], nil
}
