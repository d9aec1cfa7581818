package feed

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// modelWatch is one watch and what it must see.
type modelWatch struct {
	coalesce.Watcher
	watch  coalesce.Watch
	called int64  // what was known of the store when it was requested, and
	recent *epoch // the newest epoch then

	created  bool
	epochs   []*epoch // which it may be a watch of
	excluded []error  // why it cannot be one of the others
	pos      int64    // it has been sent everything up to here, or starts behind it
	told     int64    // the newest revision that it has been told of
	events   int
	canceled error
	over     bool // cancelled by the client
}

// epoch is one history of the cluster: each restored backup begins another.
type epoch struct {
	n    int
	past *fakeHistory
}

func (w *modelWatch) String() string {
	o := w.watch
	text := fmt.Sprintf("watch %d [%q, %q) from %d", w.ID, o.Key, o.End, o.Start)
	for name, set := range map[string]bool{"prev": o.PrevKV, "noput": o.NoPut, "nodelete": o.NoDelete} {
		if set {
			text += " " + name
		}
	}
	return fmt.Sprintf("%s, at %d", text, w.pos)
}

// live says whether the watch is to be sent more.
func (w *modelWatch) live() bool { return w.created && w.canceled == nil && !w.over }

// follow checks that got is exactly what the watch is to be sent behind pos and up to rev, in one of its epochs, and drops
// the others.
func (w *modelWatch) follow(m *model, rev int64, got []wire.Event) error {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	var left []*epoch
	for _, e := range w.epochs {
		if err := w.compare(m, e, rev, got); err != nil {
			w.excluded = append(w.excluded, fmt.Errorf("epoch %d: %w", e.n, err))
		} else {
			left = append(left, e)
		}
	}
	if left == nil {
		return errors.Join(w.excluded...)
	}
	w.epochs = left
	w.pos, w.told = max(w.pos, rev), max(w.told, rev)
	w.events += len(got)
	return nil
}

func (w *modelWatch) compare(m *model, e *epoch, rev int64, got []wire.Event) error {
	if rev > e.past.head() {
		return fmt.Errorf("revision %d is above %d", rev, e.past.head())
	}
	for pos := w.pos; ; {
		next, want := w.next(e, pos+1, rev)
		if next == 0 {
			break
		}
		pos = next
		for _, ev := range want {
			if len(got) == 0 {
				return fmt.Errorf("up to %d it is not sent %q at %d", rev, ev.Kv.Key, next)
			}
			if err := w.compareEvent(m, e, ev, &got[0]); err != nil {
				return fmt.Errorf("up to %d: %w", rev, err)
			}
			got = got[1:]
		}
	}
	if len(got) > 0 {
		return fmt.Errorf("up to %d it is sent %d events too many, first %q at %d", rev, len(got), got[0].Key, got[0].ModRev)
	}
	return nil
}

// next is the first revision of an epoch from `from` to `to` that has events for the watch, and the events. It needs
// cluster.mu.
func (w *modelWatch) next(e *epoch, from, to int64) (rev int64, events []*mvccpb.Event) {
	end := fakeRangeEnd(w.watch.End)
	for rev := max(from, w.watch.Start, firstRevision+1); rev <= min(to, e.past.head()); rev++ {
		for _, ev := range e.past.at(rev) {
			del := ev.Type == mvccpb.Event_DELETE
			if fakeContains(w.watch.Key, end, ev.Kv.Key) && (!del || !w.watch.NoDelete) && (del || !w.watch.NoPut) {
				events = append(events, ev)
			}
		}
		if events != nil {
			return rev, events
		}
	}
	return 0, nil
}

func (w *modelWatch) compareEvent(m *model, e *epoch, want *mvccpb.Event, got *wire.Event) error {
	rev := want.Kv.ModRevision
	if data := mustMarshal(&mvccpb.Event{Type: want.Type, Kv: want.Kv}); !bytes.Equal(got.Data, data) {
		return fmt.Errorf("got %q at %d, want %q at %d", got.Key, got.ModRev, want.Kv.Key, rev)
	}
	if !w.watch.PrevKV {
		return nil
	}
	prev := e.past.get(want.Kv.Key, rev-1)
	if want.Type == mvccpb.Event_PUT && want.Kv.CreateRevision == rev {
		prev = nil
	}
	switch {
	case got.Prev == nil && (prev == nil || rev-1 < m.everCompacted()):
	case got.Prev == nil || prev == nil || !bytes.Equal(got.Prev, mustMarshal(prev)):
		return fmt.Errorf("%q at %d has the previous value %x, want %v", got.Key, rev, got.Prev, prev)
	}
	return nil
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}
