package coalesce

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target/targettest"
)

// loadPrefixes are those of the keys that a load writes, keysPerPrefix below each.
var loadPrefixes = []string{"/a/", "/a/b/", "/a/b/c/", "/b/", "/c/x/", "/c/y/"}

const keysPerPrefix = 12

func loadKey(r *rand.Rand) string {
	return fmt.Sprintf("%s%02d", loadPrefixes[r.IntN(len(loadPrefixes))], r.IntN(keysPerPrefix))
}

// write makes n changes of all kinds and returns the newest revision.
func (s *store) write(ctx context.Context, r *rand.Rand, n int) (int64, error) {
	var rev int64
	for range n {
		got, err := s.writeOne(ctx, r)
		if err != nil {
			return rev, err
		}
		rev = max(rev, got)
	}
	return rev, nil
}

func (s *store) writeOne(ctx context.Context, r *rand.Rand) (int64, error) {
	key, value := loadKey(r), strings.Repeat("v", r.IntN(200))+fmt.Sprint(r.Uint32())
	switch n := r.IntN(1000); {
	case n < 600:
		resp, err := s.kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
		return resp.GetHeader().GetRevision(), err
	case n < 750:
		resp, err := s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)}) // often of nothing
		return resp.GetHeader().GetRevision(), err
	case n < 800:
		resp, err := s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(key + "\xff")})
		return resp.GetHeader().GetRevision(), err
	case n < 994:
		resp, err := s.kv.Txn(ctx, &pb.TxnRequest{Success: mixedOps(r, 1+r.IntN(8), value)})
		return resp.GetHeader().GetRevision(), err
	default:
		// 1.4 MiB in one revision: after another such, with previous values, it takes fragments.
		resp, err := s.kv.Txn(ctx, &pb.TxnRequest{Success: mixedOps(r, 36, strings.Repeat("w", 40<<10))})
		return resp.GetHeader().GetRevision(), err
	}
}

// mixedOps changes up to n different keys.
func mixedOps(r *rand.Rand, n int, value string) []*pb.RequestOp {
	used := map[string]bool{}
	var ops []*pb.RequestOp
	for range n {
		key := loadKey(r)
		if used[key] {
			continue
		}
		used[key] = true
		if r.IntN(5) == 0 {
			ops = append(ops, targettest.DeleteOp(key))
		} else {
			ops = append(ops, targettest.PutOp(key, value))
		}
	}
	return ops
}

// randomSpec is a watch of what a load writes. Its start is now, in the past from oldest on, or not far after newest.
func randomSpec(r *rand.Rand, oldest, newest int64) spec {
	sp := randomRange(r)
	switch r.IntN(6) {
	case 0, 1: // now
	case 2, 3:
		sp.start = oldest + r.Int64N(newest-oldest+1)
	case 4:
		sp.start = max(oldest, newest-r.Int64N(20)) // in reach of a small ring
	case 5:
		sp.start = newest + 1 + r.Int64N(50)
	}
	sp.prevKV, sp.fragment, sp.progressNotify = r.IntN(3) == 0, r.IntN(4) == 0, r.IntN(4) == 0
	switch r.IntN(8) {
	case 0:
		sp.noPut = true
	case 1:
		sp.noDelete = true
	}
	return sp
}

func randomRange(r *rand.Rand) spec {
	key := loadKey(r)
	switch r.IntN(8) {
	case 0, 1:
		return spec{key: key}
	case 2:
		return everything
	case 3:
		return spec{key: key, end: "\x00"}
	case 4:
		end := loadKey(r)
		if key == end {
			end = key + "\x00"
		}
		return spec{key: min(key, end), end: max(key, end)}
	default:
		return prefix(loadPrefixes[r.IntN(len(loadPrefixes))])
	}
}
