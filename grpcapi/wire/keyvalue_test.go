package wire

import (
	"bytes"
	"math"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func (kv *KeyValue) proto() *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}

// checkDecodeKeyValue holds the decoder, and the encoder with what was decoded, against protobuf.
func checkDecodeKeyValue(t *testing.T, b []byte) {
	t.Helper()
	var got KeyValue
	want := &mvccpb.KeyValue{}
	checkDecode(t, b, &got, want)
	if got.Unmarshal(b) != nil {
		return
	}
	encoded := mustMarshal(t, want)
	if again := got.Append([]byte("before")); string(again) != "before"+string(encoded) {
		t.Fatalf("%v is encoded as %x, protobuf has %x", want, again, encoded)
	}
	if got.Size() != len(encoded) {
		t.Fatalf("%v has size %d, protobuf has %d", want, got.Size(), len(encoded))
	}
}

var keyValues = []*mvccpb.KeyValue{
	{},
	{Key: []byte("foo"), CreateRevision: 2, ModRevision: 3, Version: 2, Value: []byte("bar")},
	{Key: []byte{0}, CreateRevision: 127, ModRevision: 128, Version: 1, Lease: math.MaxInt64},
	{
		Key: bytes.Repeat([]byte("k"), 127), Value: bytes.Repeat([]byte("v"), 128),
		CreateRevision: -1, ModRevision: math.MinInt64, Version: math.MaxInt64, Lease: -1,
	},
}

func TestKeyValueIsReadAndWrittenAsProtobufDoes(t *testing.T) {
	for _, kv := range keyValues {
		b := mustMarshal(t, kv)
		for n := range len(b) + 1 {
			checkDecodeKeyValue(t, b[:n:n])
		}
	}
}

func FuzzKeyValue(f *testing.F) {
	for _, kv := range keyValues {
		seeds(f, kv)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecodeKeyValue(t, b) })
}

func BenchmarkKeyValue(b *testing.B) {
	kv := &mvccpb.KeyValue{
		Key: []byte("/registry/pods/default/web-0"), Value: make([]byte, 256),
		CreateRevision: 123456, ModRevision: 234567, Version: 12,
	}
	msg, err := proto.Marshal(kv)
	if err != nil {
		b.Fatal(err)
	}
	var got KeyValue
	b.Run("Unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := got.Unmarshal(msg); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Append", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = got.Append(buf[:0])
		}
	})
}
