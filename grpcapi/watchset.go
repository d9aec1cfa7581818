package grpcapi

import (
	"iter"

	"weir/coalesce"
)

// watchSet is the watches of a stream by their ids. Most streams have only one, for which a map takes 250 bytes; it is
// made with the second. The zero value is an empty set.
type watchSet struct {
	one  watchEntry
	rest map[int64]watchEntry
}

type watchEntry struct {
	watcher *coalesce.Watcher // nil for a watch that is not there
	bytes   int
	era     uint64 // of the revisions that its client is told; see watchConfig.era
}

func (w *watchSet) get(id int64) watchEntry {
	if w.one.watcher != nil && w.one.watcher.ID == id {
		return w.one
	}
	return w.rest[id]
}

// find returns the entry of watcher, if that is in the set and not another with its id.
func (w *watchSet) find(watcher *coalesce.Watcher) (e watchEntry, ok bool) {
	e = w.get(watcher.ID)
	return e, e.watcher == watcher
}

// all yields every watch, which may be removed meanwhile.
func (w *watchSet) all() iter.Seq[*coalesce.Watcher] {
	return func(yield func(*coalesce.Watcher) bool) {
		if w.one.watcher != nil && !yield(w.one.watcher) {
			return
		}
		for _, e := range w.rest {
			if !yield(e.watcher) {
				return
			}
		}
	}
}

// add adds a watch whose id is not in the set.
func (w *watchSet) add(e watchEntry) {
	switch {
	case w.one.watcher == nil:
		w.one = e
	case w.rest == nil:
		w.rest = map[int64]watchEntry{e.watcher.ID: e}
	default:
		w.rest[e.watcher.ID] = e
	}
}

// remove takes a watch out and returns it.
func (w *watchSet) remove(id int64) watchEntry {
	e := w.get(id)
	if e.watcher == w.one.watcher {
		w.one = watchEntry{}
	} else {
		delete(w.rest, id)
	}
	return e
}
