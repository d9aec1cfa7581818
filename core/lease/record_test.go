package lease

import (
	"bytes"
	"encoding/hex"
	"math"
	"strings"
	"testing"
)

// The bytes are those that etcd 3.7's leasepb.Lease encodes to.
var goldenRecords = []struct {
	record  Record
	encoded string
}{
	{Record{}, ""},
	{Record{ID: 1, TTL: 2}, "08011002"},
	{Record{ID: 7587895411912345601, TTL: 60}, "088190e8decbd5e7a669103c"},
	{Record{ID: 5, TTL: 9_000_000_000, RemainingTTL: 300}, "08051080b4c4c32118ac02"},
	{Record{ID: 1, TTL: 2, Granted: 300}, "08011002c03eac02"},
	{Record{ID: -1, TTL: math.MaxInt64}, "08ffffffffffffffffff0110ffffffffffffffff7f"},
}

func TestRecordHasTheBytesOfEtcd(t *testing.T) {
	for _, g := range goldenRecords {
		want, err := hex.DecodeString(g.encoded)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendRecord([]byte("before"), g.record); !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Errorf("AppendRecord(%+v) = %x, want %x after the old bytes", g.record, got, want)
		}
		if got, err := ParseRecord(want); err != nil || got != g.record {
			t.Errorf("ParseRecord(%x) = %+v, %v; want %+v", want, got, err, g.record)
		}
	}
}

func TestRecordSkipsUnknownFields(t *testing.T) {
	b, _ := hex.DecodeString("22026869" + "0801" + "2d01020304" + "1002") // field 4 bytes, field 5 fixed32
	if got, err := ParseRecord(b); err != nil || got != (Record{ID: 1, TTL: 2}) {
		t.Errorf("ParseRecord = %+v, %v", got, err)
	}
}

func TestDamagedRecordIsRefused(t *testing.T) {
	for _, c := range []struct{ encoded, want string }{
		{"08", "at byte 1"},
		{"080110", "at byte 3"},
		{"0801ff", "at byte 2"},
		{"0a0101", "field is not a varint"},
		{"0801220568", "at byte 3"},
		{"00", "at byte 0"},
	} {
		b, _ := hex.DecodeString(c.encoded)
		if r, err := ParseRecord(b); err == nil || !strings.Contains(err.Error(), c.want) || r != (Record{}) {
			t.Errorf("ParseRecord(%s) = %+v, %v; want an error with %q", c.encoded, r, err, c.want)
		}
	}
}

// FuzzParseRecord: no input makes it panic, and what it accepts survives a round trip.
func FuzzParseRecord(f *testing.F) {
	for _, g := range goldenRecords {
		b, _ := hex.DecodeString(g.encoded)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		if again, err := ParseRecord(AppendRecord(nil, r)); err != nil || again != r {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}
