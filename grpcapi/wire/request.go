package wire

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// RangeRequest is a decoded etcdserverpb.RangeRequest. Key and RangeEnd point into Raw.
type RangeRequest struct {
	Raw               []byte // the encoded message this was decoded from; nil when made by hand
	Key, RangeEnd     []byte
	Limit             int64
	Revision          int64
	SortOrder         int32 // etcdserverpb.RangeRequest_SortOrder, not checked
	SortTarget        int32 // etcdserverpb.RangeRequest_SortTarget, not checked
	Serializable      bool
	KeysOnly          bool
	CountOnly         bool
	MinModRevision    int64
	MaxModRevision    int64
	MinCreateRevision int64
	MaxCreateRevision int64

	// KeepLease is for Select, and not of the message: keys_only leaves the lease, as with etcd before 3.7.
	KeepLease bool
}

// PutRequest is a decoded etcdserverpb.PutRequest. Key and Value point into Raw.
type PutRequest struct {
	Raw         []byte
	Key, Value  []byte
	Lease       int64
	PrevKV      bool
	IgnoreValue bool
	IgnoreLease bool
}

// DeleteRangeRequest is a decoded etcdserverpb.DeleteRangeRequest. Key and RangeEnd point into Raw.
type DeleteRangeRequest struct {
	Raw           []byte
	Key, RangeEnd []byte
	PrevKV        bool
}

// The decoders switch on the whole tag, so that a known field with another wire type is skipped like an unknown
// one, as google.golang.org/protobuf does. They err exactly when it does. A tag that cannot be read is tag 0, which
// skipField refuses.

// Unmarshal decodes b into r, which keeps b. Unknown fields are skipped, a field given twice keeps its last
// value, as in proto3. The error says which message and at which offset; r is then of no use.
func (r *RangeRequest) Unmarshal(b []byte) error {
	*r = RangeRequest{Raw: b}
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1<<3 | uint64(bytesType):
			r.Key, i = readBytes(b, i)
		case 2<<3 | uint64(bytesType):
			r.RangeEnd, i = readBytes(b, i)
		case 3 << 3:
			v, i = readVarint(b, i)
			r.Limit = int64(v)
		case 4 << 3:
			v, i = readVarint(b, i)
			r.Revision = int64(v)
		case 5 << 3:
			v, i = readVarint(b, i)
			r.SortOrder = int32(v)
		case 6 << 3:
			v, i = readVarint(b, i)
			r.SortTarget = int32(v)
		case 7 << 3:
			v, i = readVarint(b, i)
			r.Serializable = v != 0
		case 8 << 3:
			v, i = readVarint(b, i)
			r.KeysOnly = v != 0
		case 9 << 3:
			v, i = readVarint(b, i)
			r.CountOnly = v != 0
		case 10 << 3:
			v, i = readVarint(b, i)
			r.MinModRevision = int64(v)
		case 11 << 3:
			v, i = readVarint(b, i)
			r.MaxModRevision = int64(v)
		case 12 << 3:
			v, i = readVarint(b, i)
			r.MinCreateRevision = int64(v)
		case 13 << 3:
			v, i = readVarint(b, i)
			r.MaxCreateRevision = int64(v)
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("RangeRequest", at)
		}
	}
	return nil
}

// RangeRequestOf returns the request m, which stands decoded in a transaction. It shares the byte slices of m and has
// no Raw.
func RangeRequestOf(m *pb.RangeRequest) RangeRequest {
	return RangeRequest{
		Key: m.GetKey(), RangeEnd: m.GetRangeEnd(), Limit: m.GetLimit(), Revision: m.GetRevision(),
		SortOrder: int32(m.GetSortOrder()), SortTarget: int32(m.GetSortTarget()),
		Serializable: m.GetSerializable(), KeysOnly: m.GetKeysOnly(), CountOnly: m.GetCountOnly(),
		MinModRevision: m.GetMinModRevision(), MaxModRevision: m.GetMaxModRevision(),
		MinCreateRevision: m.GetMinCreateRevision(), MaxCreateRevision: m.GetMaxCreateRevision(),
	}
}

// AppendRangeRequest appends the encoded etcdserverpb.RangeRequest r to dst. Raw is not looked at.
func AppendRangeRequest(dst []byte, r *RangeRequest) []byte {
	dst = appendBytes(dst, 1, r.Key)
	dst = appendBytes(dst, 2, r.RangeEnd)
	dst = appendVarint(dst, 3, uint64(r.Limit))
	dst = appendVarint(dst, 4, uint64(r.Revision))
	dst = appendVarint(dst, 5, uint64(r.SortOrder))
	dst = appendVarint(dst, 6, uint64(r.SortTarget))
	dst = appendBool(dst, 7, r.Serializable)
	dst = appendBool(dst, 8, r.KeysOnly)
	dst = appendBool(dst, 9, r.CountOnly)
	dst = appendVarint(dst, 10, uint64(r.MinModRevision))
	dst = appendVarint(dst, 11, uint64(r.MaxModRevision))
	dst = appendVarint(dst, 12, uint64(r.MinCreateRevision))
	return appendVarint(dst, 13, uint64(r.MaxCreateRevision))
}

// Unmarshal decodes b into r, which keeps b; see RangeRequest.Unmarshal.
func (r *PutRequest) Unmarshal(b []byte) error {
	*r = PutRequest{Raw: b}
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1<<3 | uint64(bytesType):
			r.Key, i = readBytes(b, i)
		case 2<<3 | uint64(bytesType):
			r.Value, i = readBytes(b, i)
		case 3 << 3:
			v, i = readVarint(b, i)
			r.Lease = int64(v)
		case 4 << 3:
			v, i = readVarint(b, i)
			r.PrevKV = v != 0
		case 5 << 3:
			v, i = readVarint(b, i)
			r.IgnoreValue = v != 0
		case 6 << 3:
			v, i = readVarint(b, i)
			r.IgnoreLease = v != 0
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("PutRequest", at)
		}
	}
	return nil
}

// Unmarshal decodes b into r, which keeps b; see RangeRequest.Unmarshal.
func (r *DeleteRangeRequest) Unmarshal(b []byte) error {
	*r = DeleteRangeRequest{Raw: b}
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1<<3 | uint64(bytesType):
			r.Key, i = readBytes(b, i)
		case 2<<3 | uint64(bytesType):
			r.RangeEnd, i = readBytes(b, i)
		case 3 << 3:
			v, i = readVarint(b, i)
			r.PrevKV = v != 0
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("DeleteRangeRequest", at)
		}
	}
	return nil
}
