package wire

// Raw is one encoded message. A handler that takes a *Raw is given the bytes as they came; they are a private
// copy that the garbage collector owns, so they may be kept, sliced and shared.
type Raw []byte

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

// Unmarshal decodes b into r, which keeps b. Unknown fields are skipped, a field given twice keeps its last
// value, as in proto3. The error says which message and at which offset.
func (r *RangeRequest) Unmarshal(b []byte) error { panic("skeleton") }

// Unmarshal decodes b into r, which keeps b; see RangeRequest.Unmarshal.
func (r *PutRequest) Unmarshal(b []byte) error { panic("skeleton") }

// Unmarshal decodes b into r, which keeps b; see RangeRequest.Unmarshal.
func (r *DeleteRangeRequest) Unmarshal(b []byte) error { panic("skeleton") }
