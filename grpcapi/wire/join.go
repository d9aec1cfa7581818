package wire

import "google.golang.org/grpc/mem"

// shareFrom is the length in bytes from which a part of a response is shared instead of copied. A shared part costs
// the transport two more buffers, about 80 ns; in BenchmarkShareOrCopy that is as much as copying 256 bytes and
// half as much as copying 512.
const shareFrom = 512

// join returns the message that consists of head, of each kv as field num, and of tail. It shares the kvs of at least
// limit bytes, which is shareFrom but in benchmarks, and copies everything else, in one allocation.
func join(head []byte, num byte, kvs [][]byte, tail []byte, limit int) mem.BufferSlice {
	size, shared := len(head)+len(tail), 0
	for _, kv := range kvs {
		size += sizeMessage(len(kv))
		if len(kv) >= limit {
			size -= len(kv)
			shared++
		}
	}
	buf := append(make([]byte, 0, size), head...)
	if shared == 0 {
		for _, kv := range kvs {
			buf = appendMessage(buf, num, kv)
		}
		return oneBuffer(append(buf, tail...))
	}
	parts := make([]mem.SliceBuffer, 0, 2*shared+1)
	start := 0 // of what is in buf but not in parts
	for _, kv := range kvs {
		buf = appendPrefix(buf, num, len(kv))
		if len(kv) < limit {
			buf = append(buf, kv...)
			continue
		}
		parts = append(parts, buf[start:len(buf):len(buf)], kv)
		start = len(buf)
	}
	if buf = append(buf, tail...); start < len(buf) {
		parts = append(parts, buf[start:])
	}
	// Pointers to the parts, because a slice put into an interface is an allocation.
	out := make(mem.BufferSlice, len(parts))
	for i := range parts {
		out[i] = &parts[i]
	}
	return out
}

// oneBuffer is mem.BufferSlice{mem.SliceBuffer(b)} in one allocation instead of two.
func oneBuffer(b []byte) mem.BufferSlice {
	m := &struct {
		list [1]mem.Buffer
		buf  mem.SliceBuffer
	}{buf: b}
	m.list[0] = &m.buf
	return m.list[:]
}
