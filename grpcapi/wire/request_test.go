package wire

import (
	"bytes"
	"math"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func (r *RangeRequest) proto() *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: r.Key, RangeEnd: r.RangeEnd, Limit: r.Limit, Revision: r.Revision,
		SortOrder:    pb.RangeRequest_SortOrder(r.SortOrder),
		SortTarget:   pb.RangeRequest_SortTarget(r.SortTarget),
		Serializable: r.Serializable, KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		MinModRevision: r.MinModRevision, MaxModRevision: r.MaxModRevision,
		MinCreateRevision: r.MinCreateRevision, MaxCreateRevision: r.MaxCreateRevision,
	}
}

func (r *PutRequest) proto() *pb.PutRequest {
	return &pb.PutRequest{
		Key: r.Key, Value: r.Value, Lease: r.Lease,
		PrevKv: r.PrevKV, IgnoreValue: r.IgnoreValue, IgnoreLease: r.IgnoreLease,
	}
}

func (r *DeleteRangeRequest) proto() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: r.Key, RangeEnd: r.RangeEnd, PrevKv: r.PrevKV}
}

// decoder is one of the messages that are decoded by hand.
type decoder[M proto.Message] interface {
	Unmarshal([]byte) error
	proto() M
}

// checkDecode holds got.Unmarshal(b) against protobuf: an error exactly when protobuf has one, else the same fields.
func checkDecode[M proto.Message](t *testing.T, b []byte, got decoder[M], want M) {
	t.Helper()
	input := bytes.Clone(b)
	wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, want)
	err := got.Unmarshal(b)
	if !bytes.Equal(b, input) {
		t.Fatalf("decoding %x changed it to %x", input, b)
	}
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("decode %x: error %v, protobuf says %v", b, err, wantErr)
	}
	if err == nil && !proto.Equal(got.proto(), want) {
		t.Fatalf("decode %x:\n got %v\nwant %v", b, got.proto(), want)
	}
}

// seeds are encodings that are unusual or wrong for every message, behind which a good one follows.
func seeds(f *testing.F, messages ...proto.Message) {
	var good []byte
	for _, m := range messages {
		good = mustMarshal(f, m)
		f.Add(good)
		f.Add(append(bytes.Clone(good), good...)) // last one wins
		f.Add(good[:len(good)/2])
	}
	for _, odd := range oddFields {
		f.Add(append(bytes.Clone(odd.field), good...))
	}
}

