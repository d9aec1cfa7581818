package core

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

// txnRun executes one etcd transaction: on a view when it only reads, else inside a write transaction.
//
// As at etcd, all compares, nested ones included, are evaluated on the state before the transaction, and
// everything that can fail is checked on that state before the first write; so a transaction that fails has
// changed nothing, and one that starts to write finishes.
type txnRun struct {
	request   *pb.TxnRequest
	before    reader   // the state before
	revision  int64    // of that state
	compacted int64    // its compact revision
	leases    leaseSet // nil when only reading

	// branches holds the outcome of the compares of each transaction, the outermost first, in the order in which
	// execution meets them.
	branches []bool
}

// leaseSet tells which leases exist.
type leaseSet interface{ Exists(id int64) bool }

// prepare evaluates the compares and refuses what would fail half-way. Its errors are the request's.
func (t *txnRun) prepare() error {
	if err := t.compare(t.request); err != nil {
		return err
	}
	next := 0
	return t.check(t.request, &next)
}

// execute runs the transaction after prepare, on the state before when it only reads, else inside tx. It returns
// the encoded answers (wire.AppendTxnOp). An error after a write is fatal.
func (t *txnRun) execute(tx *mvcc.Txn) (succeeded bool, ops []byte, err error) {
	from := t.before
	if tx != nil {
		from = tx
	}
	next := 0
	ops, err = t.run(t.request, from, tx, &next)
	return t.branches[0], ops, err
}

// compare decides which branch each transaction takes.
func (t *txnRun) compare(r *pb.TxnRequest) error {
	ok, err := t.holdsAll(r.Compare)
	if err != nil {
		return err
	}
	t.branches = append(t.branches, ok)
	for _, op := range branch(r, ok) {
		if nested := op.GetRequestTxn(); nested != nil {
			if err := t.compare(nested); err != nil {
				return err
			}
		}
	}
	return nil
}

// branch returns the operations of a transaction whose compares came out as ok.
func branch(r *pb.TxnRequest, ok bool) []*pb.RequestOp {
	if ok {
		return r.Success
	}
	return r.Failure
}

func (t *txnRun) holdsAll(compares []*pb.Compare) (bool, error) {
	for _, c := range compares {
		if ok, err := t.holds(c); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (t *txnRun) holds(c *pb.Compare) (bool, error) {
	res, err := t.before.Range(c.Key, c.RangeEnd, mvcc.RangeOptions{KeysOnly: c.Target != pb.Compare_VALUE && c.Target != pb.Compare_LEASE})
	if err != nil {
		return false, fmt.Errorf("compare: %w", err)
	}
	return wire.Holds(c, res.KVs)
}

// check refuses what would fail half-way. next counts the transactions met.
func (t *txnRun) check(r *pb.TxnRequest, next *int) error {
	ok := t.branches[*next]
	*next++
	for _, op := range branch(r, ok) {
		switch req := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			switch rev := req.RequestRange.GetRevision(); {
			case rev > t.revision:
				return mvcc.ErrFutureRev
			case rev != 0 && rev < t.compacted:
				return mvcc.ErrCompacted
			}
		case *pb.RequestOp_RequestPut:
			if err := checkPut(t.before, t.leases, putFromMessage(req.RequestPut)); err != nil {
				return err
			}
		case *pb.RequestOp_RequestTxn:
			if err := t.check(req.RequestTxn, next); err != nil {
				return err
			}
		}
	}
	return nil
}

// run executes the branch of r and returns its encoded answers.
func (t *txnRun) run(r *pb.TxnRequest, from reader, tx *mvcc.Txn, next *int) (ops []byte, err error) {
	ok := t.branches[*next]
	*next++
	var body []byte
	for _, op := range branch(r, ok) {
		body = body[:0]
		var kind wire.TxnOp
		switch req := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			kind = wire.TxnRange
			r := wire.RangeRequestOf(req.RequestRange)
			a, err := readRange(from, &r)
			if err != nil {
				return nil, fmt.Errorf("range in transaction: %w", err)
			}
			body = wire.AppendRange(body, wire.Header{Revision: a.revision}, a.kvs, a.more, a.count)
		case *pb.RequestOp_RequestPut:
			kind = wire.TxnPut
			rev, prev, err := put(tx, putFromMessage(req.RequestPut))
			if err != nil {
				return nil, fmt.Errorf("put in transaction: %w", err)
			}
			body = wire.AppendPut(body, wire.Header{Revision: rev}, prev)
		case *pb.RequestOp_RequestDeleteRange:
			kind = wire.TxnDeleteRange
			d := req.RequestDeleteRange
			deleted, rev, prev, err := deleteRange(tx, d.GetKey(), d.GetRangeEnd(), d.GetPrevKv())
			if err != nil {
				return nil, fmt.Errorf("delete in transaction: %w", err)
			}
			body = wire.AppendDeleteRange(body, wire.Header{Revision: rev}, deleted, prev)
		case *pb.RequestOp_RequestTxn:
			kind = wire.TxnNested
			nestedOK := t.branches[*next]
			nested, err := t.run(req.RequestTxn, from, tx, next)
			if err != nil {
				return nil, err
			}
			body = wire.AppendTxn(body, wire.Header{}, nestedOK, nested)
		}
		ops = wire.AppendTxnOp(ops, kind, body)
	}
	return ops, nil
}

