package wire

import "google.golang.org/grpc/mem"

// Header is an etcdserverpb.ResponseHeader.
type Header struct {
	ClusterID, MemberID uint64
	Revision            int64
	RaftTerm            uint64
}

const maxHeaderSize = 2 + 4*maxVarintFieldSize

// Append appends h as field 1 (tag, length, message) of a response. Every etcd response has its header there.
func (h Header) Append(dst []byte) []byte {
	dst = append(dst, 1<<3|bytesType, 0)
	start := len(dst)
	dst = appendVarint(dst, 1, h.ClusterID)
	dst = appendVarint(dst, 2, h.MemberID)
	dst = appendVarint(dst, 3, uint64(h.Revision))
	dst = appendVarint(dst, 4, h.RaftTerm)
	dst[start-1] = byte(len(dst) - start) // below 128, so it is a varint of one byte
	return dst
}

// WithHeader returns the encoded response that consists of h and of body, which is any response without its header
// (AppendRangeBody). The response keeps a large body, which may be shared by any number of responses.
func WithHeader(h Header, body []byte) mem.BufferSlice {
	if len(body) < shareFrom {
		return oneBuffer(append(h.Append(make([]byte, 0, maxHeaderSize+len(body))), body...))
	}
	return mem.BufferSlice{mem.SliceBuffer(h.Append(make([]byte, 0, maxHeaderSize))), mem.SliceBuffer(body)}
}

// UnmarshalHeader decodes the header of any encoded etcd response, which it does not keep. A response without one has
// the zero Header. Nothing behind the header is looked at, however large the response is: a response whose header
// is split over two fields, which protobuf would merge and no server sends, has the first part.
func UnmarshalHeader(b []byte) (h Header, err error) {
	body, err := firstMessage(b)
	if err != nil {
		return Header{}, err
	}
	return h, h.Unmarshal(body)
}

// UnmarshalStreamHeader is UnmarshalHeader for a RangeStreamResponse, whose header is that of the RangeResponse in it. Only
// the last of a stream has one.
func UnmarshalStreamHeader(b []byte) (h Header, err error) {
	body, err := firstMessage(b)
	if err != nil {
		return Header{}, err
	}
	return UnmarshalHeader(body)
}

// firstMessage returns field 1 of a response, which is a message; nothing if there is none.
func firstMessage(b []byte) (body []byte, err error) {
	for at, i := 0, 0; i < len(b); at = i {
		var tag uint64
		tag, i = readVarint(b, i)
		if tag == 1<<3|uint64(bytesType) {
			if body, i = readBytes(b, i); i >= 0 {
				return body, nil
			}
		} else {
			i = skipField(b, i, tag)
		}
		if i < 0 {
			return nil, malformed("response", at)
		}
	}
	return nil, nil
}

// Unmarshal decodes an encoded etcdserverpb.ResponseHeader into h. See RangeRequest.Unmarshal.
func (h *Header) Unmarshal(b []byte) error {
	*h = Header{}
	return h.merge(b)
}

// merge decodes b into h and leaves the fields that b does not have.
func (h *Header) merge(b []byte) error {
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1 << 3:
			h.ClusterID, i = readVarint(b, i)
		case 2 << 3:
			h.MemberID, i = readVarint(b, i)
		case 3 << 3:
			v, i = readVarint(b, i)
			h.Revision = int64(v)
		case 4 << 3:
			h.RaftTerm, i = readVarint(b, i)
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("ResponseHeader", at)
		}
	}
	return nil
}
