package wire

import "google.golang.org/grpc/mem"

// EncodePut returns an encoded PutResponse. prev is the encoded KeyValue before the put, which the response keeps;
// nil when there was none or nobody asked.
func EncodePut(h Header, prev []byte) mem.BufferSlice {
	var head [maxHeaderSize]byte
	if prev == nil {
		return join(h.Append(head[:0]), 2, nil, nil, shareFrom)
	}
	return join(h.Append(head[:0]), 2, [][]byte{prev}, nil, shareFrom)
}

// AppendPut appends what EncodePut returns.
func AppendPut(dst []byte, h Header, prev []byte) []byte {
	dst = h.Append(dst)
	if prev != nil {
		dst = appendMessage(dst, 2, prev)
	}
	return dst
}

// EncodeDeleteRange returns an encoded DeleteRangeResponse. prevKVs are the encoded KeyValues that were deleted,
// which the response keeps; none when nobody asked for them.
func EncodeDeleteRange(h Header, deleted int64, prevKVs [][]byte) mem.BufferSlice {
	var head [maxHeaderSize + maxVarintFieldSize]byte
	return join(AppendDeleteRange(head[:0], h, deleted, nil), 3, prevKVs, nil, shareFrom)
}

// AppendDeleteRange appends what EncodeDeleteRange returns.
func AppendDeleteRange(dst []byte, h Header, deleted int64, prevKVs [][]byte) []byte {
	dst = appendVarint(h.Append(dst), 2, uint64(deleted))
	for _, kv := range prevKVs {
		dst = appendMessage(dst, 3, kv)
	}
	return dst
}
