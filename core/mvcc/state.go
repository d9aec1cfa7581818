package mvcc

// state is one state of the store: all that a reader needs. It is never changed, but replaced as a whole, so readers
// need no lock and hinder nobody.
type state struct {
	rev     int64 // newest revision
	compact int64 // newest compacted revision, -1 when there is none
	tree    *keyTree
	applied Applied // as of tx

	// Where the value of a revision is: in changes not yet committed, being committed, or in the file. tx began
	// after the commit of everything that is in neither slice.
	pending, flushing []change
	tx                *readTx // nil while gate is set, and when the store is closed

	// gate is closed when there is a transaction again; see committer.shutOut. Else it is nil.
	gate chan struct{}
}

// publish replaces the state by a copy of it that fn has changed.
func (s *Store) publish(fn func(st *state)) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	st := *s.state.Load()
	fn(&st)
	s.state.Store(&st)
}

// acquire returns the newest state. Its transaction stays open until tx.release.
func (s *Store) acquire() (*state, error) {
	for {
		st := s.state.Load()
		switch {
		case st.gate != nil:
			<-st.gate
		case st.tx == nil:
			return nil, ErrClosed
		case st.tx.acquire():
			return st, nil
		}
		// The transaction was replaced, and so is the state.
	}
}

// install makes tx what readers read with, after the commit of what was flushing, and returns the one before it.
func (s *Store) install(tx *readTx) (old *readTx) {
	s.publish(func(st *state) {
		old = st.tx
		st.tx, st.applied, st.gate, st.flushing = tx, tx.applied, nil, nil
	})
	return old
}
