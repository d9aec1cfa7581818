package client

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func TestFieldsAreFoundByTheirNumbers(t *testing.T) {
	m, err := proto.Marshal(&pb.RangeRequest{Key: []byte("k"), Limit: 300, MinModRevision: -1})
	if err != nil {
		t.Fatal(err)
	}
	const key, rangeEnd, limit, revision, minMod = 1, 2, 3, 4, 10
	for num, want := range map[protowire.Number]string{key: "k", rangeEnd: "", limit: ""} {
		if got, err := BytesField(m, num); string(got) != want || err != nil {
			t.Errorf("field %d is %q, %v, want %q", num, got, err, want)
		}
	}
	for num, want := range map[protowire.Number]int64{key: 0, limit: 300, revision: 0, minMod: -1} {
		if got, err := VarintField(m, num); got != want || err != nil {
			t.Errorf("field %d is %d, %v, want %d", num, got, err, want)
		}
	}
	for n := range len(m) {
		whole := n == 0 || n == 3 || n == 6 // after a field
		if _, err := VarintField(m[:n], limit); (err == nil) != whole {
			t.Errorf("of %d bytes: %v", n, err)
		}
	}
}
