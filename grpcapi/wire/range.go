package wire

import (
	"slices"

	"google.golang.org/grpc/mem"
)

// EncodeRange returns an encoded RangeResponse. kvs are encoded KeyValues. The response keeps the large ones, so
// they must be immutable memory of the garbage collector, never pages of a mapped file.
func EncodeRange(h Header, kvs [][]byte, more bool, count int64) mem.BufferSlice {
	var head [maxHeaderSize]byte
	var tail [maxRangeEndSize]byte
	return join(h.Append(head[:0]), 2, kvs, AppendRangeEnd(tail[:0], more, count), shareFrom)
}

// EncodeRangeStream returns an encoded RangeStreamResponse, which keeps kvs as EncodeRange does. Only the last
// response of a stream has header, more and count; the others are given the zero Header, false and 0.
func EncodeRangeStream(h Header, kvs [][]byte, more bool, count int64) mem.BufferSlice {
	var headBuf [maxHeaderSize]byte
	var tailBuf [maxRangeEndSize]byte
	head, tail := headBuf[:0], AppendRangeEnd(tailBuf[:0], more, count)
	if h != (Header{}) {
		head = h.Append(head)
	}
	size := len(head) + len(tail)
	for _, kv := range kvs {
		size += sizeMessage(len(kv))
	}
	var wrapped [maxPrefixSize + maxHeaderSize]byte
	head = append(appendPrefix(wrapped[:0], 1, size), head...)
	return join(head, 2, kvs, tail, shareFrom)
}

// AppendRange appends what EncodeRange returns, for a response nested in a TxnResponse.
func AppendRange(dst []byte, h Header, kvs [][]byte, more bool, count int64) []byte {
	return AppendRangeBody(h.Append(dst), kvs, more, count)
}

// AppendRangeBody appends what EncodeRange returns, without the header: what is the same for everybody who asks, as
// long as nothing in the range changes. WithHeader makes a response of it.
func AppendRangeBody(dst []byte, kvs [][]byte, more bool, count int64) []byte {
	size := maxRangeEndSize
	for _, kv := range kvs {
		size += sizeMessage(len(kv))
	}
	dst = slices.Grow(dst, size)
	for _, kv := range kvs {
		dst = appendMessage(dst, 2, kv)
	}
	return AppendRangeEnd(dst, more, count)
}

// AppendRangeEnd appends more and count of a RangeResponse.
func AppendRangeEnd(dst []byte, more bool, count int64) []byte {
	return appendVarint(appendBool(dst, 3, more), 4, uint64(count))
}

const maxRangeEndSize = 2 + maxVarintFieldSize
