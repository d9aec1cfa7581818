package access

import "sync"

// grants are which ranges tokens have been permitted to watch in the present generation: a watch may be looked at before
// anything else is known of its user. When it is full, the older half is forgotten, and who is looked at then has to come
// again. The zero value is ready for use.
type grants struct {
	mu         sync.Mutex // guards what follows
	in         *generation
	fresh, old map[grant]struct{}
	bytes      int // of fresh
}

type grant struct {
	token    uint64
	key, end string
}

const maxGrantBytes = 16 << 20

// add records what was permitted by who was asked in a generation, or later.
func (a *grants) add(token uint64, r Range, in *generation) {
	k := grant{token, string(r.Key), string(r.End)}
	size := 96 + len(k.key) + len(k.end)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.in != in {
		if a.in != nil && a.in.number > in.number {
			return // it is void already
		}
		a.in, a.fresh, a.old, a.bytes = in, map[grant]struct{}{}, nil, 0
	}
	if _, ok := a.fresh[k]; ok {
		return
	}
	if a.bytes+size > maxGrantBytes/2 {
		a.fresh, a.old, a.bytes = map[grant]struct{}{}, a.fresh, 0
	}
	a.fresh[k] = struct{}{}
	a.bytes += size
}

// has tells whether this was permitted in this generation.
func (a *grants) has(token uint64, r Range, in *generation) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.in != in {
		return false
	}
	_, ok := a.fresh[grant{token, string(r.Key), string(r.End)}]
	if !ok {
		_, ok = a.old[grant{token, string(r.Key), string(r.End)}]
	}
	return ok
}
