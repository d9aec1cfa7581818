package wire

import "fmt"

// Event is one change of one key. Data is encoded once, where the change was made or arrived, and shared by
// every watcher that is sent it.
type Event struct {
	Key    []byte // points into Data
	ModRev int64  // the revision that made the change
	Delete bool
	Create bool   // a put of a key that was not there: there is no previous value to look for
	Data   []byte // encoded mvccpb.Event without prev_kv
	Prev   []byte // encoded mvccpb.KeyValue before the change; nil when there was none or nobody asked
}

// NewPutEvent makes the event of a put from the encoded KeyValue that it wrote, which it copies. The error is that
// kv is malformed.
func NewPutEvent(kv []byte) (Event, error) {
	data := appendMessage(make([]byte, 0, sizeMessage(len(kv))), 2, kv)
	var got KeyValue
	if err := got.Unmarshal(data[len(data)-len(kv):]); err != nil {
		return Event{}, fmt.Errorf("make event of a put: %w", err)
	}
	return Event{Key: got.Key, ModRev: got.ModRevision, Create: got.CreateRevision == got.ModRevision, Data: data}, nil
}

// NewDeleteEvent makes the event of a deletion of key, which it copies, at revision rev.
func NewDeleteEvent(key []byte, rev int64) Event {
	kv := KeyValue{Key: key, ModRevision: rev}
	n := kv.Size()
	data := make([]byte, 0, 2+sizeMessage(n))
	data = append(data, 1<<3|varintType, 1) // type = DELETE
	data = kv.Append(appendPrefix(data, 2, n))
	start := len(data) - n + sizeBytes(len(key)) - len(key)
	end := start + len(key)
	return Event{Key: data[start:end:end], ModRev: rev, Delete: true, Data: data}
}

// Size is the length of the encoded mvccpb.Event, with prev_kv if prev is set and there is one.
func (e *Event) Size(prev bool) int {
	if prev && e.Prev != nil {
		return len(e.Data) + sizeMessage(len(e.Prev))
	}
	return len(e.Data)
}

// KeyValue returns the encoded mvccpb.KeyValue in Data: what a put wrote, or key and revision of a deletion. It shares
// Data, unless its parts stand apart there, as no server writes it. It is nil when there is none or Data is malformed.
func (e *Event) KeyValue() []byte {
	var kv, body []byte
	var tag uint64
	for i := 0; i < len(e.Data); {
		tag, i = readVarint(e.Data, i)
		if tag == 2<<3|uint64(bytesType) {
			body, i = readBytes(e.Data, i)
			kv = concat(kv, body)
		} else {
			i = skipField(e.Data, i, tag)
		}
		if i < 0 {
			return nil
		}
	}
	return kv
}
