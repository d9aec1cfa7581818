package wire

// WatchRequest is a decoded etcdserverpb.WatchRequest. Of Create and CancelID only that which Kind names has a meaning.
type WatchRequest struct {
	Kind     WatchRequestKind
	Create   WatchCreate
	CancelID int64
}

// WatchRequestKind says what a WatchRequest asks for. It is the number of the field in the message.
type WatchRequestKind int

// The kinds. A request without any has a kind that is unknown here.
const (
	WatchUnknown WatchRequestKind = iota
	WatchCreates
	WatchCancels
	WatchAsksProgress
)

// WatchCreate is an etcdserverpb.WatchCreateRequest.
type WatchCreate struct {
	Key, End        []byte
	StartRevision   int64 // 0 is "now"
	ProgressNotify  bool
	NoPut, NoDelete bool // filters
	PrevKV          bool
	WatchID         int64 // 0 lets the server choose
	Fragment        bool
}

// Numbers of etcdserverpb.WatchCreateRequest_FilterType.
const (
	filterNoPut    = 0
	filterNoDelete = 1
)

// Unmarshal decodes b into r, which keeps b; see RangeRequest.Unmarshal. As in proto3 the last kind counts, and what is
// given twice for the same kind is merged. Unknown filters are skipped.
func (r *WatchRequest) Unmarshal(b []byte) error {
	*r = WatchRequest{}
	var v uint64
	var body []byte
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1<<3 | uint64(bytesType), 2<<3 | uint64(bytesType), 3<<3 | uint64(bytesType):
			if kind := WatchRequestKind(v >> 3); kind != r.Kind {
				*r = WatchRequest{Kind: kind}
			}
			if body, i = readBytes(b, i); i >= 0 && !r.merge(body) {
				i = -1
			}
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("WatchRequest", at)
		}
	}
	return nil
}

// merge decodes the message of r's kind. It returns false when it is malformed.
func (r *WatchRequest) merge(b []byte) bool {
	var v uint64
	for i := 0; i < len(b); {
		v, i = readVarint(b, i)
		switch {
		case r.Kind == WatchCreates:
			i = r.Create.readField(b, i, v)
		case r.Kind == WatchCancels && v == 1<<3:
			v, i = readVarint(b, i)
			r.CancelID = int64(v)
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return false
		}
	}
	return true
}

// readField reads the value at b[i:] of the field with this tag.
func (c *WatchCreate) readField(b []byte, i int, tag uint64) int {
	var v uint64
	switch tag {
	case 1<<3 | uint64(bytesType):
		c.Key, i = readBytes(b, i)
	case 2<<3 | uint64(bytesType):
		c.End, i = readBytes(b, i)
	case 3 << 3:
		v, i = readVarint(b, i)
		c.StartRevision = int64(v)
	case 4 << 3:
		v, i = readVarint(b, i)
		c.ProgressNotify = v != 0
	case 5 << 3:
		v, i = readVarint(b, i)
		c.addFilter(v)
	case 5<<3 | uint64(bytesType): // packed
		var filters []byte
		filters, i = readBytes(b, i)
		for at := 0; i >= 0 && at < len(filters); {
			if v, at = readVarint(filters, at); at < 0 {
				return -1
			}
			c.addFilter(v)
		}
	case 6 << 3:
		v, i = readVarint(b, i)
		c.PrevKV = v != 0
	case 7 << 3:
		v, i = readVarint(b, i)
		c.WatchID = int64(v)
	case 8 << 3:
		v, i = readVarint(b, i)
		c.Fragment = v != 0
	default:
		i = skipField(b, i, tag)
	}
	return i
}

func (c *WatchCreate) addFilter(v uint64) {
	c.NoPut = c.NoPut || int32(v) == filterNoPut
	c.NoDelete = c.NoDelete || int32(v) == filterNoDelete
}

// AppendWatchCreate appends an encoded WatchRequest that creates c.
func AppendWatchCreate(dst []byte, c WatchCreate) []byte {
	var room [2]byte
	filters := room[:0]
	if c.NoPut {
		filters = append(filters, filterNoPut)
	}
	if c.NoDelete {
		filters = append(filters, filterNoDelete)
	}
	n := sizeBytes(len(c.Key)) + sizeBytes(len(c.End)) + sizeVarint(uint64(c.StartRevision)) + sizeBool(c.ProgressNotify) +
		sizeBytes(len(filters)) + sizeBool(c.PrevKV) + sizeVarint(uint64(c.WatchID)) + sizeBool(c.Fragment)
	dst = appendPrefix(dst, 1, n)
	dst = appendBytes(dst, 1, c.Key)
	dst = appendBytes(dst, 2, c.End)
	dst = appendVarint(dst, 3, uint64(c.StartRevision))
	dst = appendBool(dst, 4, c.ProgressNotify)
	dst = appendBytes(dst, 5, filters)
	dst = appendBool(dst, 6, c.PrevKV)
	dst = appendVarint(dst, 7, uint64(c.WatchID))
	return appendBool(dst, 8, c.Fragment)
}

// AppendWatchCancel appends an encoded WatchRequest that cancels the watch with this id.
func AppendWatchCancel(dst []byte, watchID int64) []byte {
	return appendVarint(appendPrefix(dst, 2, sizeVarint(uint64(watchID))), 1, uint64(watchID))
}

// AppendWatchProgressRequest appends an encoded WatchRequest that asks for the progress of the whole stream.
func AppendWatchProgressRequest(dst []byte) []byte { return appendPrefix(dst, 3, 0) }
