package linearizable

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// requests makes random requests about the keys of one history.
type requests struct {
	*History
	id       int
	spanning bool // some are about several keys, which makes the history dear to check
	padding  int  // added to the length of values
	streams  bool // some reads are streamed, which etcd does since 3.7
	newest   func() int64

	mu     sync.Mutex // guards all below
	values map[string][]string
	made   int
}

func newRequests(id, keys int, spanning bool, newest func() int64) *requests {
	h := &History{Prefix: prefixOf(id)}
	for i := range keys - 1 {
		h.Keys = append(h.Keys, h.Prefix+string(rune('a'+i)))
	}
	h.Keys = append(h.Keys, fmt.Sprintf("%s%06d", apart, id))
	return &requests{History: h, id: id, spanning: spanning, streams: true, newest: newest, values: map[string][]string{}}
}

// The keys of histories begin so: all but one of each with cached, and one with apart, so that a transaction may need
// both to be of the same revision.
const cached, apart = "/lin/", "/lone/"

func prefixOf(id int) string { return fmt.Sprintf("%s%06d/", cached, id) }

func (r *requests) key(rng *rand.Rand) string { return r.Keys[rng.IntN(len(r.Keys))] }

func (r *requests) put(rng *rand.Rand) Step {
	key := r.key(rng)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made++
	value := fmt.Sprintf("%d.%d", r.id, r.made)
	r.values[key] = append(r.values[key], value+strings.Repeat(".", r.padding))
	return Step{Kind: Put, Key: key, Value: value + strings.Repeat(".", r.padding)}
}

// likely is the newest value that was to be put, one before, or none.
func (r *requests) likely(rng *rand.Rand, key string) Compare {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.values[key]
	back := rng.IntN(3)
	if back >= len(all) {
		return Compare{Key: key}
	}
	return Compare{Key: key, Value: all[len(all)-1-back]}
}

// chance is true in so many of a hundred cases.
func chance(rng *rand.Rand, percent int) bool { return rng.IntN(100) < percent }

func (r *requests) next(rng *rand.Rand) Request {
	var q Request
	if r.spanning {
		q = r.nextSpanning(rng)
	} else {
		q = r.nextSingle(rng)
	}
	q.Uncached = !q.writes() && chance(rng, 10)
	return q
}

func (r *requests) nextSingle(rng *rand.Rand) Request {
	switch n := rng.IntN(100); {
	case n < 30:
		return plain(r.put(rng))
	case n < 38:
		return plain(Step{Kind: DeleteRange, Key: r.key(rng)})
	case n < 52:
		return r.compareAndPut(rng)
	default:
		return r.read(rng, Step{Kind: Range, Key: r.key(rng)})
	}
}

func (r *requests) nextSpanning(rng *rand.Rand) Request {
	all := Step{Kind: Range, Key: r.Prefix, End: clientv3.GetPrefixRangeEnd(r.Prefix)}
	switch n := rng.IntN(100); {
	case n < 27:
		return plain(r.put(rng))
	case n < 32:
		return plain(Step{Kind: DeleteRange, Key: r.key(rng)})
	case n < 34:
		return plain(Step{Kind: DeleteRange, Key: all.Key, End: all.End})
	case n < 42:
		return r.compareAndPut(rng)
	case n < 46: // as one
		return Request{Kind: Txn, Then: r.putTwo(rng)}
	case n < 48:
		return Request{Kind: Txn, Then: []Step{r.put(rng), all}}
	case n < 58:
		return r.read(rng, Step{Kind: Range, Key: r.key(rng)})
	case n < 80:
		return r.read(rng, all)
	case n < 84:
		return r.read(rng, Step{Kind: Range, Key: r.Keys[rng.IntN(len(r.Keys)-1)], End: all.End})
	case n < 86: // reaches beyond the history's keys
		return r.read(rng, Step{Kind: Range, Key: r.key(rng), End: "\x00"})
	case n < 89: // the same for several histories, and dear enough to build for the proxy to keep the answer
		return r.read(rng, Step{Kind: Range, Key: prefixOf(r.id &^ 15), End: clientv3.GetPrefixRangeEnd(cached)})
	default:
		return r.readSeveral(rng, all)
	}
}

func plain(s Step) Request { return Request{Kind: s.Kind, Then: []Step{s}} }

func (r *requests) compareAndPut(rng *rand.Rand) Request {
	put := r.put(rng)
	q := Request{Kind: Txn, Compare: r.likely(rng, put.Key), Then: []Step{put}}
	if chance(rng, 50) {
		q.Else = []Step{{Kind: Range, Key: put.Key}}
	}
	return q
}

func (r *requests) putTwo(rng *rand.Rand) []Step {
	one := r.put(rng)
	for {
		// etcd refuses to put a key twice in a transaction.
		if other := r.put(rng); other.Key != one.Key {
			return []Step{one, other}
		}
	}
}

// read is a Range with random options, alone or in a transaction.
func (r *requests) read(rng *rand.Rand, s Step) Request {
	s.Read = r.options(rng, s.End != "")
	switch {
	case r.streams && chance(rng, 15):
		return Request{Kind: RangeStream, Then: []Step{s}}
	case chance(rng, 5):
		return Request{Kind: Txn, Then: []Step{s}}
	default:
		return plain(s)
	}
}

// readSeveral is a transaction that reads only.
func (r *requests) readSeveral(rng *rand.Rand, all Step) Request {
	q := Request{Kind: Txn}
	serializable := chance(rng, 20)
	add := func(branch *[]Step, s Step) {
		s.Read = r.options(rng, s.End != "")
		s.Read.Serializable = serializable
		s.Read.Revision = 0
		*branch = append(*branch, s)
	}
	for range 2 + rng.IntN(2) {
		add(&q.Then, Step{Kind: Range, Key: r.key(rng)})
	}
	if chance(rng, 40) {
		add(&q.Then, all)
	}
	if chance(rng, 50) {
		q.Compare = r.likely(rng, r.key(rng))
		add(&q.Else, all)
	}
	return q
}

func (r *requests) options(rng *rand.Rand, ranged bool) Read {
	o := Read{Serializable: chance(rng, 25), KeysOnly: chance(rng, 8), CountOnly: chance(rng, 12)}
	if ranged && chance(rng, 30) {
		o.Limit = 1 + rng.Int64N(3)
	}
	if chance(rng, 8) {
		o.Revision = max(1, r.newest()-rng.Int64N(60)*rng.Int64N(3))
	}
	return o
}
