package suite

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// How many keys, and bytes of values, are filled in with one request: etcd allows 128, and 1.5 MiB.
const (
	keysInTxn  = 100
	bytesInTxn = 1 << 20
)

// fill puts n keys with one value, the i-th of which is keyOf(i).
func fill(ctx context.Context, s *System, n int, keyOf func(i int) []byte, value []byte) error {
	conn, err := s.DialStore(0)
	if err != nil {
		return err
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	inTxn := max(1, min(keysInTxn, bytesInTxn/max(1, len(value))))
	for i := 0; i < n; i += inTxn {
		txn := &pb.TxnRequest{}
		for j := i; j < min(i+inTxn, n); j++ {
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: keyOf(j), Value: value}}})
		}
		if _, err := kv.Txn(ctx, txn); err != nil {
			return fmt.Errorf("put keys to %s: %w", s.Store[0], err)
		}
	}
	return nil
}

// prefixEnd is the end of the range of all keys below a prefix, which ends with a slash.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}