// oddFields are single fields that a well-behaved client never sends.
var oddFields = []struct {
	name  string
	field []byte
}{
	{"nothing", []byte{}},
	{"field number zero", []byte{0x00, 0x01}},
	{"field number above the maximum", []byte{0x80, 0x80, 0x80, 0x80, 0x10, 0x01}},
	{"highest field number", []byte{0xf8, 0xff, 0xff, 0xff, 0x0f, 0x01}},
	{"tag of more than 64 bits", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}},
	{"tag cut off", []byte{0x80}},
	{"tag longer than needed", []byte{0x8a, 0x80, 0x00, 0x01, 'k'}},
	{"varint longer than needed", []byte{0x18, 0x81, 0x80, 0x80, 0x00}},
	{"varint of 10 bytes", []byte{0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
	{"varint of 65 bits", []byte{0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03}},
	{"varint of 11 bytes", []byte{0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00}},
	{"varint cut off", []byte{0x18, 0x80}},
	{"varint missing", []byte{0x18}},
	{"key longer than the message", []byte{0x0a, 0x7f, 'k'}},
	{"key of 2^63 bytes", []byte{0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}},
	{"key of 2^64-1 bytes", []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
	{"key present but empty", []byte{0x0a, 0x00}},
	{"key as varint", []byte{0x08, 0x01}},
	{"key as fixed32", []byte{0x0d, 1, 2, 3, 4}},
	{"key as group", []byte{0x0b, 0x08, 0x01, 0x0c}},
	{"number as bytes", []byte{0x1a, 0x01, 0x05}},
	{"bool of 2", []byte{0x38, 0x02}},
	{"bool longer than needed", []byte{0x38, 0x80, 0x02}},
	{"enum of 2^32+1", []byte{0x28, 0x81, 0x80, 0x80, 0x80, 0x10}},
	{"enum of -1", []byte{0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
	{"unknown varint", []byte{0xa0, 0x06, 0x05}},
	{"unknown fixed32", []byte{0xa5, 0x06, 1, 2, 3, 4}},
	{"unknown fixed32 cut off", []byte{0xa5, 0x06, 1, 2, 3}},
	{"unknown fixed64", []byte{0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8}},
	{"unknown bytes", []byte{0xa2, 0x06, 0x02, 1, 2}},
	{"unknown bytes cut off", []byte{0xa2, 0x06, 0x09, 1, 2}},
	{"unknown group", []byte{0xa3, 0x06, 0x08, 0x01, 0xa4, 0x06}},
	{"groups in groups", []byte{0xa3, 0x06, 0x0b, 0x0c, 0xa4, 0x06}},
	{"group without end", []byte{0xa3, 0x06, 0x08, 0x01}},
	{"group with another's end", []byte{0xa3, 0x06, 0x08, 0x01, 0x0c}},
	{"end of no group", []byte{0x0c}},
	{"wire type 6", []byte{0x0e, 0x01}},
	{"wire type 7", []byte{0x0f, 0x01}},
	{"groups too deep", bytes.Repeat([]byte{0x0b}, 20_000)},
	{"many groups, all ended", append(bytes.Repeat([]byte{0x0b}, 9_000), bytes.Repeat([]byte{0x0c}, 9_000)...)},
	{"groups deeper than is allowed", append(bytes.Repeat([]byte{0x0b}, 10_002), bytes.Repeat([]byte{0x0c}, 10_002)...)},
}

func TestOddFieldsAreTreatedAsProtobufTreatsThem(t *testing.T) {
	for _, odd := range oddFields {
		t.Run(odd.name, func(t *testing.T) {
			checkDecode(t, odd.field, &RangeRequest{}, &pb.RangeRequest{})
			checkDecode(t, odd.field, &PutRequest{}, &pb.PutRequest{})
			checkDecode(t, odd.field, &DeleteRangeRequest{}, &pb.DeleteRangeRequest{})
			checkDecodeKeyValue(t, odd.field)
		})
	}
}

// Every field at its extremes and every cut of the message, one after another into the same struct.
func TestRequestsDecodeAsProtobufDecodesThem(t *testing.T) {
	var rr RangeRequest
	for _, m := range rangeRequests {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkDecode(t, b[:n:n], &rr, &pb.RangeRequest{})
		}
		if !bytes.Equal(rr.Raw, b) {
			t.Fatalf("Raw is %x, decoded from %x", rr.Raw, b)
		}
	}
	var pr PutRequest
	for _, m := range putRequests {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkDecode(t, b[:n:n], &pr, &pb.PutRequest{})
		}
	}
	var dr DeleteRangeRequest
	for _, m := range deleteRangeRequests {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkDecode(t, b[:n:n], &dr, &pb.DeleteRangeRequest{})
		}
	}
}

func TestRangeRequestOfAMessageHasEveryField(t *testing.T) {
	for _, m := range rangeRequests {
		r := RangeRequestOf(m)
		if !proto.Equal(r.proto(), m) {
			t.Errorf("got %v, want %v", r.proto(), m)
		}
		checkEncoded(t, "AppendRangeRequest", AppendRangeRequest(nil, &r), mustMarshal(t, m))
	}
}

func TestAppendingToADecodedKeyLeavesTheMessageAlone(t *testing.T) {
	b := mustMarshal(t, &pb.PutRequest{Key: []byte("key"), Value: []byte("value")})
	var r PutRequest
	if err := r.Unmarshal(b); err != nil {
		t.Fatal(err)
	}
	_ = append(r.Key, 0)
	if string(r.Value) != "value" || !bytes.Equal(b, mustMarshal(t, r.proto())) {
		t.Fatalf("message is now %x", b)
	}
}

func TestDecodeErrorSaysMessageAndOffset(t *testing.T) {
	b := append(mustMarshal(t, &pb.RangeRequest{Key: []byte("k")}), 0x18, 0x80)
	var r RangeRequest
	const want = "decode RangeRequest: malformed field at offset 3"
	if err := r.Unmarshal(b); err == nil || err.Error() != want {
		t.Fatalf("got error %v, want %s", err, want)
	}
}

var (
	rangeRequests = []*pb.RangeRequest{
		{},
		{Key: []byte("foo")},
		{Key: []byte{0}, RangeEnd: []byte{0}, Limit: 500, Serializable: true},
		{
			Key: []byte("a"), RangeEnd: bytes.Repeat([]byte("z"), 300), Limit: math.MaxInt64, Revision: math.MinInt64,
			SortOrder: math.MaxInt32, SortTarget: math.MinInt32, Serializable: true, KeysOnly: true, CountOnly: true,
			MinModRevision: -1, MaxModRevision: math.MaxInt64, MinCreateRevision: 127, MaxCreateRevision: 128,
		},
	}
	putRequests = []*pb.PutRequest{
		{},
		{Key: []byte("foo"), Value: []byte("bar")},
		{
			Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 200), Lease: math.MinInt64,
			PrevKv: true, IgnoreValue: true, IgnoreLease: true,
		},
	}
	deleteRangeRequests = []*pb.DeleteRangeRequest{
		{},
		{Key: []byte("foo")},
		{Key: []byte("k"), RangeEnd: []byte{0}, PrevKv: true},
	}
)

func FuzzRangeRequest(f *testing.F) {
	for _, m := range rangeRequests {
		seeds(f, m)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecode(t, b, &RangeRequest{}, &pb.RangeRequest{}) })
}

func FuzzPutRequest(f *testing.F) {
	for _, m := range putRequests {
		seeds(f, m)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecode(t, b, &PutRequest{}, &pb.PutRequest{}) })
}

func FuzzDeleteRangeRequest(f *testing.F) {
	for _, m := range deleteRangeRequests {
		seeds(f, m)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecode(t, b, &DeleteRangeRequest{}, &pb.DeleteRangeRequest{}) })
}

func BenchmarkRangeRequest(b *testing.B) {
	get := mustMarshal(b, &pb.RangeRequest{Key: []byte("/registry/pods/default/web-0")})
	list := mustMarshal(b, &pb.RangeRequest{
		Key: []byte("/registry/pods/"), RangeEnd: []byte("/registry/pods0"), Limit: 500, Revision: 123456, Serializable: true,
	})
	for _, bench := range []struct {
		name string
		msg  []byte
	}{{"get", get}, {"list", list}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			var r RangeRequest
			for b.Loop() {
				if err := r.Unmarshal(bench.msg); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bench.name+"/protobuf", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := proto.Unmarshal(bench.msg, &pb.RangeRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func mustMarshal(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
