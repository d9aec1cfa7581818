package feed

import (
	"bytes"
	"errors"
	"fmt"
	"time"

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
	id       int64     // of its watch on the session; 0 while it has none
	absorbed []*feed   // to be retired when it has opened
	idle     bool      // had no watchers at the last turn of tend
	rehomed  time.Time // when tend last looked where its watchers can go
	lost     bool      // what it has not been sent is compacted: it stays as it is until its watchers are elsewhere
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
	from    int64        // events up to here are not wanted: a session that resumes is sent some again
	reached int64        // events up to here have been given out
	partial []wire.Event // of one revision, of which there may be more
}

// startAfter begins with the revision after rev.
func startAfter(rev int64) assembler { return assembler{from: rev, reached: rev} }

// bigResponse is from where on the events of a response are copied, so that one of them that is kept, in the ring or
// for a client that does not take it, does not keep all of it in memory.
const bigResponse = 16 << 10

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
		if rev <= a.from {
			start = i + 1
			continue
		}
		if len(a.partial) > 0 && a.partial[0].ModRev != rev {
			flush()
		}
		if rev <= a.reached {
			return nil, fmt.Errorf("upstream sends revision %d after %d", rev, a.reached)
		}
		if i+1 == len(r.Events) || r.Events[i+1].ModRev != rev {
			kept := r.Events[start : i+1]
			if size >= bigResponse && len(r.Events) > 1 {
				detach(kept)
			}
			a.partial = append(a.partial, kept...)
			start = i + 1
		}
	}
	if !r.Fragment {
		flush()
	}
	return done, nil
}

// detach moves each event into memory of its own.
func detach(events []wire.Event) {
	for i := range events {
		e := &events[i]
		e.Data, e.Prev = bytes.Clone(e.Data), bytes.Clone(e.Prev)
		at := bytes.Index(e.Data, e.Key) // the key is in Data, and where it is equal does not matter
		e.Key = e.Data[at : at+len(e.Key) : at+len(e.Key)]
	}
}
