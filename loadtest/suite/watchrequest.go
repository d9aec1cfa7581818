package suite

import (
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"

	"weir/loadtest/client"
	"weir/loadtest/load"
)

// watchAll asks for a watch of all keys that watchers watch.
func watchAll() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(watchPrefix), RangeEnd: load.PrefixEnd(watchPrefix)}}}
}

// The numbers of fields in etcd's rpc.proto.
const (
	responseCreated  = 3
	responseCanceled = 4
)

// confirmed is an error if an answer to a watch's request does not say that it was created.
func confirmed(answer []byte) error {
	for field, want := range map[protowire.Number]int64{responseCreated: 1, responseCanceled: 0} {
		got, err := client.VarintField(answer, field)
		if err != nil {
			return err
		}
		if got != want {
			return errors.New("a watch was refused")
		}
	}
	return nil
}
