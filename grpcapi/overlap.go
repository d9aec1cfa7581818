package grpcapi

import (
	"github.com/tidwall/btree"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// checkOverlap refuses a transaction that writes one key twice in a way whose result would depend on the order:
// two puts of it, or a put and a deletion of a range that holds it. The branches of a transaction exclude each
// other and may overlap. Two things that one might expect to be refused are not, because etcd takes them: a put in
// a nested transaction with a deletion in a later one, and a deletion of all keys from some key on (range end
// "\0", which this check of etcd reads as an empty range).
//
// checkTxn must have passed: it bounds the depth. Each set of keys is merged into the larger of two, so that n
// operations cost O(n log² n) however they are nested; copying the sets of children into their parents level by
// level would cost n times the depth.
func checkOverlap(r *pb.TxnRequest) error {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if !mayOverlap(branch) {
			continue
		}
		if _, ok := writesOf(branch); !ok {
			return rpctypes.ErrGRPCDuplicateKey
		}
	}
	return nil
}

// mayOverlap is false for the branches that most transactions have: nothing nested and at most one write.
func mayOverlap(ops []*pb.RequestOp) bool {
	writes := 0
	for _, op := range ops {
		switch op.Request.(type) {
		case *pb.RequestOp_RequestRange:
		case *pb.RequestOp_RequestTxn:
			return true
		default:
			writes++
		}
	}
	return writes > 1
}

// writes is what a list of operations writes, nested transactions included.
type writes struct {
	puts keySet
	dels rangeSet
}

// writesOf returns what ops write, or false when writes overlap.
func writesOf(ops []*pb.RequestOp) (writes, bool) {
	w := writes{puts: newKeySet(), dels: newRangeSet()}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			key := string(d.Key)
			if len(d.RangeEnd) == 0 {
				w.dels.add(key, key+"\x00")
			} else {
				w.dels.add(key, string(d.RangeEnd))
			}
		}
	}
	for _, op := range ops {
		t := op.GetRequestTxn()
		if t == nil {
			continue
		}
		then, ok := writesOf(t.Success)
		if !ok {
			return w, false
		}
		otherwise, ok := writesOf(t.Failure)
		if !ok {
			return w, false
		}
		for _, nested := range []writes{then, otherwise} {
			if w.puts.intersects(nested.puts) || w.dels.intersects(nested.puts) {
				return w, false
			}
		}
		w = w.merge(then).merge(otherwise)
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			key := string(p.Key)
			if w.puts.Contains(key) || w.dels.contains(key) {
				return w, false
			}
			w.puts.Insert(key)
		}
	}
	return w, true
}

func (w writes) merge(v writes) writes {
	return writes{puts: w.puts.merge(v.puts), dels: w.dels.merge(v.dels)}
}

// keySet is an ordered set of keys.
type keySet struct{ *btree.Set[string] }

func newKeySet() keySet { return keySet{new(btree.Set[string])} }

func (s keySet) intersects(t keySet) bool {
	if s.Len() > t.Len() {
		s, t = t, s
	}
	found := false
	s.Scan(func(key string) bool {
		found = t.Contains(key)
		return !found
	})
	return found
}

// merge returns the union and consumes both.
func (s keySet) merge(t keySet) keySet {
	if s.Len() < t.Len() {
		s, t = t, s
	}
	t.Scan(func(key string) bool {
		s.Insert(key)
		return true
	})
	return s
}

// rangeSet is a set of keys kept as ranges [begin, end) that do not touch, by their begin.
type rangeSet struct{ *btree.Map[string, string] }

func newRangeSet() rangeSet { return rangeSet{new(btree.Map[string, string])} }

// add adds [begin, end), which may be empty.
func (s rangeSet) add(begin, end string) {
	if begin >= end {
		return
	}
	if b, e, ok := s.before(begin); ok && e >= begin {
		begin, end = b, max(end, e)
	}
	for {
		b, e, ok := s.from(begin)
		if !ok || b > end {
			break
		}
		end = max(end, e)
		s.Delete(b)
	}
	s.Set(begin, end)
}

// before returns the last range that begins at key or before.
func (s rangeSet) before(key string) (begin, end string, ok bool) {
	s.Descend(key, func(b, e string) bool {
		begin, end, ok = b, e, true
		return false
	})
	return begin, end, ok
}

// from returns the first range that begins at key or after.
func (s rangeSet) from(key string) (begin, end string, ok bool) {
	s.Ascend(key, func(b, e string) bool {
		begin, end, ok = b, e, true
		return false
	})
	return begin, end, ok
}

func (s rangeSet) contains(key string) bool {
	_, end, ok := s.before(key)
	return ok && key < end
}

func (s rangeSet) intersects(keys keySet) bool {
	found := false
	if keys.Len() <= s.Len() {
		keys.Scan(func(key string) bool {
			found = s.contains(key)
			return !found
		})
		return found
	}
	s.Scan(func(begin, end string) bool {
		keys.Ascend(begin, func(key string) bool {
			found = key < end
			return false
		})
		return !found
	})
	return found
}

// merge returns the union and consumes both.
func (s rangeSet) merge(t rangeSet) rangeSet {
	if s.Len() < t.Len() {
		s, t = t, s
	}
	t.Scan(func(begin, end string) bool {
		s.add(begin, end)
		return true
	})
	return s
}
