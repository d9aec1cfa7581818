package identities

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// client is one user's, or nobody's. It sends one request after another and keeps them with their answers. Its methods must
// not be called concurrently.
type client struct {
	*root
	name string // of the client
	user string // "" is nobody
	rng  *rand.Rand
	addr string
	conn *grpc.ClientConn
	http *http.Client

	onlyReads bool // with gRPC

	who  *identity
	ops  []*op
	next int // number of the value that is written next
}

// live sends random requests until ctx ends, the given time apart.
func (c *client) live(ctx context.Context, apart time.Duration) {
	for pause(ctx, time.Duration(c.rng.Int64N(int64(2*apart)))) {
		c.identify()
		request, how := c.request()
		o := c.do(request, how)
		void := isAnyOf(o.err, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty)
		if void && c.rng.IntN(3) == 0 {
			c.login()
		}
	}
}

// identify sometimes changes what the client shows.
func (c *client) identify() {
	switch n := c.rng.IntN(60); {
	case c.user == "" && n < 20:
		c.who = nil
	case c.user == "" && n < 22:
		c.who = &identity{isMadeUp: true, token: pick(c.rng, []string{"made up", "made.1", "a.b.c", "Bearer made.1"})}
	case c.user != "" && (n == 0 || c.who == nil):
		c.login()
	}
}

// login gets a token: through the proxy, or past it so that no proxy has seen whose it is.
func (c *client) login() {
	if c.user == "" {
		return
	}
	u, ok := c.ledger.now().users[c.user]
	password := u.password
	if !ok || c.rng.IntN(12) == 0 {
		password = "wrong"
	}
	if c.rng.IntN(3) == 0 {
		asked := c.now()
		if token, err := c.root.login(c.user, password); err == nil && token != "" {
			c.who = &identity{user: c.user, token: token, asked: asked, given: c.now()}
		}
		return
	}
	o := c.do(&pb.AuthenticateRequest{Name: c.user, Password: password}, byGRPC)
	if o.err == nil {
		token := o.response.(*pb.AuthenticateResponse).Token
		c.who = &identity{user: c.user, token: token, asked: o.sent, given: o.answered}
	}
}

// do sends a request and keeps it.
func (c *client) do(request proto.Message, how way) *op {
	o := &op{client: c.name, who: c.who, how: how, known: c.newest.Load(), request: request}
	if _, ok := request.(*pb.AuthenticateRequest); ok {
		o.who = nil
	}
	o.sent = c.now()
	switch how {
	case inParts:
		c.stream(o, request.(*pb.RangeRequest))
	case byJSON:
		c.post(o)
	default:
		c.call(o)
	}
	o.answered = c.now()
	if o.err != nil {
		o.response = nil
	} else if h := header(o.response); h != nil {
		told(c.newest, h.Revision)
	}
	c.ops = append(c.ops, o)
	return o
}

func (c *client) as(who *identity) context.Context {
	if who == nil {
		return c.Ctx
	}
	return withToken(c.Ctx, who.token)
}

// methodOf is the RPC for a request, the path of it at the gateway, and an empty answer.
func methodOf(request proto.Message) (method, path string, response proto.Message) {
	switch request.(type) {
	case *pb.RangeRequest:
		return pb.KV_Range_FullMethodName, "/v3/kv/range", &pb.RangeResponse{}
	case *pb.PutRequest:
		return pb.KV_Put_FullMethodName, "/v3/kv/put", &pb.PutResponse{}
	case *pb.DeleteRangeRequest:
		return pb.KV_DeleteRange_FullMethodName, "/v3/kv/deleterange", &pb.DeleteRangeResponse{}
	case *pb.TxnRequest:
		return pb.KV_Txn_FullMethodName, "/v3/kv/txn", &pb.TxnResponse{}
	case *pb.LeaseTimeToLiveRequest:
		return pb.Lease_LeaseTimeToLive_FullMethodName, "/v3/lease/timetolive", &pb.LeaseTimeToLiveResponse{}
	default:
		return pb.Auth_Authenticate_FullMethodName, "/v3/auth/authenticate", &pb.AuthenticateResponse{}
	}
}

func (c *client) call(o *op) {
	method, _, response := methodOf(o.request)
	o.response, o.err = response, c.conn.Invoke(c.as(o.who), method, o.request, response)
}

// stream sends a range request as a RangeStream and puts the parts together.
func (c *client) stream(o *op, r *pb.RangeRequest) {
	stream, err := pb.NewKVClient(c.conn).RangeStream(c.as(o.who), r)
	all := &pb.RangeResponse{}
	o.response = all
	for err == nil {
		var part *pb.RangeStreamResponse
		if part, err = stream.Recv(); err == nil {
			proto.Merge(all, part.RangeResponse)
		}
	}
	if !errors.Is(err, io.EOF) {
		o.err = err
	}
}

// post sends a request over the JSON gateway.
func (c *client) post(o *op) {
	_, path, response := methodOf(o.request)
	o.response = response
	body, err := protojson.Marshal(o.request)
	if err != nil {
		o.err = err
		return
	}
	req, err := http.NewRequestWithContext(c.Ctx, http.MethodPost, "http://"+c.addr+path, bytes.NewReader(body))
	if err != nil {
		o.err = err
		return
	}
	if o.who != nil {
		req.Header.Set("Authorization", o.who.token)
	}
	r, err := c.http.Do(req)
	if err != nil {
		o.err = err
		return
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		o.err = err
	case r.StatusCode == http.StatusOK:
		o.err = protojson.Unmarshal(text, response)
	default:
		o.err = errorIn(text)
	}
}

// errorIn is what the gateway says in the body of an error.
func errorIn(text []byte) error {
	var s spb.Status
	if err := protojson.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("body %q", text)
	}
	return status.FromProto(&s).Err()
}
