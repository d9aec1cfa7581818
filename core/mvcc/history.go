package mvcc

import (
	"errors"
	"fmt"
	"slices"

	"weir/grpcapi/wire"
)

// errStop ends a walk early.
var errStop = errors.New("stop")

// History calls yield with the events of each revision from `from` on that touched [key, end), whole and in order,
// until yield returns false or the newest revision is reached. end is as in Range. It returns the revision to go on
// from: the one after the last that was yielded, or after the newest. All is read from one state of the store, one
// revision at a time. It fails with ErrCompacted when from is below the compact revision; as in etcd a watcher may
// start at the compact revision itself.
func (s *Store) History(key, end []byte, from int64, yield func(rev int64, events []wire.Event) bool) (next int64, err error) {
	v := s.View()
	defer v.Close()
	switch {
	case v.err != nil:
		return from, v.err
	case from < v.state.compact:
		return from, ErrCompacted
	case from > v.state.rev:
		return from, nil
	}
	h := historian{next: from, yield: yield}
	if revs, ok := revisionsOf(v, key, end, from); ok {
		err = h.byIndex(v, revs)
	} else {
		err = h.byWalk(v, key, end, from)
	}
	if err == nil {
		err = h.flush()
	}
	switch {
	case errors.Is(err, errStop):
		return h.next, nil
	case err != nil:
		return h.next, fmt.Errorf("read history: %w", err)
	}
	return v.state.rev + 1, nil
}

// historian puts events together into revisions.
type historian struct {
	next   int64
	yield  func(int64, []wire.Event) bool
	rev    int64
	events []wire.Event
}

// add takes an event, whose memory may be kept. It returns errStop when no more is wanted.
func (h *historian) add(r revision, kv []byte) error {
	if r.main != h.rev {
		if err := h.flush(); err != nil {
			return err
		}
		h.rev = r.main
	}
	event, err := eventOf(r, kv)
	if err != nil {
		return err
	}
	h.events = append(h.events, event)
	return nil
}

func (h *historian) flush() error {
	if len(h.events) == 0 {
		return nil
	}
	more := h.yield(h.rev, h.events)
	h.next, h.events = h.rev+1, nil
	if !more {
		return errStop
	}
	return nil
}

// eventOf makes the event of revision r, which copies kv.
func eventOf(r revision, kv []byte) (wire.Event, error) {
	if !r.deleted() {
		return wire.NewPutEvent(kv)
	}
	key, err := keyOf(kv)
	if err != nil {
		return wire.Event{}, err
	}
	return wire.NewDeleteEvent(key, r.main), nil
}

// byIndex reads the revisions that the index has of a few keys.
func (h *historian) byIndex(v *View, revs []revision) error {
	values := v.state.reader()
	for _, r := range revs {
		kv, _, err := values.get(r)
		if err != nil {
			return err
		}
		if err := h.add(r, kv); err != nil {
			return err
		}
	}
	return nil
}

// byWalk reads all revisions and picks those of the range.
func (h *historian) byWalk(v *View, key, end []byte, from int64) error {
	return v.state.walk(revision{main: from}, v.state.rev, func(_ []byte, r revision, kv []byte) error {
		k, err := keyOf(kv)
		if err != nil || !inRange(k, key, end) {
			return err
		}
		return h.add(r, kv)
	})
}

// revisionsOf returns the revisions in v of the keys in the range, from `from` on and in order, if asking the index
// is less work than walking over all revisions: if there are fewer keys than revisions to walk, and not too many to
// hold in memory.
func revisionsOf(v *View, key, end []byte, from int64) (revs []revision, ok bool) {
	const most = 1 << 16
	budget := min(most, v.state.rev-from+1)
	ok = true
	ascend(v.state.tree, key, end, func(_ string, k *keyIndex) bool {
		first, last := k.find(from-1)+1, k.find(v.state.rev)
		budget -= int64(1 + last + 1 - first)
		if ok = budget >= 0 || len(end) == 0; !ok {
			return false
		}
		for i := first; i <= last; i++ {
			revs = append(revs, k.rev(i))
		}
		return true
	})
	if !ok {
		return nil, false
	}
	slices.SortFunc(revs, func(a, b revision) int {
		if a.before(b) {
			return -1
		}
		return 1 // no two are equal
	})
	return revs, true
}

// walk calls fn with every revision from `from` up to main that is in the file or waits to be, in order, until fn
// fails. k is the revision's key in the file. k and kv are valid only in the call.
func (st *state) walk(from revision, main int64, fn func(k []byte, r revision, kv []byte) error) error {
	start := revision{main: from.main, sub: from.sub}
	cursor := st.tx.keys.Cursor()
	for k, kv := cursor.Seek(start.appendKey(nil)); k != nil; k, kv = cursor.Next() {
		r, err := parseRevKey(k)
		if err != nil {
			return err
		}
		if r.main > main {
			return nil
		}
		if err := fn(k, r, kv); err != nil {
			return fmt.Errorf("revision %d.%d: %w", r.main, r.sub, err)
		}
	}
	var key [maxRevKeyLen]byte
	for _, changes := range [][]change{st.flushing, st.pending} {
		for _, c := range after(changes, start) {
			if c.rev.main > main {
				return nil
			}
			if err := fn(c.rev.appendKey(key[:0]), c.rev, c.kv); err != nil {
				return fmt.Errorf("revision %d.%d: %w", c.rev.main, c.rev.sub, err)
			}
		}
	}
	return nil
}
