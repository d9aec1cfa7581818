package cache

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"weir/grpcapi/wire"
)

// Snapshot holds all keys of a range at its newest revision and, in a window bounded in bytes, at past ones.
//
// Its contents are a persistent tree: a revision makes a new tree that shares with the one before it all but
// the nodes above its changes. What readers see is one immutable state behind one atomic pointer, so that they never
// lock and never wait; who reads keeps the state that he has found, however long he takes. One goroutine writes, or several
// under a lock of the caller's: Apply, Advance, Forget and SetHistoryBytes. All other methods may be called by anybody.
//
// A list of versions at each key, as a store has it, was considered: past states would cost less, since no nodes
// are copied, but each read would have to look for the version of each key that it is due, keys deleted long ago would
// have to be looked past and swept up, and the keys of a range could not be counted without visiting them.
type Snapshot struct {
	state        atomic.Pointer[state]
	historyLimit int // bytes; of the writer
}

// state is immutable. States share the memory of versions: a later one only appends to it, or has its own.
type state struct {
	rev       int64     // everything up to it is in versions
	compacted int64     // nothing below it may be read
	versions  []version // ascending; at least one
	history   int       // bytes that only versions before the newest need
}

// version is the contents of the range from a revision on, until the next version's.
type version struct {
	rev      int64
	tree     tree
	replaced int // bytes that the version before this one needs, but neither this nor a later one does
}

const (
	versionBytes  = int(unsafe.Sizeof(version{}))
	snapshotBytes = int(unsafe.Sizeof(Snapshot{}) + unsafe.Sizeof(state{}))
)

// Apply makes the changes of revision rev, which are all that it has in the range. It copies what it keeps of events.
// A revision not above that of the newest change is ignored. The errors are that an event is malformed or of
// another revision, and that rev has been given to Advance as one without changes; the Snapshot is as it was then, and
// the caller should give it up, because it cannot be up to date any more.
func (s *Snapshot) Apply(rev int64, events []wire.Event) error {
	st := s.state.Load()
	newest := st.newest()
	switch {
	case rev <= newest.rev:
		return nil
	case len(events) == 0:
		s.Advance(rev)
		return nil
	case rev <= st.rev:
		return fmt.Errorf("apply revision %d to a snapshot that is at %d", rev, st.rev)
	}
	changes, err := changesOf(rev, events)
	if err != nil {
		return fmt.Errorf("apply revision %d: %w", rev, err)
	}
	next, replaced := newest.tree.edit(changes)
	replaced += versionBytes
	s.publish(state{
		rev:       rev,
		compacted: st.compacted,
		versions:  append(st.versions, version{rev: rev, tree: next, replaced: replaced}),
		history:   st.history + replaced,
	})
	return nil
}

// changesOf returns what the events of revision rev come to, sorted by key: the last event of each key.
func changesOf(rev int64, events []wire.Event) ([]change, error) {
	changes := make([]change, len(events))
	for i := range events {
		e := &events[i]
		if e.ModRev != rev {
			return nil, fmt.Errorf("event of key %q has revision %d", e.Key, e.ModRev)
		}
		var err error
		if changes[i], err = changeOf(e); err != nil {
			return nil, err
		}
	}
	if len(changes) == 1 {
		return changes, nil
	}
	slices.SortStableFunc(changes, func(a, b change) int { return strings.Compare(a.key, b.key) })
	last := changes[:1]
	for _, c := range changes[1:] {
		if c.key != last[len(last)-1].key {
			last = append(last, c)
		} else {
			last[len(last)-1] = c
		}
	}
	return last, nil
}

// Advance says that nothing more happens in the range up to revision rev. One not above Revision is ignored.
func (s *Snapshot) Advance(rev int64) {
	if st := *s.state.Load(); rev > st.rev {
		st.rev = rev
		s.state.Store(&st)
	}
}

// Forget says that the store is compacted at revision rev, so that no state before it may be read. The newest state
// stays, even if it is older: as at a member of etcd that lags, a read that asks for no revision is not refused.
func (s *Snapshot) Forget(rev int64) {
	if st := *s.state.Load(); rev > st.compacted {
		st.compacted = rev
		s.publish(st)
	}
}

// SetHistoryBytes bounds the memory that past states may take, and drops the oldest ones at once if it is exceeded.
func (s *Snapshot) SetHistoryBytes(n int) {
	s.historyLimit = n
	s.publish(*s.state.Load())
}

// publish makes st the state after it has dropped the versions that nobody may read or that take too much memory. The
// latter are dropped an eighth of the bound at a time, because the others have to be moved into memory of their own: those
// that are dropped cannot be wiped out of the memory that is there, which readers may be reading.
func (s *Snapshot) publish(st state) {
	limit := s.historyLimit
	if st.history > limit {
		limit -= limit / 8
	}
	drop := 0
	for ; drop+1 < len(st.versions); drop++ {
		next := &st.versions[drop+1]
		if next.rev > st.compacted && st.history <= limit {
			break
		}
		st.history -= next.replaced
	}
	if drop > 0 {
		kept := st.versions[drop:]
		st.versions = append(make([]version, 0, len(kept)+len(kept)/8+1), kept...)
	}
	s.state.Store(&st)
}

func (st *state) newest() *version { return &st.versions[len(st.versions)-1] }

func (st *state) oldest() int64 { return max(st.versions[0].rev, st.compacted) }

// at returns the version that holds at revision rev, which is not before oldest.
func (st *state) at(rev int64) *version {
	lo, hi := 0, len(st.versions)-1
	for lo < hi {
		mid := int(uint(lo+hi+1) / 2)
		if st.versions[mid].rev <= rev {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return &st.versions[lo]
}

// Revision returns the newest revision that the Snapshot is known to be at.
func (s *Snapshot) Revision() int64 { return s.state.Load().rev }

// Oldest returns the oldest revision that View answers. It is above Revision when the store has been compacted further
// than the Snapshot has come.
func (s *Snapshot) Oldest() int64 { return s.state.Load().oldest() }

// Keys returns the number of keys at the newest revision.
func (s *Snapshot) Keys() int { return s.state.Load().newest().tree.keys }

// Bytes returns about the memory that the Snapshot takes: keys, values, tree and history. What a View needs that is
// older than the window is its holder's.
func (s *Snapshot) Bytes() int {
	st := s.state.Load()
	return snapshotBytes + versionBytes + st.newest().tree.bytes + st.history
}

// HistoryBytes returns the part of Bytes that past states take.
func (s *Snapshot) HistoryBytes() int { return s.state.Load().history }

// View returns the state at revision rev; 0 or less is the newest, which there always is. It returns false for a revision
// before Oldest or after Revision.
func (s *Snapshot) View(rev int64) (View, bool) {
	st := s.state.Load()
	if rev <= 0 {
		return st.newest().view(st.rev), true
	}
	if rev < st.oldest() || rev > st.rev {
		return View{}, false
	}
	return st.at(rev).view(rev), true
}

func (v *version) view(rev int64) View { return View{revision: rev, changed: v.rev, tree: v.tree} }
