package wire

// Header is an etcdserverpb.ResponseHeader.
type Header struct {
	ClusterID, MemberID uint64
	Revision            int64
	RaftTerm            uint64
}

// Append appends h as field 1 (tag, length, message) of a response. Every etcd response has its header there.
func (h Header) Append(dst []byte) []byte { panic("skeleton") }

// AppendKV appends tag and length of one kvs entry of a RangeResponse; the n bytes of the KeyValue follow.
func AppendKVPrefix(dst []byte, n int) []byte { panic("skeleton") }

// AppendRangeEnd appends more and count of a RangeResponse.
func AppendRangeEnd(dst []byte, more bool, count int64) []byte { panic("skeleton") }
