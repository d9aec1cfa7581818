package feed

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// fakeWatchers is all watches of a member: what etcd calls the watchable store. It is guarded by cluster.mu.
type fakeWatchers struct {
	member   *fakeMember
	synced   map[*fakeWatch]struct{} // are sent what happens when it happens
	unsynced map[*fakeWatch]struct{} // lack history, which syncLoop sends
	victims  map[*fakeWatch]fakeBatch
	blocked  chan struct{} // has an element when there may be victims
	lacking  chan struct{} // has an element when there may be unsynced ones
}

// fakeWatch is one watch.
type fakeWatch struct {
	id       int64
	key, end []byte // in etcd's inner form
	start    int64  // as requested
	min      int64  // the next revision that it is to be sent
	server   *fakeWatchServer
	ended    bool
}

// fakeBatch is a response that found no room in its stream.
type fakeBatch struct {
	events []*mvccpb.Event
	more   int64 // the revision that the batch had no room for, if any
}

// fakeResponse waits in a stream's buffer.
type fakeResponse struct {
	id      int64
	rev     int64 // for the header
	compact int64
	events  []*mvccpb.Event
}

func newFakeWatchers(m *fakeMember) *fakeWatchers {
	return &fakeWatchers{
		member: m, synced: map[*fakeWatch]struct{}{}, unsynced: map[*fakeWatch]struct{}{},
		victims: map[*fakeWatch]fakeBatch{}, blocked: make(chan struct{}, 1), lacking: make(chan struct{}, 1),
	}
}

// add starts a watch.
func (f *fakeWatchers) add(w *fakeWatch) {
	w.min = w.start
	if w.start != 0 && w.start <= f.member.rev {
		f.addUnsynced(w)
		return
	}
	w.min = max(w.start, f.member.rev+1)
	f.synced[w] = struct{}{}
}

func (f *fakeWatchers) remove(w *fakeWatch) {
	w.ended = true
	delete(f.synced, w)
	delete(f.unsynced, w)
	delete(f.victims, w)
}

// send puts a response into the watch's stream, unless that is full.
func (w *fakeWatch) send(r fakeResponse) bool {
	r.id = w.id
	select {
	case w.server.events <- r:
		return true
	default:
		return false
	}
}

func (f *fakeWatchers) addVictim(w *fakeWatch, b fakeBatch) {
	f.victims[w] = b
	select {
	case f.blocked <- struct{}{}:
	default:
	}
}

func (f *fakeWatchers) addUnsynced(w *fakeWatch) {
	f.unsynced[w] = struct{}{}
	select {
	case f.lacking <- struct{}{}:
	default:
	}
}

// notify sends a new revision to those who are in sync.
func (f *fakeWatchers) notify(rev int64, events []*mvccpb.Event) {
	for w := range f.synced {
		var wanted []*mvccpb.Event
		for _, e := range events {
			if rev >= w.min && fakeContains(w.key, w.end, e.Kv.Key) {
				wanted = append(wanted, e)
			}
		}
		if wanted == nil {
			continue
		}
		if !w.send(fakeResponse{rev: rev, events: wanted}) {
			delete(f.synced, w)
			f.addVictim(w, fakeBatch{events: wanted})
		}
		w.min = rev + 1
	}
}

// restore is what happens to the watches when the member installs a snapshot.
func (f *fakeWatchers) restore() {
	for w := range f.synced {
		f.addUnsynced(w)
	}
	clear(f.synced)
}

// syncPeriod is etcd's watchResyncPeriod.
const syncPeriod = 100 * time.Millisecond

// syncLoop sends history every syncPeriod. While nobody lacks any it does not run, for the test's sake.
func (f *fakeWatchers) syncLoop(ctx context.Context) {
	c := f.member.cluster
	phase := time.Duration(c.roll(int(syncPeriod)))
	for {
		select {
		case <-f.lacking:
		case <-ctx.Done():
			return
		}
		wait := syncPeriod - (time.Duration(time.Now().UnixNano())+phase)%syncPeriod
		for left := 1; left > 0; {
			if sleep(ctx, wait) != nil {
				return
			}
			c.mu.Lock()
			before := len(f.unsynced)
			f.sync()
			left = len(f.unsynced)
			c.mu.Unlock()
			wait = syncPeriod
			if left < before {
				wait = time.Millisecond
			}
		}
	}
}

// sync sends each watch that lacks history one batch of it, of a few revisions. The header states what is current, not
// how far the batch goes.
func (f *fakeWatchers) sync() {
	m := f.member
	for w := range f.unsynced {
		if w.min < m.compacted {
			if w.send(fakeResponse{compact: m.compacted}) {
				delete(f.unsynced, w)
			}
			continue
		}
		var b fakeBatch
		revisions := 0
		for rev := max(w.min, firstRevision+1); rev <= m.rev && b.more == 0; rev++ {
			first := true
			for _, e := range m.cluster.past.at(rev) {
				if !fakeContains(w.key, w.end, e.Kv.Key) {
					continue
				}
				if first && revisions == m.cluster.limits.batchRevisions {
					b.more = rev
					break
				}
				if first {
					first = false
					revisions++
				}
				b.events = append(b.events, e)
			}
		}
		w.min = max(m.rev+1, w.min)
		if b.more != 0 {
			w.min = b.more
		}
		switch {
		case b.events != nil && !w.send(fakeResponse{rev: m.rev, events: b.events}):
			f.addVictim(w, b)
		case b.more != 0:
			continue
		default:
			f.synced[w] = struct{}{}
		}
		delete(f.unsynced, w)
	}
}

// victimsLoop tries to send again what found no room.
func (f *fakeWatchers) victimsLoop(ctx context.Context) {
	for {
		f.member.cluster.mu.Lock()
		for w, b := range f.victims {
			if !w.send(fakeResponse{rev: w.min - 1, events: b.events}) {
				continue
			}
			delete(f.victims, w)
			if w.min <= f.member.rev {
				f.addUnsynced(w)
			} else {
				f.synced[w] = struct{}{}
			}
		}
		left := len(f.victims)
		f.member.cluster.mu.Unlock()
		if left > 0 {
			if sleep(ctx, 10*time.Millisecond) != nil {
				return
			}
			continue
		}
		select {
		case <-f.blocked:
		case <-ctx.Done():
			return
		}
	}
}
