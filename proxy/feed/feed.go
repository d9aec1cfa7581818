package feed

import (
	"bytes"
	"errors"
	"fmt"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// feed is one upstream watch, and the coalesce.Feed that it fills. It is
//
//   - opening, until the session has said what revision it begins after: opened is not closed;
//   - open: out is set;
//   - retired, if it is in Set.retired: its watchers are being moved to feeds that contain it or parts of it;
//   - gone, when it is no longer in Set.feeds.
type feed struct {
	set     *Set
	span    coalesce.Range
	fixed   bool // by configuration: it is never retired, and opened again when it ends
	widened bool // span is more than anybody asked for

	opened chan struct{}  // closed when out or err is set, which do not change after that
	out    *coalesce.Feed // what it fills
	err    error          // why it could not be opened

	// Guarded by Set.mu.
	id       int64   // of its watch on the session; 0 while it has none
	absorbed []*feed // to be retired when it has opened
	idle     bool    // had no watchers at the last turn of tend
	lost     bool    // what it has not been sent is compacted: it stays as it is until its watchers are elsewhere
	waste    waste

	events assembler // of the goroutine that receives
}

var errFeedClosed = errors.New("feed is closed")

// isOpen is for those who need not wait.
func (f *feed) isOpen() bool {
	select {
	case <-f.opened:
		return f.err == nil
	default:
		return false
	}
}

// assembler puts the events of a watch together into whole revisions.
type assembler struct {
	reached int64        // events up to here have been given out, or are not wanted
	partial []wire.Event // of one revision, of which there may be more
}

// bigResponse is from where on the events of a response are copied, so that the last few of them that are kept do not
// keep all of it in memory.
const bigResponse = 64 << 10

// add takes a response and returns the revisions that it completes. A response completes the revision of its last
// event unless it says that it is a fragment; one in the middle is complete when the next one begins. The memory of the
// response is kept. Revisions that go back are an error.
func (a *assembler) add(r *wire.WatchResponse, size int) ([]coalesce.Batch, error) {
	var done []coalesce.Batch
	flush := func() {
		if len(a.partial) > 0 {
			rev := a.partial[0].ModRev
			done = append(done, coalesce.Batch{Revision: rev, Events: a.partial})
			a.partial, a.reached = nil, rev
		}
	}
	start := 0
	for i := range r.Events {
		rev := r.Events[i].ModRev
		if rev <= a.reached { // sent again by a session that resumed
			start = i + 1
			continue
		}
		if len(a.partial) > 0 && a.partial[0].ModRev != rev {
			if flush(); rev < a.reached {
				return nil, fmt.Errorf("upstream sends revision %d after %d", rev, a.reached)
			}
		}
		if i+1 == len(r.Events) || r.Events[i+1].ModRev != rev {
			a.partial = append(a.partial, r.Events[start:i+1]...)
			start = i + 1
		}
	}
	if !r.Fragment {
		flush()
	}
	if size >= bigResponse && len(done) > 1 {
		for _, b := range done {
			detach(b.Events)
		}
	}
	return done, nil
}

// detach moves the events of one revision into memory of their own.
func detach(events []wire.Event) {
	size := 0
	for i := range events {
		size += len(events[i].Data) + len(events[i].Prev)
	}
	buf := make([]byte, 0, size)
	own := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		start := len(buf)
		buf = append(buf, b...)
		return buf[start:len(buf):len(buf)]
	}
	for i := range events {
		e := &events[i]
		e.Data, e.Prev = own(e.Data), own(e.Prev)
		at := bytes.Index(e.Data, e.Key) // the key is in Data, and where it is equal does not matter
		e.Key = e.Data[at : at+len(e.Key) : at+len(e.Key)]
	}
}
