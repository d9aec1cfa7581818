package reads

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/cache"
)

func rangeOp(m *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: m}}
}

func putOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
}

// key is a Range of one key.
func key(k string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(k)} }

// valueIs compares the value of a key.
func valueIs(k, value string) *pb.Compare {
	return &pb.Compare{Key: []byte(k), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(value)}}
}

// txn is Keeper.Txn without a session.
func (s *scene) txn(m *pb.TxnRequest) (mem.BufferSlice, error) {
	resp, _, err := s.keeper.Txn(s.t.Context(), m, nil, s.keeper.up.Standing().Era)
	return resp, err
}

// mustTxn fails unless m is answered from memory as by the store when head was its newest revision.
func (s *scene) mustTxn(m *pb.TxnRequest, head int64) {
	s.t.Helper()
	got, err := s.txn(m)
	if err != nil {
		s.t.Fatalf("txn %v: %v", m, err)
	}
	want, err := s.naive.txn(m, head)
	if err != nil {
		s.t.Fatal(err)
	}
	same(s.t, got, want)
}

func (s *scene) mustFailTxn(m *pb.TxnRequest, want error) {
	s.t.Helper()
	if _, err := s.txn(m); !errors.Is(err, want) {
		s.t.Errorf("txn %v: %v; want %v", m, err, want)
	}
}

func TestTransactionsThatMayWriteAreForwarded(t *testing.T) {
	inScene(t, func(_ *testing.T, s *scene) {
		s.keep(everything, plenty)
		read := rangeOp(key("a/1"))
		for _, m := range []*pb.TxnRequest{
			{Success: []*pb.RequestOp{read, putOp("a/1")}},
			{Success: []*pb.RequestOp{read}, Failure: []*pb.RequestOp{putOp("a/1")}},
			{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a/1")}}}}},
			{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{read}}}}}},
			{Success: []*pb.RequestOp{{}}},
			{}, // nothing is read: which snapshot would be asked for the revision?
		} {
			s.mustFailTxn(m, ErrForward)
		}
		s.mustTxn(&pb.TxnRequest{Success: []*pb.RequestOp{read}}, s.revision())
	})
}

func TestTransactionsAreAnsweredAsByAStore(t *testing.T) {
	inScenes(t, func(s *scene, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 50 {
			s.write(randomWrite(rng))
		}
		s.keep(ofPrefix("a/"), plenty)
		first := s.revision()
		ops := func() (ops []*pb.RequestOp) {
			for range rng.IntN(4) {
				m := randomRange(rng)
				if rng.IntN(3) == 0 {
					m.Revision = first + rng.Int64N(s.revision()-first+1)
				}
				ops = append(ops, rangeOp(m))
			}
			return ops
		}
		for range 300 {
			if rng.IntN(4) == 0 {
				s.write(randomWrite(rng))
				s.settled()
			}
			m := &pb.TxnRequest{Success: ops(), Failure: ops()}
			for range rng.IntN(3) {
				m.Compare = append(m.Compare, randomCompare(rng, s.revision()))
			}
			if len(m.Compare) == 0 && len(m.Success) == 0 {
				continue
			}
			s.mustTxn(m, s.revision())
		}
	})
}

func randomCompare(rng *rand.Rand, head int64) *pb.Compare {
	c := &pb.Compare{Key: []byte(randomKey(rng)), Result: pb.Compare_GREATER}
	if rng.IntN(2) == 0 {
		c.RangeEnd = []byte("a0")
	}
	if rng.IntN(2) == 0 {
		c.Target, c.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: rng.Int64N(head / 2)}
	} else {
		c.Target, c.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: []byte{byte(rng.IntN(3))}}
	}
	return c
}

