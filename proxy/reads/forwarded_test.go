package reads

import (
	"fmt"
	"math"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"weir/grpcapi/wire"
)

// forwardTxn is a transaction that the proxy forwards.
func (w *world) forwardTxn(m *pb.TxnRequest) {
	w.t.Helper()
	w.mu.Lock()
	resp, err := w.store.txn(m, w.store.revision())
	w.mu.Unlock()
	if err != nil {
		w.t.Fatal(err)
	}
	w.keeper.ForwardedTxn(m, encode(resp))
}

// forwardStream is a RangeStream that the proxy forwards, in two parts.
func (w *world) forwardStream(m *pb.RangeRequest) {
	w.t.Helper()
	w.mu.Lock()
	resp, err := w.store.answer(m, w.store.revision())
	w.mu.Unlock()
	if err != nil {
		w.t.Fatal(err)
	}
	last := encode(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Header: resp.Header, More: resp.More, Count: resp.Count}})
	w.keeper.ForwardedStream(request(w.t, m), len(encode(resp)), last)
}

// score is the heat of a range now.
func (w *world) score(i interval) float64 {
	w.keeper.heat.mu.Lock()
	defer w.keeper.heat.mu.Unlock()
	c := w.keeper.heat.candidates[i]
	if c == nil {
		return 0
	}
	return c.score.value(time.Now(), heatHalf)
}

func TestARangeThatIsOnlyStreamedBecomesHot(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20}, puts("a/", 100, 100), func(t *testing.T, w *world) {
		for range 8 {
			w.forwardStream(listOf("a/"))
		}
		pass(tendInterval)
		w.same(w.hot(ofPrefix("a/")), 0)
	})
}

func TestAStreamCountsAsOneReadOfAllItsParts(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20}, puts("a/", 100, 100), func(t *testing.T, w *world) {
		w.forwardStream(listOf("a/"))
		streamed := w.score(ofPrefix("a/"))
		w.keeper.heat.loaded(everything)
		w.forward(listOf("a/"))
		if read := w.score(ofPrefix("a/")); math.Abs(streamed-read) > 1 || read < getWork+100*100/bytesPerWork {
			t.Errorf("a stream leaves %v, a Range %v; want the same", streamed, read)
		}
	})
}

func TestWhatIsOnlyReadInTransactionsBecomesHot(t *testing.T) {
	fill := append(puts("a/", 10, 100), puts("b/", 10, 100)...)
	for name, m := range map[string]*pb.TxnRequest{
		"the first branch":  {Success: []*pb.RequestOp{rangeOp(listOf("a/")), rangeOp(key("b/0001"))}},
		"the second branch": {Compare: []*pb.Compare{valueIs("a/0001", "x")}, Failure: []*pb.RequestOp{rangeOp(listOf("a/")), rangeOp(key("b/0001"))}},
		"a branch that is not taken": {
			Compare: []*pb.Compare{valueIs("b/0002", "x")}, Success: []*pb.RequestOp{rangeOp(key("b/0001"))}, Failure: []*pb.RequestOp{rangeOp(listOf("a/"))},
		},
		"only compares": {Compare: []*pb.Compare{valueIs("a/0001", "x"), valueIs("b/0001", "x")}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Config{Bytes: 1 << 20}, fill, func(t *testing.T, w *world) {
				for range 40 {
					w.forwardTxn(m)
				}
				pass(4 * tendInterval)
				if _, _, err := w.keeper.Txn(t.Context(), m, nil, w.keeper.up.Standing().Era); err != nil {
					t.Errorf("with %v in memory: %v", w.ranges(), err)
				}
			})
		})
	}
}

// A transaction is one call, however much it reads: else one of many keys would have their prefix loaded at once.
func TestATransactionIsAsMuchHeatAsItsCallHasCost(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20}, puts("a/", 100, 40), func(t *testing.T, w *world) {
		m := &pb.TxnRequest{}
		for i := range 100 {
			k := fmt.Sprintf("a/%04d", i)
			m.Compare = append(m.Compare, valueIs(k, "x"))
			m.Success = append(m.Success, rangeOp(key(k)))
			m.Failure = append(m.Failure, rangeOp(key(k)))
		}
		w.forwardTxn(m)
		if got, most := w.score(ofPrefix("a/")), work(100*100); got < getWork-1 || got > most {
			t.Errorf("it leaves %v; want from %v to %v", got, getWork, most)
		}
	})
}

func TestOnlyWhatIsNotInMemoryHasAPartInTheHeatOfATransaction(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"a/"}}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		m := &pb.TxnRequest{Compare: []*pb.Compare{valueIs("a/0001", "x")}, Success: []*pb.RequestOp{rangeOp(key("b/1"))}}
		w.forwardTxn(m)
		if got := w.score(ofKey("b/1")); got != getWork || w.score(ofKey("a/0001")) != 0 {
			t.Errorf("it leaves %v for what is missing; want all of it", got)
		}
	})
}

func TestForwardedCallsThatMemoryCouldNotAnswerLeaveNoHeat(t *testing.T) {
	read := rangeOp(key("a/1"))
	one := encode(&pb.TxnResponse{Succeeded: true, Responses: []*pb.ResponseOp{
		{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: []byte("a/1")}}, Count: 1}}},
	}})
	inWorld(t, Config{Bytes: 1 << 20}, nil, func(t *testing.T, w *world) {
		for _, c := range []struct {
			why  string
			m    *pb.TxnRequest
			resp wire.Raw
		}{
			{"it writes", &pb.TxnRequest{Success: []*pb.RequestOp{read, putOp("b/1")}}, one},
			{"it may write", &pb.TxnRequest{Success: []*pb.RequestOp{read}, Failure: []*pb.RequestOp{putOp("b/1")}}, one},
			{"its answer is malformed", &pb.TxnRequest{Success: []*pb.RequestOp{read}}, one[:len(one)-1]},
			{"a part of its answer is", &pb.TxnRequest{Success: []*pb.RequestOp{read}}, wire.AppendTxnOp([]byte{2 << 3, 1}, wire.TxnRange, []byte{0xff})},
			{"an answer is missing", &pb.TxnRequest{Success: []*pb.RequestOp{read, read}}, one},
			{"an answer is of another kind", &pb.TxnRequest{Success: []*pb.RequestOp{read}}, wire.AppendTxnOp([]byte{2 << 3, 1}, wire.TxnPut, nil)},
		} {
			if w.keeper.ForwardedTxn(c.m, c.resp); w.keeper.heat.len() != 0 {
				t.Fatalf("%s: it leaves heat", c.why)
			}
		}
		w.keeper.ForwardedStream(request(t, listOf("a/")), 100, wire.Raw{0xff})
		if w.keeper.heat.len() != 0 {
			t.Error("a malformed stream leaves heat")
		}
		w.keeper.ForwardedTxn(&pb.TxnRequest{Success: []*pb.RequestOp{read}}, one)
		if w.keeper.heat.len() != 3 {
			t.Error("a good one leaves none")
		}
	})
	inWorld(t, Config{}, nil, func(t *testing.T, w *world) {
		w.keeper.ForwardedTxn(&pb.TxnRequest{Success: []*pb.RequestOp{read}}, one)
		w.keeper.ForwardedStream(request(t, listOf("a/")), 100, nil)
		if w.keeper.heat.len() != 0 {
			t.Error("heat is kept where nothing can be")
		}
	})
}
