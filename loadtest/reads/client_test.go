package reads

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target/targettest"
)

// client is one connection to one server. Its methods must not be called concurrently but for those that say so.
type client struct {
	*site
	name string
	ctx  context.Context // of its requests
	conn *grpc.ClientConn
	kv   pb.KVClient

	// newest is the revision that the headers of all answers to this client have come to: they never go back.
	newest int64
}

// dial is a new connection to where clients go.
func (s *site) dial() *client {
	s.Helper()
	return s.dialTo(s.Endpoint(), string(s.Kind))
}

// member is a new connection to the first member, past the proxies.
func (s *site) member() *client {
	s.Helper()
	return s.dialTo(s.Cluster.Members[0].Addr, string(s.Kind.Member()))
}

func (s *site) dialTo(addr, name string, more ...grpc.DialOption) *client {
	s.Helper()
	conn := targettest.Dial(s, addr, more...)
	return &client{site: s, name: name, ctx: s.Ctx, conn: conn, kv: pb.NewKVClient(conn)}
}

// with is the same connection, used under another identity.
func (c *client) with(token string) *client {
	other := *c
	other.ctx = metadata.AppendToOutgoingContext(c.site.Ctx, "token", token)
	return &other
}

// told checks that the revision of a header does not go back.
func (c *client) told(h *pb.ResponseHeader) {
	c.Helper()
	if h.Revision < c.newest {
		c.Errorf("%s: an answer of revision %d came after one of %d on the same connection", c.name, h.Revision, c.newest)
	}
	c.newest = max(c.newest, h.Revision)
}

// read sends a range request and returns its error.
func (c *client) read(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	c.Helper()
	resp, err := c.kv.Range(c.ctx, r)
	if err == nil {
		c.told(resp.Header)
	}
	return resp, err
}

// get is read, which must not fail.
func (c *client) get(r *pb.RangeRequest) *pb.RangeResponse {
	c.Helper()
	resp, err := c.read(r)
	if err != nil {
		c.Fatalf("%s: %v: %v", c.name, r, err)
	}
	return resp
}

// stream sends a range request as a RangeStream and puts the parts of the answer together.
func (c *client) stream(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	stream, err := c.kv.RangeStream(c.ctx, r)
	if err != nil {
		return nil, err
	}
	all := &pb.RangeResponse{}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		proto.Merge(all, part.RangeResponse)
	}
}

// txn sends a transaction, which must not fail.
func (c *client) txn(ops ...*pb.RequestOp) *pb.TxnResponse {
	c.Helper()
	resp, err := c.kv.Txn(c.ctx, &pb.TxnRequest{Success: ops})
	if err != nil {
		c.Fatalf("%s: %v: %v", c.name, ops, err)
	}
	c.told(resp.Header)
	return resp
}

// put writes one pair and returns its revision.
func (c *client) put(key, value string) int64 {
	c.Helper()
	r, err := c.kv.Put(c.ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	c.Must(err)
	c.told(r.Header)
	return r.Header.Revision
}

// putAll writes pairs, a hundred in a revision.
func (c *client) putAll(keys []string, value string) {
	c.Helper()
	for len(keys) > 0 {
		var ops []*pb.RequestOp
		n := min(len(keys), 100)
		for _, k := range keys[:n] {
			ops = append(ops, targettest.PutOp(k, value))
		}
		c.txn(ops...)
		keys = keys[n:]
	}
}

// remove deletes all keys in [key, end), or key if end is empty, and returns the revision.
func (c *client) remove(key, end string) int64 {
	c.Helper()
	r, err := c.kv.DeleteRange(c.ctx, &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
	c.Must(err)
	c.told(r.Header)
	return r.Header.Revision
}

// compact forgets what is older than rev.
func (c *client) compact(rev int64) {
	c.Helper()
	r, err := c.kv.Compact(c.ctx, &pb.CompactionRequest{Revision: rev})
	c.Must(err)
	c.told(r.Header)
}

// revision is the newest.
func (c *client) revision() int64 {
	c.Helper()
	return c.get(&pb.RangeRequest{Key: []byte("revision"), CountOnly: true}).Header.Revision
}

// awaitCached waits until serializable reads of a range are answered from the memory of the proxy next to the clients.
// At a member it does nothing.
func (s *site) awaitCached(r *pb.RangeRequest) {
	s.Helper()
	if len(s.Proxies) > 0 {
		s.dial().awaitCached(r)
	}
}

// awaitCached is that of site for what this client has been told of.
func (c *client) awaitCached(r *pb.RangeRequest) {
	c.Helper()
	r = serializable(r)
	c.Eventually(20*time.Second, fmt.Sprintf("a read from memory of %v", r), func() error {
		before := c.hits()
		c.get(r)
		if c.hits() == before {
			return errNotYet
		}
		return nil
	})
}

func single(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }

func below(prefix string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix))}
}

func fromKey(key string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte{0}}
}

func serializable(r *pb.RangeRequest) *pb.RangeRequest {
	r = proto.CloneOf(r)
	r.Serializable = true
	return r
}

func pinned(r *pb.RangeRequest, rev int64) *pb.RangeRequest {
	r = proto.CloneOf(r)
	r.Revision = rev
	return r
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// errText shows an error as "Code: text".
func errText(err error) string {
	if err == nil {
		return "OK"
	}
	return status.Code(err).String() + ": " + status.Convert(err).Message()
}

// pairs shows what was read, with what says which writes were seen.
func pairs(r *pb.RangeResponse) string {
	var s strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&s, "%s=%q@%d ", kv.Key, kv.Value, kv.ModRevision)
	}
	return s.String()
}
