package mvcc

import "sync/atomic"

// View is one state of the store, for as many reads as one likes; writes, compaction and defragmentation go on and
// do not change it. It keeps pages of the file from being used again, so it should be closed soon. Several goroutines
// may read from it.
type View struct {
	state   *state
	err     error // ErrClosed
	metrics *metrics
	ranges  atomic.Int64 // read
}

// View returns the newest state. It must be closed.
func (s *Store) View() *View {
	st, err := s.acquire()
	if err != nil {
		st = s.state.Load() // empty
	}
	return &View{state: st, err: err, metrics: s.metrics}
}

// Close ends the use of the view. It may be called once.
func (v *View) Close() {
	if v.err == nil {
		v.state.tx.release()
		v.err = ErrClosed
		v.metrics.transaction(int(v.ranges.Load()), 0, 0, 0)
	}
}

// Revision is the newest revision in the view.
func (v *View) Revision() int64 { return v.state.rev }

// CompactRevision is as Store.CompactRevision, when the view was made.
func (v *View) CompactRevision() int64 { return v.state.compact }

// Range is as Store.Range.
func (v *View) Range(key, end []byte, o RangeOptions) (RangeResult, error) {
	if v.err != nil {
		return RangeResult{}, v.err
	}
	v.ranges.Add(1)
	return v.state.rangeKeys(key, end, o)
}
