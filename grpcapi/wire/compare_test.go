package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// holdsModel says in terms of protobuf messages when a compare is true of a range, as etcd 3.7 has been seen to decide.
func holdsModel(c *pb.Compare, kvs []*mvccpb.KeyValue) bool {
	if len(kvs) == 0 {
		if c.Target == pb.Compare_VALUE {
			return false
		}
		kvs = []*mvccpb.KeyValue{{}}
	}
	for _, kv := range kvs {
		var less, equal bool
		numbers := func(a, b int64) { less, equal = a < b, a == b }
		switch c.Target {
		case pb.Compare_VERSION:
			numbers(kv.Version, c.GetVersion())
		case pb.Compare_CREATE:
			numbers(kv.CreateRevision, c.GetCreateRevision())
		case pb.Compare_MOD:
			numbers(kv.ModRevision, c.GetModRevision())
		case pb.Compare_LEASE:
			numbers(kv.Lease, c.GetLease())
		case pb.Compare_VALUE:
			less, equal = string(kv.Value) < string(c.GetValue()), bytes.Equal(kv.Value, c.GetValue())
		default:
			equal = true
		}
		ok := true
		switch c.Result {
		case pb.Compare_EQUAL:
			ok = equal
		case pb.Compare_NOT_EQUAL:
			ok = !equal
		case pb.Compare_LESS:
			ok = less
		case pb.Compare_GREATER:
			ok = !less && !equal
		}
		if !ok {
			return false
		}
	}
	return true
}

// randomCompare has every target and result, one unknown of each, and now and then the value of another target or none.
func randomCompare(rnd *rand.Rand) *pb.Compare {
	c := &pb.Compare{Target: pb.Compare_CompareTarget(rnd.IntN(6)), Result: pb.Compare_CompareResult(rnd.IntN(5))}
	operand := int(c.Target)
	if rnd.IntN(6) == 0 {
		operand = rnd.IntN(6)
	}
	n := rnd.Int64N(4) - 1
	switch operand {
	case 0:
		c.TargetUnion = &pb.Compare_Version{Version: n}
	case 1:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n}
	case 2:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: n}
	case 3:
		c.TargetUnion = &pb.Compare_Value{Value: make([]byte, rnd.IntN(3))}
	case 4:
		c.TargetUnion = &pb.Compare_Lease{Lease: n}
	}
	return c
}

func TestCompareHoldsAsAtEtcd(t *testing.T) {
	rnd := newRand()
	held := 0
	for range 20_000 {
		c := randomCompare(rnd)
		var kvs []*mvccpb.KeyValue
		var encoded [][]byte
		for i := range rnd.IntN(3) {
			kv := &mvccpb.KeyValue{
				Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, rnd.IntN(3)), Lease: rnd.Int64N(3),
				CreateRevision: rnd.Int64N(3), ModRevision: rnd.Int64N(3), Version: rnd.Int64N(3),
			}
			kvs, encoded = append(kvs, kv), append(encoded, mustMarshal(t, kv))
		}
		want := holdsModel(c, kvs)
		got, err := Holds(c, encoded)
		if err != nil || got != want {
			t.Fatalf("%v of %v: got %v, error %v, want %v", c, kvs, got, err, want)
		}
		if got {
			held++
		}
	}
	if held < 2000 || held > 18_000 {
		t.Errorf("%d of 20,000 compares held: the test is one-sided", held)
	}
}

func TestCompareOfAMissingKey(t *testing.T) {
	for _, c := range []struct {
		name string
		c    *pb.Compare
		want bool
	}{
		{"version is 0", &pb.Compare{Target: pb.Compare_VERSION}, true},
		{"was created", &pb.Compare{Target: pb.Compare_CREATE, Result: pb.Compare_GREATER}, false},
		{"value is empty", &pb.Compare{Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte{}}}, false},
		{"value is not x", &pb.Compare{
			Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte("x")},
		}, false},
	} {
		if got, err := Holds(c.c, nil); err != nil || got != c.want {
			t.Errorf("%s: got %v, error %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestCompareOfAMalformedKeyValueIsAnError(t *testing.T) {
	if ok, err := Holds(&pb.Compare{}, [][]byte{{0x0a, 0x7f}}); ok || err == nil {
		t.Fatalf("got %v, error %v", ok, err)
	}
}
