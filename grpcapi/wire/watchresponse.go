package wire

import (
	"fmt"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// WatchResponse is a decoded etcdserverpb.WatchResponse. Its events share the message they were decoded from.
type WatchResponse struct {
	Header          Header
	WatchID         int64
	Created         bool
	Canceled        bool
	CompactRevision int64
	CancelReason    string
	Fragment        bool
	Events          []Event
}

// Unmarshal decodes b into r, whose Events reuse the memory of those that r had. The events keep b; no value is
// copied or looked at. Unknown fields of the response are skipped, those of an event stay in its Data. A response whose
// fields are repeated or in an unusual order means what it does to protobuf. For errors see RangeRequest.Unmarshal.
func (r *WatchResponse) Unmarshal(b []byte) error {
	*r = WatchResponse{Events: r.Events[:0]}
	var v uint64
	var body []byte
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1<<3 | uint64(bytesType):
			if body, i = readBytes(b, i); i >= 0 {
				if err := r.Header.merge(body); err != nil {
					return fmt.Errorf("decode WatchResponse: field at offset %d: %w", at, err)
				}
			}
		case 2 << 3:
			v, i = readVarint(b, i)
			r.WatchID = int64(v)
		case 3 << 3:
			v, i = readVarint(b, i)
			r.Created = v != 0
		case 4 << 3:
			v, i = readVarint(b, i)
			r.Canceled = v != 0
		case 5 << 3:
			v, i = readVarint(b, i)
			r.CompactRevision = int64(v)
		case 6<<3 | uint64(bytesType):
			body, i = readBytes(b, i)
			if !utf8.Valid(body) {
				i = -1
			}
			r.CancelReason = string(body)
		case 7 << 3:
			v, i = readVarint(b, i)
			r.Fragment = v != 0
		case 11<<3 | uint64(bytesType):
			if body, i = readBytes(b, i); i >= 0 {
				r.Events = append(r.Events, Event{})
				if err := r.Events[len(r.Events)-1].unmarshal(body); err != nil {
					return fmt.Errorf("decode WatchResponse: field at offset %d: %w", at, err)
				}
			}
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("WatchResponse", at)
		}
	}
	return nil
}

// unmarshal decodes an encoded mvccpb.Event into e, which is zero and keeps b. Servers write prev_kv last, so that
// Data is what stands before it; if prev_kv is in the middle, Data is a copy. An embedded message that is given in parts
// means their concatenation: that is how protobuf merges.
func (e *Event) unmarshal(b []byte) error {
	var kv, prev KeyValue // of prev it only matters that it can be read
	var kind int32        // mvccpb.Event_EventType
	rest := 0             // what Data is to have beyond what it has is b[rest:]
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		var into *KeyValue
		v, i = readVarint(b, i)
		switch v {
		case 1 << 3:
			v, i = readVarint(b, i)
			kind = int32(v)
		case 2<<3 | uint64(bytesType):
			into = &kv
		case 3<<3 | uint64(bytesType):
			into = &prev
		default:
			i = skipField(b, i, v)
		}
		if into != nil {
			var body []byte
			if body, i = readBytes(b, i); i >= 0 {
				if err := into.merge(body); err != nil {
					return fmt.Errorf("decode Event: field at offset %d: %w", at, err)
				}
			}
			if into == &prev {
				e.Data, e.Prev = concat(e.Data, b[rest:at]), concat(e.Prev, body)
				rest = i
			}
		}
		if i < 0 {
			return malformed("Event", at)
		}
	}
	e.Data = concat(e.Data, b[rest:])
	e.Key, e.ModRev = kv.Key, kv.ModRevision
	e.Delete = kind == int32(mvccpb.Event_DELETE)
	e.Create = kind == int32(mvccpb.Event_PUT) && kv.CreateRevision == kv.ModRevision
	return nil
}

// concat returns a followed by b. It copies only if neither is empty, and the result has no spare capacity of theirs.
func concat(a, b []byte) []byte {
	if len(a) == 0 {
		return b[:len(b):len(b)]
	}
	return append(a[:len(a):len(a)], b...)
}
