package auth

import "iter"

// Replacement is users and roles that come from another member, with the data that they are of: both are later than what is here. They
// take the place of what is here in two steps, around that of the data. New rights are not for the old data: what has been deleted
// since may have been secret; nor old rights for the new.
//
// The applier alone calls the methods.
type Replacement struct {
	s    *Store
	next *state
}

// Reload reads records that come from another member. Nothing changes yet. Error: the records are not right.
func (s *Store) Reload(records iter.Seq[Record]) (*Replacement, error) {
	st, err := loadState(records)
	if err != nil {
		return nil, err
	}
	return &Replacement{s, st}, nil
}

// Begin is to be called before the data are replaced, and tells whether authentication is on, before or after. If so, from then until End
// everybody is refused with ErrGRPCAuthOldRevision, upon which clients ask again, and Unchanged refuses what was permitted before; but
// who has been permitted to go on (PermitUser) may, who may before and after.
func (r *Replacement) Begin() (matters bool) {
	st := r.s.state.Load().clone()
	st.enabled = st.enabled || r.next.enabled
	if !st.enabled {
		return false
	}
	st.before, st.next = r.s.state.Load(), r.next
	r.s.state.Store(st)
	return true
}

// End is to be called when the data have been replaced. Every simple token is forgotten: which were handed out, and which have ended
// since, is not in the records; clients whose token is not known ask for a new one.
func (r *Replacement) End() {
	// A token that Identify still finds has a revision from before: see there.
	r.s.tokens.clear()
	r.s.state.Store(r.next)
}

// isBeingReplaced tells whether the state is one between Begin and End.
func (st *state) isBeingReplaced() bool { return st.next != nil }
