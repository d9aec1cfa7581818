package wire

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// A ping keeps a lease alive, and a pong is the answer to it. At etcd each is a message of its own, LeaseKeepAliveRequest
// and LeaseKeepAliveResponse.
//
// Between two of weir's processes many travel in one, on the bidirectional stream /weir.Leases/KeepAlive. The client's
// messages have the field
//
//	1 repeated int64 ids, packed
//
// and the server's, whose parts may answer pings of several messages, in any order and not all at once:
//
//	1 ResponseHeader header
//	2 repeated pongs    {1 int64 id, 2 int64 ttl}
//	3 repeated failures {1 int64 id, 2 string text, 3 uint32 code}
//
// Each ping has one pong or one failure. A failure does not end the stream.
const (
	PingsService = "weir.Leases"
	PingsMethod  = "/weir.Leases/KeepAlive"
	// PingsHeader is in the header of its answers. Without it there is no such method: an etcd with TLS, whose gRPC goes through
	// net/http, sends a header before it says so.
	PingsHeader = "weir-leases"
)

// Pong is the answer to one ping. TTL is in seconds, 0 if the lease is not there.
type Pong struct{ ID, TTL int64 }

// PingFailure is what became of a ping that has no pong: a gRPC status.
type PingFailure struct {
	ID   int64
	Text string
	Code uint32
}

// PongBatch is one message of the server on PingsMethod.
type PongBatch struct {
	Header   Header // of all pongs
	Pongs    []Pong
	Failures []PingFailure
}

// AppendPing appends an encoded LeaseKeepAliveRequest.
func AppendPing(dst []byte, id int64) []byte { return appendVarint(dst, 1, uint64(id)) }

// UnmarshalPing decodes a LeaseKeepAliveRequest.
func UnmarshalPing(b []byte) (id int64, err error) {
	p, err := unmarshalPong(b, "LeaseKeepAliveRequest")
	return p.ID, err
}

// AppendPong appends an encoded LeaseKeepAliveResponse.
func AppendPong(dst []byte, h Header, p Pong) []byte {
	dst = h.Append(dst)
	dst = appendVarint(dst, 2, uint64(p.ID))
	return appendVarint(dst, 3, uint64(p.TTL))
}

// UnmarshalPong decodes a LeaseKeepAliveResponse.
func UnmarshalPong(b []byte) (h Header, p Pong, err error) {
	for at, i := 0, 0; i < len(b); at = i {
		var tag, v uint64
		tag, i = readVarint(b, i)
		switch tag {
		case 1<<3 | uint64(bytesType):
			var body []byte
			if body, i = readBytes(b, i); i >= 0 {
				if err := h.merge(body); err != nil {
					return h, p, err
				}
			}
		case 2 << 3:
			v, i = readVarint(b, i)
			p.ID = int64(v)
		case 3 << 3:
			v, i = readVarint(b, i)
			p.TTL = int64(v)
		default:
			i = skipField(b, i, tag)
		}
		if i < 0 {
			return h, p, malformed("LeaseKeepAliveResponse", at)
		}
	}
	return h, p, nil
}

// AppendPings appends a client's message on PingsMethod.
func AppendPings(dst []byte, ids []int64) []byte {
	size := 0
	for _, id := range ids {
		size += protowire.SizeVarint(uint64(id))
	}
	dst = appendPrefix(dst, 1, size)
	for _, id := range ids {
		dst = protowire.AppendVarint(dst, uint64(id))
	}
	return dst
}

// UnmarshalPings appends to ids those of a client's message on PingsMethod.
func UnmarshalPings(b []byte, ids []int64) ([]int64, error) {
	for at, i := 0, 0; i < len(b); at = i {
		var tag, v uint64
		tag, i = readVarint(b, i)
		switch tag {
		case 1<<3 | uint64(bytesType):
			var body []byte
			body, i = readBytes(b, i)
			for j := 0; j < len(body) && i >= 0; {
				if v, j = readVarint(body, j); j < 0 {
					i = -1
					break
				}
				ids = append(ids, int64(v))
			}
		case 1 << 3:
			if v, i = readVarint(b, i); i >= 0 {
				ids = append(ids, int64(v))
			}
		default:
			i = skipField(b, i, tag)
		}
		if i < 0 {
			return ids, malformed("pings", at)
		}
	}
	return ids, nil
}

// Append appends the encoded batch.
func (b *PongBatch) Append(dst []byte) []byte {
	dst = b.Header.Append(dst)
	for _, p := range b.Pongs {
		dst = appendPrefix(dst, 2, sizeVarint(uint64(p.ID))+sizeVarint(uint64(p.TTL)))
		dst = appendVarint(dst, 1, uint64(p.ID))
		dst = appendVarint(dst, 2, uint64(p.TTL))
	}
	for _, f := range b.Failures {
		dst = appendPrefix(dst, 3, sizeVarint(uint64(f.ID))+sizeBytes(len(f.Text))+sizeVarint(uint64(f.Code)))
		dst = appendVarint(dst, 1, uint64(f.ID))
		dst = appendBytes(dst, 2, f.Text)
		dst = appendVarint(dst, 3, uint64(f.Code))
	}
	return dst
}

// Unmarshal decodes an encoded batch into b, whose slices are used again. It does not keep the encoded one.
func (b *PongBatch) Unmarshal(raw []byte) error {
	b.Header, b.Pongs, b.Failures = Header{}, b.Pongs[:0], b.Failures[:0]
	for at, i := 0, 0; i < len(raw); at = i {
		var tag uint64
		tag, i = readVarint(raw, i)
		var body []byte
		var err error
		switch tag {
		case 1<<3 | uint64(bytesType):
			if body, i = readBytes(raw, i); i >= 0 {
				err = b.Header.merge(body)
			}
		case 2<<3 | uint64(bytesType):
			if body, i = readBytes(raw, i); i >= 0 {
				var p Pong
				p, err = unmarshalPong(body, "pong")
				b.Pongs = append(b.Pongs, p)
			}
		case 3<<3 | uint64(bytesType):
			if body, i = readBytes(raw, i); i >= 0 {
				var f PingFailure
				f, err = unmarshalPingFailure(body)
				b.Failures = append(b.Failures, f)
			}
		default:
			i = skipField(raw, i, tag)
		}
		if err != nil {
			return err
		}
		if i < 0 {
			return malformed("pongs", at)
		}
	}
	return nil
}

// unmarshalPong decodes a pong of a batch. It does for a LeaseKeepAliveRequest too, which has the id alone.
func unmarshalPong(b []byte, message string) (p Pong, err error) {
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1 << 3:
			v, i = readVarint(b, i)
			p.ID = int64(v)
		case 2 << 3:
			v, i = readVarint(b, i)
			p.TTL = int64(v)
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return p, malformed(message, at)
		}
	}
	return p, nil
}

func unmarshalPingFailure(b []byte) (f PingFailure, err error) {
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1 << 3:
			v, i = readVarint(b, i)
			f.ID = int64(v)
		case 2<<3 | uint64(bytesType):
			var text []byte
			text, i = readBytes(b, i)
			f.Text = string(text)
		case 3 << 3:
			v, i = readVarint(b, i)
			f.Code = uint32(v)
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return f, malformed("failed ping", at)
		}
	}
	return f, nil
}
