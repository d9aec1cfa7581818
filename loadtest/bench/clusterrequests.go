package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/target"
)

// ClusterWorkload is one kind of request to a cluster.
type ClusterWorkload string

// The workloads. Puts and gets are of random keys, which are there; a compare-and-put is of the client's own key, if nobody
// has written it since, and reads it otherwise.
const (
	ClusterPut           ClusterWorkload = "put"
	ClusterCompareAndPut ClusterWorkload = "compare-and-put"
	ClusterGet           ClusterWorkload = "get"
)

// ClusterWorkloads is every workload.
func ClusterWorkloads() []ClusterWorkload {
	return []ClusterWorkload{ClusterPut, ClusterCompareAndPut, ClusterGet}
}

// FindClusterWorkloads finds workloads by their names.
func FindClusterWorkloads(names []string) ([]ClusterWorkload, error) {
	return find(names, "workload", ClusterWorkloads(), func(w ClusterWorkload) string { return string(w) })
}

func (w ClusterWorkload) method() client.Method {
	switch w {
	case ClusterPut:
		return client.KVPut
	case ClusterCompareAndPut:
		return client.KVTxn
	default:
		return client.KVRange
	}
}

// clusterRequests are those of one client. A target whose answers cannot be true does not get a result.
type clusterRequests struct {
	workload ClusterWorkload
	keys     int
	value    []byte

	own     []byte // the client's key
	written int64  // revision at which it was written last, 0 if unknown
}

// next is the next request, encoded.
func (r *clusterRequests) next() ([]byte, error) {
	var m proto.Message
	switch r.workload {
	case ClusterPut:
		m = &pb.PutRequest{Key: key(rand.IntN(r.keys)), Value: r.value}
	case ClusterCompareAndPut:
		m = &pb.TxnRequest{
			Compare: []*pb.Compare{{Target: pb.Compare_MOD, Key: r.own, TargetUnion: &pb.Compare_ModRevision{ModRevision: r.written}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: r.own, Value: r.value}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: r.own}}}},
		}
	default:
		m = &pb.RangeRequest{Key: key(rand.IntN(r.keys))}
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return b, nil
}

// rangeKVs is the number of a field in etcd's rpc.proto.
const rangeKVs = 2

// check looks at an answer.
func (r *clusterRequests) check(m []byte) error {
	switch r.workload {
	case ClusterPut:
		return nil
	case ClusterCompareAndPut:
		return r.checkTxn(m)
	default:
		kv, err := client.BytesField(m, rangeKVs)
		if err == nil && kv == nil {
			err = errors.New("a key that was put is not there")
		}
		return err
	}
}

func (r *clusterRequests) checkTxn(m []byte) error {
	var answer pb.TxnResponse
	if err := proto.Unmarshal(m, &answer); err != nil {
		return fmt.Errorf("decode an answer: %w", err)
	}
	switch {
	case answer.Succeeded:
		r.written = answer.Header.Revision
		return nil
	case r.written != 0:
		return fmt.Errorf("%s, which was written at revision %d, was then written by somebody else", r.own, r.written)
	case len(answer.Responses) != 1 || len(answer.Responses[0].GetResponseRange().GetKvs()) != 1:
		return fmt.Errorf("%s is there, and is not", r.own)
	default: // it was written in an earlier turn
		r.written = answer.Responses[0].GetResponseRange().Kvs[0].ModRevision
		return nil
	}
}

func key(i int) []byte { return fmt.Appendf(nil, "bench/%08d", i) }

// fillers is how many fill a cluster at a time.
const fillers = 64

// fillCluster puts n keys, so many in each transaction, at all entries.
func fillCluster(ctx context.Context, tg *target.Target, n, inTxn, valueSize int) error {
	value := slices.Repeat([]byte("v"), valueSize)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var conns []*grpc.ClientConn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for _, s := range entries(tg) {
		conn, err := target.Dial(s.Addr)
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	each := (n + fillers - 1) / fillers
	var wg sync.WaitGroup
	for i := range fillers {
		wg.Go(func() {
			from, to := min(i*each, n), min((i+1)*each, n)
			keyOf := func(j int) []byte { return key(from + j) }
			if err := load.Fill(ctx, conns[i%len(conns)], to-from, inTxn, keyOf, value); err != nil {
				cancel(fmt.Errorf("put keys: %w", err))
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
