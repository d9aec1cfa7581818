package cache

import "sync/atomic"

// Session is what one client connection was told: the newest revision, below which its later reads must not fall.
//
// Revisions are counted anew in each era, which is when the cluster upstream was found replaced: those of different eras
// do not compare. The zero value is ready, and nothing has been told yet; of a nil Session nothing is remembered. All
// methods may be called concurrently. They take no lock.
type Session struct{ floor atomic.Pointer[floor] }

type floor struct {
	era uint64
	rev atomic.Int64
}

// Told raises the floor of an era to rev. A later era starts anew, and an older one is ignored.
func (s *Session) Told(era uint64, rev int64) {
	if s == nil || rev <= 0 {
		return
	}
	f := s.floor.Load()
	for f == nil || f.era < era {
		next := &floor{era: era}
		if s.floor.CompareAndSwap(f, next) {
			f = next
		} else {
			f = s.floor.Load()
		}
	}
	if f.era > era {
		return
	}
	for old := f.rev.Load(); old < rev && !f.rev.CompareAndSwap(old, rev); old = f.rev.Load() {
	}
}

// Floor is the newest revision that was told in the era; 0 if there is none, or if there is one of a later era.
func (s *Session) Floor(era uint64) int64 {
	if s == nil {
		return 0
	}
	if f := s.floor.Load(); f != nil && f.era == era {
		return f.rev.Load()
	}
	return 0
}
