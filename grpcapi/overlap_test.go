package grpcapi

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// What is taken and what is refused here was tried with etcd 3.7.3.
func TestOverlappingWritesAreRefusedAsByEtcd(t *testing.T) {
	cases := []struct {
		name    string
		ops     []*pb.RequestOp
		refused bool
	}{
		{"nothing", nil, false},
		{"two keys", ops(putOp("a"), putOp("b")), false},
		{"one key twice", ops(putOp("a"), putOp("b"), putOp("a")), true},
		{"a key put and read", ops(putOp("a"), getOp("a")), false},
		{"a key put and deleted", ops(putOp("a"), delOp("a", "")), true},
		{"a key deleted and put", ops(delOp("a", ""), putOp("a")), true},
		{"a neighbour deleted", ops(delOp("a", ""), putOp("a\x00")), false},
		{"a range deleted and its first key put", ops(delOp("a", "c"), putOp("a")), true},
		{"a range deleted and its end put", ops(delOp("a", "c"), putOp("c")), false},
		{"ranges that overlap", ops(delOp("a", "c"), delOp("b", "d"), delOp("a", "")), false},
		{"a put in the union of ranges", ops(delOp("b", "d"), delOp("a", "c"), putOp("c")), true},
		{"everything from a key on deleted", ops(delOp("a", "\x00"), putOp("b")), false},
		{"an inverted range", ops(delOp("z", "a"), putOp("m"), putOp("z"), putOp("a")), false},
		{"an inverted range beside one", ops(delOp("b", "d"), delOp("z", "a"), putOp("c")), true},
		{"an empty range", ops(delOp("a", "a"), putOp("a")), false},

		{"then and else put one key", ops(txnOp(ops(putOp("a")), ops(putOp("a")))), false},
		{"then puts and else deletes", ops(txnOp(ops(putOp("a")), ops(delOp("a", "")))), false},
		{"then puts twice", ops(txnOp(ops(putOp("a"), putOp("a")), nil)), true},
		{"else puts twice", ops(txnOp(nil, ops(putOp("a"), putOp("a")))), true},
		{"nested put and a put", ops(txnOp(ops(putOp("a")), ops(putOp("a"))), putOp("a")), true},
		{"a put and a put nested in else", ops(putOp("a"), txnOp(nil, ops(putOp("a")))), true},
		{"a deletion and a nested put", ops(delOp("a", "c"), txnOp(nil, ops(putOp("b")))), true},
		{"a nested deletion and a put", ops(txnOp(ops(delOp("a", "c")), nil), putOp("b")), true},
		{"nested deletion, later nested put", ops(txnOp(ops(delOp("a", "")), nil), txnOp(ops(putOp("a")), nil)), true},
		{"nested put, later nested deletion", ops(txnOp(ops(putOp("a")), nil), txnOp(ops(delOp("a", "")), nil)), false},
		{"two nested put one key", ops(txnOp(ops(putOp("a")), nil), txnOp(nil, ops(putOp("a")))), true},
		{"deep put and a put", ops(nest(20, putOp("a")), putOp("a")), true},
		{"deep puts of different keys", ops(nest(20, putOp("a")), nest(20, putOp("b"))), false},
	}
	for _, c := range cases {
		want := error(nil)
		if c.refused {
			want = rpctypes.ErrGRPCDuplicateKey
		}
		for branch, txn := range map[string]*pb.TxnRequest{"then": {Success: c.ops}, "else": {Failure: c.ops}} {
			if got := checkOverlap(txn); got != want {
				t.Errorf("%s, in %s: got %v, want %v", c.name, branch, got, want)
			}
		}
	}
}

// pathStep is one step from a branch down to a write: which operation of the list, and which branch of it if it is
// a transaction.
type pathStep struct{ index, branch int }

// write is one put or deletion with its place in a transaction.
type write struct {
	put        bool
	begin, end string
	path       []pathStep
}

func flatten(list []*pb.RequestOp, path []pathStep, out []write) []write {
	for i, op := range list {
		at := func(branch int) []pathStep { return append(slices.Clone(path), pathStep{i, branch}) }
		switch {
		case op.GetRequestPut() != nil:
			out = append(out, write{put: true, begin: string(op.GetRequestPut().Key), path: at(0)})
		case op.GetRequestDeleteRange() != nil:
			d := op.GetRequestDeleteRange()
			w := write{begin: string(d.Key), end: string(d.RangeEnd), path: at(0)}
			if w.end == "" {
				w.end = w.begin + "\x00"
			}
			out = append(out, w)
		case op.GetRequestTxn() != nil:
			out = flatten(op.GetRequestTxn().Success, at(1), out)
			out = flatten(op.GetRequestTxn().Failure, at(2), out)
		}
	}
	return out
}

// conflict compares two writes by where their paths part, which is the whole rule.
func conflict(a, b write) bool {
	if !a.put && !b.put {
		return false
	}
	i := 0
	for a.path[i] == b.path[i] {
		i++
	}
	if a.path[i].index == b.path[i].index {
		return false // the two branches of one transaction
	}
	if a.put && b.put {
		return a.begin == b.begin
	}
	if b.put {
		a, b = b, a
	}
	if a.begin < b.begin || a.begin >= b.end {
		return false
	}
	nested := func(w write) bool { return i < len(w.path)-1 }
	return !nested(a) || !nested(b) || b.path[i].index < a.path[i].index
}

func TestOverlapAgreesWithComparingEveryPair(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	key := func() string { return fmt.Sprintf("%02d", r.IntN(40)) }
	var list func(depth int) []*pb.RequestOp
	list = func(depth int) []*pb.RequestOp {
		return times(r.IntN(5), func(int) *pb.RequestOp {
			switch r.IntN(8) {
			case 0, 1, 2:
				if depth > 0 {
					return txnOp(list(depth-1), list(depth-1))
				}
				return putOp(key())
			case 3, 4, 5:
				return putOp(key())
			case 6:
				return delOp(key(), "")
			default:
				begin := r.IntN(40)
				return delOp(fmt.Sprintf("%02d", begin), fmt.Sprintf("%02d", begin+r.IntN(4)-1))
			}
		})
	}
	refused := 0
	for range 5000 {
		txn := list(r.IntN(4))
		all := flatten(txn, nil, nil)
		want := error(nil)
		for i, a := range all {
			for _, b := range all[:i] {
				if conflict(a, b) {
					want = rpctypes.ErrGRPCDuplicateKey
				}
			}
		}
		if want != nil {
			refused++
		}
		if got := checkOverlap(&pb.TxnRequest{Success: txn}); got != want {
			t.Fatalf("got %v, want %v for %v", got, want, txn)
		}
	}
	if refused < 500 || refused > 4500 {
		t.Errorf("%d of 5000 were refused: the test says little", refused)
	}
}

// BenchmarkOverlapDeep is the worst that 128 operations a level allow within 1.5 MiB: a long chain of transactions
// with two writes at each level above very many.
func BenchmarkOverlapDeep(b *testing.B) {
	many := times(40, func(i int) *pb.RequestOp {
		return txnOp(times(40, func(j int) *pb.RequestOp {
			return txnOp(times(20, func(k int) *pb.RequestOp { return putOp(fmt.Sprintf("m%d/%d/%d", i, j, k)) }), nil)
		}), nil)
	})
	for i := range 9 {
		many = ops(txnOp(many, nil), putOp(fmt.Sprint("p", i)), delOp(fmt.Sprint("d", i), ""))
	}
	txn := &pb.TxnRequest{Success: many}
	if err := checkTxn(txn, 128); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := checkOverlap(txn); err != nil {
			b.Fatal(err)
		}
	}
}
