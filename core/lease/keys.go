package lease

import "slices"

// Attach hangs key on a lease and takes it off the one it was on. Error: ErrNotFound, and nothing has changed.
func (l *Lessor) Attach(id int64, key []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return attach(l.leases, l.keys, id, key)
}

func attach(leases map[int64]*lease, keys map[string]place, id int64, key []byte) error {
	le := leases[id]
	if le == nil {
		return ErrNotFound
	}
	p, attached := keys[string(key)]
	if attached && p.lease == le {
		return nil
	}
	k := string(key)
	if attached {
		takeOff(keys, p)
	}
	keys[k] = place{le, len(le.keys)}
	le.keys = append(le.keys, k)
	return nil
}

// Detach takes key off the lease it hangs on, if it hangs on one.
func (l *Lessor) Detach(key []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.keys[string(key)]; ok {
		takeOff(l.keys, p)
		delete(l.keys, string(key))
	}
}

// LeaseOf returns the id of the lease that key hangs on, or 0.
func (l *Lessor) LeaseOf(key []byte) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.keys[string(key)]; ok {
		return p.lease.id
	}
	return 0
}

// Keys returns the keys that hang on a lease in ascending order, the same on every member; none when there is no such
// lease. They are the caller's.
func (l *Lessor) Keys(id int64) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if le := l.leases[id]; le != nil {
		return le.sortedKeys()
	}
	return nil
}

// CheckKeys calls check with the keys that hang on a lease, in any order, until it returns an error, which CheckKeys
// returns. The lessor is locked meanwhile, and the key is check's only until it returns.
func (l *Lessor) CheckKeys(id int64, check func(key []byte) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	le := l.leases[id]
	if le == nil {
		return nil
	}
	var buf []byte
	for _, key := range le.keys {
		buf = append(buf[:0], key...)
		if err := check(buf); err != nil {
			return err
		}
	}
	return nil
}

// takeOff removes the key at p from its lease by putting the last key in its place. The caller updates keys[the key].
func takeOff(keys map[string]place, p place) {
	le, last := p.lease, len(p.lease.keys)-1
	if p.index != last {
		moved := le.keys[last]
		le.keys[p.index] = moved
		keys[moved] = p
	}
	le.keys[last] = "" // let go of the string
	le.keys = le.keys[:last]
	if last == 0 {
		le.keys = nil
	}
}

func (le *lease) sortedKeys() [][]byte {
	keys := make([][]byte, len(le.keys))
	for i, key := range slices.Sorted(slices.Values(le.keys)) {
		keys[i] = []byte(key)
	}
	return keys
}

// Len is how many leases there are.
func (l *Lessor) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leases)
}