func TestTransactionIsForwardedAtOnceUnlessAllThatItMayReadIsInMemory(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.put("a/1", "one")
		s.keep(ofPrefix("a/"), plenty)
		inside, outside := []*pb.RequestOp{rangeOp(key("a/1"))}, []*pb.RequestOp{rangeOp(key("b/1"))}
		is, isNot := []*pb.Compare{valueIs("a/1", "one")}, []*pb.Compare{valueIs("a/1", "two")}
		s.mustTxn(&pb.TxnRequest{Compare: is, Success: inside, Failure: inside}, s.revision())
		s.mustTxn(&pb.TxnRequest{Compare: isNot, Success: inside}, s.revision())
		s.mustTxn(&pb.TxnRequest{Success: inside, Failure: outside}, s.revision()) // which is never taken
		checks := s.checks
		for _, m := range []*pb.TxnRequest{
			{Compare: is, Success: outside},
			{Compare: is, Success: inside, Failure: outside},
			{Compare: isNot, Success: inside, Failure: outside},
			{Compare: []*pb.Compare{valueIs("b/1", "two")}, Success: inside, Failure: inside},
			{Success: append(inside, outside...)},
		} {
			s.mustFailTxn(m, ErrForward)
		}
		if s.checks != checks {
			t.Errorf("%d checks for what is forwarded; want none", s.checks-checks)
		}
	})
}

func TestTransactionIsSerializableOnlyIfEveryRangeOfItIs(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.mustGet(true, nil, "")
		serializable := rangeOp(&pb.RangeRequest{Key: []byte("a/1"), Serializable: true})
		linearizable := rangeOp(key("a/1"))
		compare := []*pb.Compare{valueIs("a/1", "")}
		for _, c := range []struct {
			name   string
			m      *pb.TxnRequest
			checks int
		}{
			{"all are", &pb.TxnRequest{Success: []*pb.RequestOp{serializable}, Failure: []*pb.RequestOp{serializable}}, 0},
			{"only compares", &pb.TxnRequest{Compare: compare}, 0},
			{"none is", &pb.TxnRequest{Success: []*pb.RequestOp{linearizable}}, 1},
			{"one is not", &pb.TxnRequest{Success: []*pb.RequestOp{serializable, linearizable}}, 1},
			{"one in the other branch is not", &pb.TxnRequest{Success: []*pb.RequestOp{serializable}, Failure: []*pb.RequestOp{linearizable}}, 1},
		} {
			before := s.checks
			s.mustTxn(c.m, s.revision())
			if got := s.checks - before; got != c.checks {
				t.Errorf("%s: %d checks; want %d", c.name, got, c.checks)
			}
		}
	})
}

func TestRevisionsInATransactionAreCheckedAsInTheTakenBranch(t *testing.T) {
	inScene(t, func(_ *testing.T, s *scene) {
		s.put("a/1", "one")
		s.put("a/1", "two")
		s.keep(ofPrefix("a/"), plenty)
		start := s.revision()
		for i := range 5 {
			s.put("a/1", fmt.Sprint(i))
		}
		s.settled()
		s.set(func() { s.naive.compacted = start + 2 })
		at := func(rev int64) *pb.RequestOp { return rangeOp(&pb.RangeRequest{Key: []byte("a/1"), Revision: rev}) }
		now, good, gone, future := at(0), at(start+3), at(start+1), at(s.revision()+1)
		s.mustTxn(&pb.TxnRequest{Success: []*pb.RequestOp{now, good}}, s.revision())
		s.mustTxn(&pb.TxnRequest{Success: []*pb.RequestOp{now}, Failure: []*pb.RequestOp{gone, future}}, s.revision())
		s.mustFailTxn(&pb.TxnRequest{Success: []*pb.RequestOp{good, gone}}, rpctypes.ErrGRPCCompacted)
		s.mustFailTxn(&pb.TxnRequest{Success: []*pb.RequestOp{gone, future}}, rpctypes.ErrGRPCCompacted)
		s.mustFailTxn(&pb.TxnRequest{Success: []*pb.RequestOp{future, gone}}, ErrForward)
		s.mustFailTxn(&pb.TxnRequest{Success: []*pb.RequestOp{at(-1)}}, ErrForward)
		s.set(func() { s.naive.compacted = 0 })
		s.mustFailTxn(&pb.TxnRequest{Success: []*pb.RequestOp{at(start - 1)}}, ErrForward)
	})
}