// checkPut refuses a put that names a lease that does not exist, or that keeps what is not there.
func checkPut(from reader, leases leaseSet, r *wire.PutRequest) error {
	if r.Lease != 0 && !leases.Exists(r.Lease) {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	if !r.IgnoreValue && !r.IgnoreLease {
		return nil
	}
	res, err := from.Range(r.Key, nil, mvcc.RangeOptions{CountOnly: true})
	if err != nil {
		return fmt.Errorf("look for the previous value: %w", err)
	}
	if res.Count == 0 {
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

// put writes one key and returns the revision of the write and, when asked for, the encoded KeyValue before.
// checkPut has passed.
func put(tx *mvcc.Txn, r *wire.PutRequest) (rev int64, prev []byte, err error) {
	value, leaseID := r.Value, r.Lease
	if r.PrevKV || r.IgnoreValue || r.IgnoreLease {
		res, err := tx.Range(r.Key, nil, mvcc.RangeOptions{})
		if err != nil {
			return 0, nil, fmt.Errorf("read the previous value: %w", err)
		}
		if len(res.KVs) > 0 {
			prev = res.KVs[0]
			var kv wire.KeyValue
			if err := kv.Unmarshal(prev); err != nil {
				return 0, nil, fmt.Errorf("read the previous value: %w", err)
			}
			if r.IgnoreValue {
				value = kv.Value
			}
			if r.IgnoreLease {
				leaseID = kv.Lease
			}
		}
		if !r.PrevKV {
			prev = nil
		}
	}
	return tx.Put(r.Key, value, leaseID), prev, nil
}

// deleteRange deletes a range and returns how many keys, the revision, and when asked for what they were.
func deleteRange(tx *mvcc.Txn, key, end []byte, wantPrev bool) (deleted, rev int64, prev [][]byte, err error) {
	if wantPrev {
		res, err := tx.Range(key, end, mvcc.RangeOptions{})
		if err != nil {
			return 0, 0, nil, fmt.Errorf("read what is deleted: %w", err)
		}
		prev = res.KVs
	}
	deleted, rev = tx.DeleteRange(key, end)
	return deleted, rev, prev, nil
}

func putFromMessage(p *pb.PutRequest) *wire.PutRequest {
	return &wire.PutRequest{
		Key: p.GetKey(), Value: p.GetValue(), Lease: p.GetLease(),
		PrevKV: p.GetPrevKv(), IgnoreValue: p.GetIgnoreValue(), IgnoreLease: p.GetIgnoreLease(),
	}
}

// txnWrites tells whether some branch of r, nested ones included, may write.
func txnWrites(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch req := op.Request.(type) {
			case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
				return true
			case *pb.RequestOp_RequestTxn:
				if txnWrites(req.RequestTxn) {
					return true
				}
			}
		}
	}
	return false
}

// txnSerializable tells whether every read of r may be served without asking the leader. As at etcd, a
// transaction without operations is, whatever it compares.
func txnSerializable(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if !op.GetRequestRange().GetSerializable() {
				return false
			}
		}
	}
	return true
}

// nests tells whether r has a transaction among its operations.
func nests(r *pb.TxnRequest) bool {
	isTxn := func(op *pb.RequestOp) bool { return op.GetRequestTxn() != nil }
	return slices.ContainsFunc(r.Success, isTxn) || slices.ContainsFunc(r.Failure, isTxn)
}
