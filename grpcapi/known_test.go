package grpcapi

import (
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// fullRange has every option set.
func fullRange() *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: []byte("a"), RangeEnd: []byte("b"), Limit: 1, Revision: 2, SortOrder: 1, SortTarget: 3, Serializable: true,
		KeysOnly: true, CountOnly: true, MinModRevision: 3, MaxModRevision: 4, MinCreateRevision: 5, MaxCreateRevision: 6,
	}
}

func fullCompare() *pb.Compare {
	return &pb.Compare{
		Result: pb.Compare_GREATER, Target: pb.Compare_VALUE, Key: []byte("a"), RangeEnd: []byte("b"),
		TargetUnion: &pb.Compare_Value{Value: []byte("v")},
	}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// withField adds a field that no version of etcd has yet.
func withField[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 50, protowire.VarintType), 1))
	return m
}

func TestRequestsWithUnknownFieldsAreNotKnown(t *testing.T) {
	if !knownRange(marshal(t, fullRange())) || !knownRange(nil) {
		t.Error("a range of which everything is known is not")
	}
	for i := range 7 {
		if raw := marshal(t, fullRange()); knownRange(raw[:len(raw)-1-2*i]) {
			t.Errorf("a range that lacks its last %d bytes is known", 1+2*i)
		}
	}
	if knownRange(marshal(t, withField(fullRange()))) {
		t.Error("a range with one more field is known")
	}
	all := &pb.TxnRequest{
		Compare: []*pb.Compare{fullCompare(), {}},
		Success: ops(rangeOp(fullRange())),
		Failure: ops(rangeOp(fullRange()), getOp("")),
	}
	if !knownReads(marshal(t, all)) || !knownReads(nil) {
		t.Error("a transaction of which everything is known is not")
	}
	for name, m := range map[string]*pb.TxnRequest{
		"transaction": withField(&pb.TxnRequest{}),
		"comparison":  {Compare: []*pb.Compare{withField(fullCompare())}},
		"operation":   {Success: ops(withField(rangeOp(fullRange())))},
		"range":       {Failure: ops(rangeOp(withField(fullRange())))},
	} {
		if knownReads(marshal(t, m)) {
			t.Errorf("a transaction with one more field in its %s is known", name)
		}
	}
}

// If this fails, etcd's API has grown: what the new field means for reads from memory is to be decided, here and in wire.
func TestKnownFieldsAreThoseOfTheAPI(t *testing.T) {
	upTo := func(n protowire.Number, more ...protowire.Number) (all []protowire.Number) {
		for i := range n {
			all = append(all, i+1)
		}
		return append(all, more...)
	}
	for _, c := range []struct {
		message protoreflect.ProtoMessage
		want    []protowire.Number
	}{
		{&pb.RangeRequest{}, upTo(13)},
		{&pb.TxnRequest{}, upTo(3)},
		{&pb.Compare{}, upTo(8, 64)},
		{&pb.RequestOp{}, upTo(4)},
	} {
		d := c.message.ProtoReflect().Descriptor()
		var got []protowire.Number
		for i := range d.Fields().Len() {
			got = append(got, d.Fields().Get(i).Number())
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s has the fields %v, want %v", d.Name(), got, c.want)
		}
	}
}

func TestOnlyTransactionsThatReadAreKnownReads(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	writes := ops(putOp("a"), delOp("a", ""), txnOp(nil, nil), txnOp(ops(rangeOp(fullRange())), nil), txnOp(nil, ops(putOp("a"))), &pb.RequestOp{})
	known := 0
	for range 5000 {
		m, reads := &pb.TxnRequest{}, true
		for range rnd.IntN(3) {
			m.Compare = append(m.Compare, fullCompare())
		}
		for _, branch := range []*[]*pb.RequestOp{&m.Success, &m.Failure} {
			for range rnd.IntN(4) {
				op := rangeOp(fullRange())
				if rnd.IntN(8) == 0 {
					op = writes[rnd.IntN(len(writes))]
					reads = reads && op.Request == nil // an operation without content is for checkTxn to refuse
				}
				*branch = append(*branch, op)
			}
		}
		if got := knownReads(marshal(t, m)); got != reads {
			t.Fatalf("%v: got %v", m, got)
		}
		if reads {
			known++
		}
	}
	if known == 0 || known == 5000 {
		t.Errorf("%d of 5000 transactions only read", known)
	}
}

// FuzzKnownReads: whatever the bytes are, a transaction that would write, or that has a field unknown to its decoder, is
// not taken for one that reads.
func FuzzKnownReads(f *testing.F) {
	for _, m := range []*pb.TxnRequest{
		{},
		{Compare: []*pb.Compare{fullCompare()}, Success: ops(rangeOp(fullRange()))},
		{Success: ops(rangeOp(fullRange())), Failure: ops(putOp("a"))},
		{Success: ops(txnOp(ops(delOp("a", "")), nil))},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m pb.TxnRequest
		if !knownReads(raw) || proto.Unmarshal(raw, &m) != nil || checkTxn(&m, 128) != nil {
			return
		}
		if !readOnly(&m) {
			t.Errorf("%x writes", raw)
		}
	})
}

func BenchmarkKnownReads(b *testing.B) {
	value := &pb.PutRequest{Key: []byte("/registry/pods/default/a"), Value: make([]byte, 1024)}
	get := getOp(string(value.Key))
	unchanged := &pb.Compare{Target: pb.Compare_MOD, Key: value.Key, TargetUnion: &pb.Compare_ModRevision{ModRevision: 1 << 30}}
	for name, m := range map[string]*pb.TxnRequest{
		"write": {
			Compare: []*pb.Compare{unchanged},
			Success: ops(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: value}}),
			Failure: ops(get),
		},
		"read": {Compare: []*pb.Compare{unchanged}, Success: ops(get, get)},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/scan", func(b *testing.B) {
			for b.Loop() {
				_ = knownReads(raw)
			}
		})
		b.Run(name+"/decode", func(b *testing.B) {
			for b.Loop() {
				var m pb.TxnRequest
				if err := proto.Unmarshal(raw, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