func TestTransactionOverSeveralSnapshotsIsOfOneRevision(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		a, b := s.keep(ofPrefix("a/"), plenty), s.keep(ofPrefix("b/"), plenty)
		s.mustGet(true, nil, "")
		s.put("a/1", "one")
		synctest.Wait()
		s.put("b/1", "one")
		s.put("b/1", "two")
		synctest.Wait() // b has come further than a, which nothing was told of after its event
		if a.snap.Revision() >= b.snap.Revision() {
			t.Fatalf("a is at %d and b at %d; want a behind", a.snap.Revision(), b.snap.Revision())
		}
		serializable := func(k string) *pb.RequestOp { return rangeOp(&pb.RangeRequest{Key: []byte(k), Serializable: true}) }
		both := []*pb.RequestOp{serializable("a/1"), serializable("b/1")}
		s.mustTxn(&pb.TxnRequest{Success: both}, a.snap.Revision())
		s.mustTxn(&pb.TxnRequest{Compare: []*pb.Compare{valueIs("a/1", "one")}, Success: both}, a.snap.Revision())
		s.mustTxn(&pb.TxnRequest{Compare: []*pb.Compare{valueIs("b/1", "two")}, Success: both}, b.snap.Revision())

		s.put("b/1", "three")
		synctest.Wait()
		var session cache.Session
		session.Told(7, s.revision())
		got, _, err := s.keeper.Txn(t.Context(), &pb.TxnRequest{Success: both}, &session, s.keeper.up.Standing().Era)
		if err != nil {
			t.Fatal(err)
		}
		want, err := s.naive.txn(&pb.TxnRequest{Success: both}, s.revision())
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, want)

		s.put("a/1", "four")
		s.mustTxn(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(key("a/1")), rangeOp(key("b/1"))}}, s.revision())
	})
}

func TestTransactionOverOneSnapshotNeedsNoPastStates(t *testing.T) {
	inScene(t, func(_ *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), 0)
		s.mustGet(true, nil, "")
		s.proven = func() { // the revision has been looked at, the state has not
			s.put("a/1", "meanwhile")
			synctest.Wait()
		}
		s.mustTxn(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: []byte("a/1"), Serializable: true})}}, s.revision()+1)
	})
}

func TestTransactionIsForwardedWhenItsSnapshotsHaveNoRevisionInCommon(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		a, b := s.keep(ofPrefix("a/"), 0), s.keep(ofPrefix("b/"), 0)
		s.mustGet(true, nil, "")
		s.put("b/1", "one") // which forgets the state before
		synctest.Wait()
		if a.snap.Revision() >= b.snap.Oldest() {
			t.Fatalf("a is at %d, b begins at %d; want a before it", a.snap.Revision(), b.snap.Oldest())
		}
		both := []*pb.RequestOp{
			rangeOp(&pb.RangeRequest{Key: []byte("a/1"), Serializable: true}), rangeOp(&pb.RangeRequest{Key: []byte("b/1"), Serializable: true}),
		}
		s.mustFailTxn(&pb.TxnRequest{Success: both}, ErrForward)
		s.mustTxn(&pb.TxnRequest{Success: both[1:]}, s.revision())
	})
}

func TestTransactionObeysTheRulesOfReads(t *testing.T) {
	read := &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(key("a/1"))}}
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		var session cache.Session
		if _, _, err := s.keeper.Txn(t.Context(), read, &session, s.keeper.up.Standing().Era); err != nil || session.Floor(7) != s.revision() {
			t.Errorf("error %v, told revision %d; want %d", err, session.Floor(7), s.revision())
		}
		s.header = func() { s.set(func() { s.standing.Era++ }) }
		s.mustFailTxn(read, ErrForward)
		s.header = nil
		s.mustFailTxn(read, ErrForward)
		s.set(func() { s.standing.Era, s.standing.Shared = 7, false })
		s.mustFailTxn(read, ErrForward)
	})
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.mustGet(true, nil, "")
		serializable := proto.Clone(read).(*pb.TxnRequest)
		serializable.Success[0].GetRequestRange().Serializable = true
		time.Sleep(time.Minute)
		s.check = func(context.Context) (int64, error) { return 0, rpctypes.ErrGRPCTimeout }
		if _, stale, err := s.keeper.Txn(t.Context(), serializable, nil, s.keeper.up.Standing().Era); err != nil || stale != time.Minute {
			t.Errorf("stale %v, error %v; want it a minute old", stale, err)
		}
	})
}
