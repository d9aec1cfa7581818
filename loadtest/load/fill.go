package load

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Fill puts n keys with one value, the i-th of which is keyOf(i), so many in each transaction: etcd allows 128 by default, and 1.5 MiB.
func Fill(ctx context.Context, conn *grpc.ClientConn, n, inTxn int, keyOf func(i int) []byte, value []byte) error {
	kv := pb.NewKVClient(conn)
	for i := 0; i < n; i += inTxn {
		txn := &pb.TxnRequest{}
		for j := i; j < min(i+inTxn, n); j++ {
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: keyOf(j), Value: value}}})
		}
		if _, err := kv.Txn(ctx, txn); err != nil {
			return err
		}
	}
	return nil
}
