package coalesce

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"weir/grpcapi/wire"
)

// Watch says what a watcher is to be sent.
type Watch struct {
	Key, End []byte // as in etcd's requests: no end is the single key, an end of one zero byte is no end
	Start    int64  // the first revision to send; it may be in the future; 0 is the one after now

	PrevKV          bool // with the value before each event
	NoPut, NoDelete bool // without events of that kind
	ProgressNotify  bool // Stream.NotifyProgress is for this watcher
}

// Watcher is one client's watch: its place in the stream of revisions. The zero value is given to Stream.Watch.
type Watcher struct {
	// These are for the Sink's use; the hub does not look at them.
	ID       int64
	Range    *Range // what Recheck has to know
	Fragment bool
	Open     bool // announced, and not cancelled

	notify bool // wants progress notifications
	busy   bool // has been sent events since the last one; of the goroutine that serves the watcher
	state  state
	source lag // where it is served from; does not change while it is waiting or reading
	stream *Stream
	group  *group

	// next is the first revision that the watcher has not been sent. While it is live, the position of its feed's
	// broadcaster tells that, and next is only a bound below which it wants no events.
	next int64

	member   int32 // where it is in stream.watchers
	slot     int32 // where it is in group.members
	list     *watcherList
	ahead    *Watcher // in list
	followed *Watcher // in list
}

// state says who serves a watcher.
type state uint8

const (
	fresh   state = iota // nobody: not yet watching
	live                 // its feed's broadcaster; in stream.early if it starts beyond what may be told as progress
	waiting              // a resyncer will; in the cohort of its group and next revision
	reading              // a resyncer does, or somebody who cancels it
	held                 // nobody until its stream has room; in stream.held
	ended                // nobody: cancelled, or its stream has closed
)

// isBehind tells whether a watcher may lack revisions that have been delivered to live ones.
func (s state) isBehind() bool { return s == waiting || s == reading || s == held }

// isServed tells whether a watcher takes part in resyncing.
func (s state) isServed() bool { return s == waiting || s == reading }

// watcherList is a queue of watchers that can leave it from anywhere. A watcher is in one list at most.
type watcherList struct{ first, last *Watcher }

func (l *watcherList) push(w *Watcher) {
	w.list, w.ahead = l, l.last
	if l.last == nil {
		l.first = w
	} else {
		l.last.followed = w
	}
	l.last = w
}

// unlist takes w out of the list that it is in, if any.
func (w *Watcher) unlist() {
	l := w.list
	if l == nil {
		return
	}
	if w.ahead == nil {
		l.first = w.followed
	} else {
		w.ahead.followed = w.followed
	}
	if w.followed == nil {
		l.last = w.ahead
	} else {
		w.followed.ahead = w.ahead
	}
	w.list, w.ahead, w.followed = nil, nil, nil
}

// Message is events for watchers of one group, which share it. It is valid only while it is being delivered,
// except for what Body returns.
type Message struct {
	// Revision is up to where a watcher has been sent everything once it has been sent this.
	Revision int64
	// Events are all that the watcher wants of one or more whole revisions, in order. Prev is to be ignored
	// without PrevKV.
	Events []wire.Event
	PrevKV bool

	// Fanout is how many watchers it is delivered to, about.
	Fanout int
	// Made is what a Sink has made of the message for other Sinks to use as well: nil at first, and for the Sinks alone.
	// One goroutine delivers a message, so that it needs no lock.
	Made any

	body mem.BufferSlice
	size int
}

// shareFrom is the length in bytes from which an event is shared rather than copied into the body. A shared one
// costs the transport two more buffers for each client.
const shareFrom = 4 << 10

// maxPrefix is the most that tag and length of an event take.
const maxPrefix = 1 + 5

// prevKVTag starts the field prev_kv of an mvccpb.Event: number 3, length-delimited.
const prevKVTag = 3<<3 | byte(protowire.BytesType)

// Body is the encoded events fields of a WatchResponse and their length in bytes. It is encoded once; the buffers
// are immutable, not counted, and may be kept and sent any number of times.
func (m *Message) Body() (mem.BufferSlice, int) {
	if m.body == nil {
		m.body, m.size = EncodeEvents(m.Events, m.PrevKV)
	}
	return m.body, m.size
}

// EncodeEvents is Message.Body for some of its events.
func EncodeEvents(events []wire.Event, prevKV bool) (body mem.BufferSlice, size int) {
	room := 0
	for i := range events {
		if n := events[i].Size(prevKV); n < shareFrom {
			room += n
		}
		room += maxPrefix
	}
	buf, start := make([]byte, 0, room), 0
	cut := func() {
		if start < len(buf) {
			body = append(body, mem.SliceBuffer(buf[start:len(buf):len(buf)]))
			size += len(buf) - start
			start = len(buf)
		}
	}
	for i := range events {
		e := &events[i]
		n := e.Size(prevKV)
		if n < shareFrom {
			buf = wire.AppendEvent(buf, e, prevKV)
			continue
		}
		buf = wire.AppendEventPrefix(buf, n)
		cut()
		body = append(body, mem.SliceBuffer(e.Data))
		size += len(e.Data)
		if n > len(e.Data) {
			buf = protowire.AppendBytes(append(buf, prevKVTag), e.Prev)
		}
	}
	cut()
	return body, size
}
