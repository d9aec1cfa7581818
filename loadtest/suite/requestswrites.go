package suite

import (
	"fmt"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
)

// putter puts random ones of many keys. Its writes have rising revisions.
type putter struct {
	keys  int
	key   func(i int) []byte
	value []byte

	last int64 // revision of its last write
}

func (p *putter) Next() (client.Method, []byte, error) {
	request, err := encode(&pb.PutRequest{Key: p.key(rand.IntN(p.keys)), Value: p.value})
	return client.KVPut, request, err
}

func (p *putter) Check(answer []byte) (int, error) {
	at, err := revisionOf(answer)
	if err != nil {
		return 0, err
	}
	if at <= p.last {
		return 0, fmt.Errorf("a put at revision %d, after one of the same client at %d", at, p.last)
	}
	p.last = at
	return len(p.value), nil
}

// comparer writes a key of its own, if nobody else has since.
type comparer struct {
	key, value []byte

	known int64 // revision at which the key was written last; 0 if the client does not know
}

func (c *comparer) Next() (client.Method, []byte, error) {
	request, err := encode(&pb.TxnRequest{
		Compare: []*pb.Compare{{Target: pb.Compare_MOD, Key: c.key, TargetUnion: &pb.Compare_ModRevision{ModRevision: c.known}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: c.key, Value: c.value}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: c.key}}}},
	})
	return client.KVTxn, request, err
}

// check lets a transaction fail only when its key was written in an earlier turn.
func (c *comparer) Check(m []byte) (int, error) {
	var answer pb.TxnResponse
	if err := proto.Unmarshal(m, &answer); err != nil {
		return 0, fmt.Errorf("decode an answer: %w", err)
	}
	if answer.Succeeded {
		if at := answer.Header.GetRevision(); at <= c.known {
			return 0, fmt.Errorf("%s, which was written at revision %d, was written again at %d", c.key, c.known, at)
		}
		c.known = answer.Header.GetRevision()
		return len(c.value), nil
	}
	if c.known != 0 {
		return 0, fmt.Errorf("a transaction on %s failed, which nobody else has written since revision %d", c.key, c.known)
	}
	if len(answer.Responses) != 1 || len(answer.Responses[0].GetResponseRange().GetKvs()) != 1 {
		return 0, fmt.Errorf("a transaction on %s failed because it is there, and did not find it", c.key)
	}
	c.known = answer.Responses[0].GetResponseRange().Kvs[0].ModRevision
	return 0, nil
}

func encode(m proto.Message) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return b, nil
}

// The numbers of fields in etcd's rpc.proto. The header is the first field of every answer.
const (
	answerHeader   = 1
	headerRevision = 3
	rangeKVs       = 2
)

// revisionOf is the revision in the header of an answer.
func revisionOf(answer []byte) (int64, error) {
	header, err := client.BytesField(answer, answerHeader)
	if err != nil {
		return 0, err
	}
	return client.VarintField(header, headerRevision)
}
