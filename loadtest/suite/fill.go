package suite

import (
	"context"
	"fmt"

	"weir/loadtest/load"
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
	inTxn := max(1, min(keysInTxn, bytesInTxn/max(1, len(value))))
	if err := load.Fill(ctx, conn, n, inTxn, keyOf, value); err != nil {
		return fmt.Errorf("put keys to %s: %w", s.Store[0], err)
	}
	return nil
}
