package suite

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/load"
)

// exchange has a client ask and be answered. It wants an error that has a text, or none if that is "".
func exchange(t *testing.T, what string, r load.Requester, answer proto.Message, wantErr string) {
	t.Helper()
	if _, _, err := r.Next(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	b, err := encode(answer)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Check(b)
	switch {
	case wantErr == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
		t.Errorf("%s: %v, want %q", what, err, wantErr)
	}
}

func header(revision int64) *pb.ResponseHeader { return &pb.ResponseHeader{Revision: revision} }

func TestWritesAreRefusedThatDidNotHappen(t *testing.T) {
	p := &putter{keys: 3, key: listedKey, value: []byte("v")}
	exchange(t, "first put", p, &pb.PutResponse{Header: header(7)}, "")
	exchange(t, "later put", p, &pb.PutResponse{Header: header(9)}, "")
	exchange(t, "put at the same revision", p, &pb.PutResponse{Header: header(9)}, "after one of the same client at 9")
	exchange(t, "put without a revision", &putter{keys: 3, key: listedKey}, &pb.PutResponse{}, "at revision 0")
}

func TestTransactionsFailOnlyOfKeysFromEarlierTurns(t *testing.T) {
	found := func(modified int64) *pb.TxnResponse {
		return &pb.TxnResponse{Header: header(20), Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{
			ResponseRange: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: []byte("k"), ModRevision: modified}}}}}}}
	}
	c := &comparer{key: []byte("k"), value: []byte("v")}
	exchange(t, "a key that is there already", c, found(12), "")
	if c.known != 12 {
		t.Errorf("the key is known at %d, want 12", c.known)
	}
	exchange(t, "it is written", c, &pb.TxnResponse{Header: header(21), Succeeded: true}, "")
	exchange(t, "nobody else has written it", c, found(22), "nobody else has written since revision 21")
	exchange(t, "a success that wrote nothing", c, &pb.TxnResponse{Header: header(21), Succeeded: true}, "was written again at 21")
	fresh := &comparer{key: []byte("k"), value: []byte("v")}
	exchange(t, "it is there and is not", fresh, &pb.TxnResponse{Header: header(20)}, "did not find it")
}

// listed are the first n keys that are read.
func listed(n int) []*mvccpb.KeyValue {
	all := make([]*mvccpb.KeyValue, n)
	for i := range all {
		all[i] = &mvccpb.KeyValue{Key: listedKey(i), ModRevision: 1, Value: make([]byte, valueSize)}
	}
	return all
}

func TestReadsAreRefusedThatLackSomething(t *testing.T) {
	l := &reads{encoded: [][]byte{nil}, pages: []page{{listedKey(0), listedKey(0), 1, valueSize}}}
	l.acknowledged(10)
	l.acknowledged(8) // was answered later
	linearizable := &reader{load: l}
	exchange(t, "get", linearizable, &pb.RangeResponse{Header: header(10), Kvs: listed(1)}, "")
	exchange(t, "get without its key", linearizable, &pb.RangeResponse{Header: header(10)}, "0 keys, want 1")
	exchange(t, "get of before a write", linearizable, &pb.RangeResponse{Header: header(9), Kvs: listed(1)}, "a write of revision 10 was acknowledged")
	list := &reads{encoded: [][]byte{nil}, pages: []page{{listedKey(0), listedKey(keysInList - 1), keysInList, valueSize}}, list: true, serializable: true}
	list.acknowledged(10)
	exchange(t, "serializable list of before a write", &reader{load: list}, &pb.RangeResponse{Header: header(9), Kvs: listed(keysInList)}, "")
	exchange(t, "list without a key", &reader{load: list}, &pb.RangeResponse{Header: header(10), Kvs: listed(keysInList - 1)}, "99 keys, want 100")
}

func TestReadsAreRefusedThatAreOfSomethingElse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(kvs []*mvccpb.KeyValue)
		want   string // part of the error; "" for none
	}{
		"the right ones":   {func([]*mvccpb.KeyValue) {}, ""},
		"another first":    {func(kvs []*mvccpb.KeyValue) { kvs[0].Key = []byte("somebody/elses") }, "somebody/elses"},
		"another last":     {func(kvs []*mvccpb.KeyValue) { kvs[2].Key = []byte("somebody/elses") }, "somebody/elses"},
		"a first no value": {func(kvs []*mvccpb.KeyValue) { kvs[0].Value = nil }, "less than the 256 bytes"},
		"a short last":     {func(kvs []*mvccpb.KeyValue) { kvs[2].Value = kvs[2].Value[1:] }, "value of 255 B"},
		"no value between": {func(kvs []*mvccpb.KeyValue) { kvs[1].Value = nil }, "key 2 of an answer has less"},
	} {
		kvs := listed(3)
		c.change(kvs)
		want := page{listedKey(0), listedKey(2), 3, valueSize}
		exchange(t, name+", asked by a reader", &reader{load: &reads{encoded: [][]byte{nil}, pages: []page{want}}}, &pb.RangeResponse{Kvs: kvs}, c.want)
		mixed := &ranger{n: 1, request: func(int) (*pb.RangeRequest, page) { return &pb.RangeRequest{}, want }}
		exchange(t, name+", asked in a mix", mixed, &pb.RangeResponse{Kvs: kvs}, c.want)
	}
}

// A wrong answer is why a turn has no part in the result.
func TestWrongAnswerFailsTheTurn(t *testing.T) {
	t.Parallel()
	o := short(t, "get-linearizable")
	o.Scenarios[0].Fill = nil // so that nothing is found
	e, _, _ := running(t)
	o.External = []External{e}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if broken, _ := Broken(r); len(broken) != 1 || !strings.Contains(broken[0], "0 keys, want 1") {
		t.Errorf("broken is %q", broken)
	}
}

func TestScenariosAreWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Scenarios() {
		i := s.Info
		if i.Name == "" || i.Kind == "" || i.Unit == "" || !strings.HasSuffix(i.Description, ".") || s.New == nil || seen[i.Name] {
			t.Errorf("scenario %+v", i)
		}
		seen[i.Name] = true
		for _, a := range i.Aims {
			if a.System == "" || a.Measure == "" || a.Bound <= 0 || a.Source == "" {
				t.Errorf("aim of %s: %+v", i.Name, a)
			}
		}
	}
	for _, read := range []string{"get-serializable", "get-linearizable", "list-serializable", "list-linearizable"} {
		if !seen[read] || !seen[read+"-writes"] {
			t.Errorf("%s is not there both with and without writes", read)
		}
	}
	if _, err := FindScenarios([]string{"put", "none"}); err == nil || !strings.Contains(err.Error(), `no scenario "none"`) {
		t.Errorf("a scenario that is not there: %v", err)
	}
}
