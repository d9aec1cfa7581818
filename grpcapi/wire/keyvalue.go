package wire

// KeyValue is a decoded mvccpb.KeyValue whose Key and Value point into the encoded message.
type KeyValue struct {
	Key, Value                  []byte
	CreateRevision, ModRevision int64
	Version, Lease              int64
}

// Unmarshal decodes b into kv, which keeps b.
func (kv *KeyValue) Unmarshal(b []byte) error { panic("skeleton") }

// Size is the length of what Append writes.
func (kv *KeyValue) Size() int { panic("skeleton") }

// Append appends the encoded mvccpb.KeyValue to dst.
func (kv *KeyValue) Append(dst []byte) []byte { panic("skeleton") }

// Event is one change of one key. Data is encoded once, where the change was made or arrived, and shared by
// every watcher that is sent it.
type Event struct {
	Key    []byte // points into Data
	ModRev int64  // the revision that made the change
	Delete bool
	Data   []byte // encoded mvccpb.Event without prev_kv
	Prev   []byte // encoded mvccpb.KeyValue before the change; nil when there was none or nobody asked
}

// NewPutEvent makes the event of a put from the encoded KeyValue that it wrote.
func NewPutEvent(kv []byte) (Event, error) { panic("skeleton") }

// NewDeleteEvent makes the event of a deletion of key at revision rev.
func NewDeleteEvent(key []byte, rev int64) Event { panic("skeleton") }
