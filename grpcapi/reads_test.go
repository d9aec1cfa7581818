package grpcapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/cache"
	"weir/grpcapi/wire"
)

// fakeReads answers every read alike.
type fakeReads struct {
	err    error
	stream func(grpc.ServerStream, *cache.Session) error // instead of one answer

	// Of the last call.
	ranged  *wire.RangeRequest
	txn     *pb.TxnRequest
	raw     wire.Raw
	session *cache.Session
	shown   wire.Credentials
}

// fromMemory is what fakeReads answers.
const fromMemory = "memory"

func (f *fakeReads) answer(ctx context.Context, s *cache.Session) (mem.BufferSlice, error) {
	f.session, f.shown = s, wire.CredentialsOf(ctx)
	return mem.BufferSlice{mem.SliceBuffer(fromMemory)}, f.err
}

func (f *fakeReads) Range(ctx context.Context, r *wire.RangeRequest, s *cache.Session) (mem.BufferSlice, error) {
	f.ranged = r
	return f.answer(ctx, s)
}

func (f *fakeReads) Txn(ctx context.Context, r *pb.TxnRequest, raw wire.Raw, s *cache.Session) (mem.BufferSlice, error) {
	f.txn, f.raw = r, raw
	return f.answer(ctx, s)
}

func (f *fakeReads) RangeStream(r *wire.RangeRequest, s *cache.Session, stream grpc.ServerStream) error {
	f.ranged = r
	if f.stream != nil {
		return f.stream(stream, s)
	}
	m, err := f.answer(stream.Context(), s)
	if err != nil {
		return err
	}
	return stream.SendMsg(m)
}

// startReading serves r's reads in front of u, which sends requests of streams back and answers others with "upstream".
func startReading(t *testing.T, r *fakeReads) (*fakeUpstream, *grpc.ClientConn) {
	t.Helper()
	u := &fakeUpstream{answer: []byte("upstream")}
	return u, dial(t, start(t, NewForwardServer(Config{Logger: quiet()}, u, nil, r)))
}

// invoke sends one encoded request, and returns the first message of the answer. Streams have it sent as they do by etcd's
// client.
func invoke(ctx context.Context, cc *grpc.ClientConn, method string, request []byte) (string, error) {
	raw := grpc.ForceCodecV2(wire.Codec{})
	var answer wire.Raw
	if method != pb.KV_RangeStream_FullMethodName {
		err := cc.Invoke(ctx, method, wire.Raw(request), &answer, raw)
		return string(answer), err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, raw)
	if err != nil {
		return "", err
	}
	if err := s.SendMsg(wire.Raw(request)); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if err := s.CloseSend(); err != nil {
		return "", err
	}
	err = s.RecvMsg(&answer)
	return string(answer), err
}

// readMethods are what Reads answers.
var readMethods = []string{pb.KV_Range_FullMethodName, pb.KV_Txn_FullMethodName, pb.KV_RangeStream_FullMethodName}

// validRead is a request of one of readMethods.
func validRead(t *testing.T, method string) []byte {
	if method == pb.KV_Txn_FullMethodName {
		return marshal(t, &pb.TxnRequest{Compare: []*pb.Compare{fullCompare()}, Success: ops(rangeOp(fullRange()))})
	}
	return marshal(t, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), Limit: 7})
}

func TestReadsAreAnsweredWithoutUpstream(t *testing.T) {
	r := &fakeReads{}
	u, cc := startReading(t, r)
	for _, method := range readMethods {
		request := validRead(t, method)
		if answer, err := invoke(t.Context(), cc, method, request); err != nil || answer != fromMemory {
			t.Errorf("%s: got %q, %v", method, answer, err)
		}
		if method == pb.KV_Txn_FullMethodName {
			if want := (&pb.TxnRequest{}); proto.Unmarshal(request, want) != nil || !proto.Equal(r.txn, want) || !bytes.Equal(r.raw, request) {
				t.Errorf("%s: Reads was asked %v, %x", method, r.txn, r.raw)
			}
		} else if r.ranged == nil || string(r.ranged.RangeEnd) != "b" || r.ranged.Limit != 7 || !bytes.Equal(r.ranged.Raw, request) {
			t.Errorf("%s: Reads was asked %+v", method, r.ranged)
		}
		r.ranged = nil
	}
	if u.called != "" {
		t.Errorf("%s was forwarded", u.called)
	}
}

func TestEveryTransactionThatOnlyReadsIsAnsweredWithoutUpstream(t *testing.T) {
	r := &fakeReads{}
	_, cc := startReading(t, r)
	for name, m := range map[string]*pb.TxnRequest{
		"empty":            {},
		"only a condition": {Compare: []*pb.Compare{fullCompare()}},
		"two branches":     {Success: ops(getOp("a"), getOp("b")), Failure: ops(rangeOp(fullRange()))},
	} {
		if answer, err := invoke(t.Context(), cc, pb.KV_Txn_FullMethodName, marshal(t, m)); err != nil || answer != fromMemory {
			t.Errorf("%s: got %q, %v", name, answer, err)
		}
	}
}

// expectForwarded sends a request that Reads must not see and upstream must see unchanged.
func expectForwarded(t *testing.T, r *fakeReads, u *fakeUpstream, cc *grpc.ClientConn, method string, request []byte, md ...string) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), md...)
	want, wantCall := "upstream", method
	if method == pb.KV_RangeStream_FullMethodName {
		want, wantCall = string(request), "stream "+method
	}
	u.called, u.request, u.session = "", nil, nil
	answer, err := invoke(ctx, cc, method, request)
	if err != nil || answer != want || u.called != wantCall || !bytes.Equal(u.request, request) || u.session == nil {
		t.Errorf("%s: got %q, %v; upstream was asked %q, %x by %p", method, answer, err, u.called, u.request, u.session)
	}
	if r.ranged != nil || r.txn != nil {
		t.Errorf("%s: Reads was asked %+v, %v", method, r.ranged, r.txn)
	}
}

func TestReadsForWhichUpstreamIsNeededAreForwarded(t *testing.T) {
	r := &fakeReads{}
	u, cc := startReading(t, r)
	for name, md := range map[string][]string{
		"leader required": {rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader},
		"uncached":        {"weir-uncached", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range readMethods {
				expectForwarded(t, r, u, cc, method, validRead(t, method), md...)
			}
		})
	}
	for name, md := range map[string][]string{
		"version":             {rpctypes.MetadataClientAPIVersionKey, "3.7"},
		"leader not required": {rpctypes.MetadataRequireLeaderKey, "false"},
		"another key":         {"tokens", "x"},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), md...)
		for _, method := range readMethods {
			if answer, err := invoke(ctx, cc, method, validRead(t, method)); err != nil || answer != fromMemory {
				t.Errorf("%s: %s: got %q, %v", name, method, answer, err)
			}
		}
	}
}

func TestReadsTellWhoAsks(t *testing.T) {
	serverCert, serverCA := selfSigned(t, "server")
	clientCert, clientCA := selfSigned(t, "alice")
	r, u := &fakeReads{}, &fakeUpstream{answer: []byte("upstream")}
	address := startOn(t, NewForwardServer(Config{Logger: quiet()}, u, nil, r), Port{TLS: &tls.Config{
		Certificates: []tls.Certificate{serverCert},
		ClientCAs:    clientCA,
		ClientAuth:   tls.VerifyClientCertIfGiven,
	}})
	certificate := wire.Credentials{CommonName: "alice", HasCertificate: true}
	for _, protos := range [][]string{{"h2"}, {"h2", "http/1.1"}} { // grpc's transport, and net/http's
		for _, c := range []struct {
			certs []tls.Certificate
			md    []string
			want  wire.Credentials
		}{
			{want: wire.Credentials{}},
			{certs: []tls.Certificate{clientCert}, want: certificate},
			{md: []string{"token", "x.1"}, want: wire.Credentials{Token: "x.1", HasToken: true}},
			{md: []string{"authorization", "Bearer x"}, want: wire.Credentials{Token: "x", HasToken: true}},
		} {
			cc := dial(t, address, grpc.WithTransportCredentials(credentials.NewTLS(
				&tls.Config{RootCAs: serverCA, Certificates: c.certs, NextProtos: protos})))
			ctx := metadata.AppendToOutgoingContext(t.Context(), c.md...)
			for _, method := range readMethods {
				*r = fakeReads{}
				if answer, err := invoke(ctx, cc, method, validRead(t, method)); err != nil || answer != fromMemory || r.shown != c.want {
					t.Errorf("%+v with %v: %s: got %q, %v, of %+v", c.want, protos, method, answer, err, r.shown)
				}
			}
		}
	}
}

// What is wrong with them is for upstream to say.
func TestInvalidReadsAreForwarded(t *testing.T) {
	r := &fakeReads{}
	u, cc := startReading(t, r)
	undecodable := []byte{0x0a, 5, 'a'}
	for name, request := range map[string][]byte{
		"undecodable":       undecodable,
		"empty":             {},
		"unknown order":     marshal(t, &pb.RangeRequest{Key: []byte("a"), SortOrder: 3}),
		"unknown target":    marshal(t, &pb.RangeRequest{Key: []byte("a"), SortTarget: 5}),
		"one more field":    marshal(t, withField(&pb.RangeRequest{Key: []byte("a")})),
		"malformed behind ": append(marshal(t, &pb.RangeRequest{Key: []byte("a")}), 0x0a),
	} {
		t.Run("range: "+name, func(t *testing.T) {
			expectForwarded(t, r, u, cc, pb.KV_Range_FullMethodName, request)
			expectForwarded(t, r, u, cc, pb.KV_RangeStream_FullMethodName, request)
		})
	}
	for name, m := range map[string]*pb.RangeRequest{
		"order":  {Key: []byte("a"), SortOrder: pb.RangeRequest_DESCEND},
		"filter": {Key: []byte("a"), MinModRevision: 1},
	} {
		t.Run("stream: "+name, func(t *testing.T) {
			expectForwarded(t, r, u, cc, pb.KV_RangeStream_FullMethodName, marshal(t, m))
		})
	}
	for name, m := range map[string]*pb.TxnRequest{
		"no key":                    {Success: ops(getOp("a"), getOp(""))},
		"no key compared":           {Compare: []*pb.Compare{{}}},
		"operation of nothing":      {Success: ops(&pb.RequestOp{})},
		"unknown order":             {Failure: ops(rangeOp(&pb.RangeRequest{Key: []byte("a"), SortOrder: 3}))},
		"too many operations":       {Success: times(129, func(int) *pb.RequestOp { return getOp("a") })},
		"one more field":            withField(&pb.TxnRequest{Success: ops(getOp("a"))}),
		"one more field in a range": {Success: ops(rangeOp(withField(&pb.RangeRequest{Key: []byte("a")})))},
	} {
		t.Run("transaction: "+name, func(t *testing.T) {
			expectForwarded(t, r, u, cc, pb.KV_Txn_FullMethodName, marshal(t, m))
		})
	}
	expectForwarded(t, r, u, cc, pb.KV_Txn_FullMethodName, undecodable)
}

func TestWritesAreForwarded(t *testing.T) {
	r := &fakeReads{}
	u, cc := startReading(t, r)
	for name, m := range map[string]*pb.TxnRequest{
		"put":                      {Success: ops(putOp("a"))},
		"deletion":                 {Failure: ops(getOp("a"), delOp("a", ""))},
		"nested, even if it reads": {Success: ops(txnOp(ops(getOp("a")), nil))},
	} {
		t.Run(name, func(t *testing.T) {
			expectForwarded(t, r, u, cc, pb.KV_Txn_FullMethodName, marshal(t, m))
		})
	}
	expectForwarded(t, r, u, cc, pb.KV_Put_FullMethodName, marshal(t, &pb.PutRequest{Key: []byte("a")}))
	expectForwarded(t, r, u, cc, pb.KV_Compact_FullMethodName, marshal(t, &pb.CompactionRequest{}))
}

func TestWithoutReadsAllAreForwarded(t *testing.T) {
	u := &fakeUpstream{answer: []byte("upstream")}
	cc := dial(t, start(t, NewForwardServer(Config{Logger: quiet()}, u, nil, nil)))
	for _, method := range readMethods {
		expectForwarded(t, &fakeReads{}, u, cc, method, validRead(t, method))
	}
}

func TestVersionThatIsNotTextIsRefused(t *testing.T) {
	// No Go client sends this, nor could it be forwarded.
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("client-api-version", "\xff"))
	if ok, err := (&sharedReads{}).admit(ctx); ok || err != rpctypes.ErrGRPCInvalidClientAPIVersion {
		t.Errorf("got %v, %v", ok, err)
	}
}

func TestErrorsOfReadsBecomeStatuses(t *testing.T) {
	r := &fakeReads{}
	_, cc := startReading(t, r)
	upstreams := status.Error(codes.ResourceExhausted, "etcdserver: too many requests")
	for _, c := range []struct{ err, want error }{
		{upstreams, upstreams},
		{fmt.Errorf("wrapped: %w", rpctypes.ErrCompacted), rpctypes.ErrGRPCCompacted},
		{context.DeadlineExceeded, status.FromContextError(context.DeadlineExceeded).Err()},
	} {
		r.err = c.err
		for _, method := range readMethods {
			if _, err := invoke(t.Context(), cc, method, validRead(t, method)); status.Code(err) != status.Code(c.want) || errText(err) != errText(c.want) {
				t.Errorf("%s: got %v, want %v", method, err, c.want)
			}
		}
	}
}

func TestStreamGivenToReadsCanBeForwarded(t *testing.T) {
	for name, c := range transports(t) {
		t.Run(name, func(t *testing.T) {
			u, r := &fakeUpstream{}, &fakeReads{}
			end := make(chan error, 1)
			r.stream = func(gs grpc.ServerStream, s *cache.Session) error {
				err := u.Stream(pb.KV_RangeStream_FullMethodName, gs, s)
				end <- gs.RecvMsg(new(wire.Raw))
				return err
			}
			cc := dial(t, startOn(t, NewForwardServer(Config{Logger: quiet()}, u, nil, r), c.port), grpc.WithTransportCredentials(c.client))
			request := validRead(t, pb.KV_RangeStream_FullMethodName)
			answer, err := invoke(t.Context(), cc, pb.KV_RangeStream_FullMethodName, request)
			if err != nil || answer != string(request) || !bytes.Equal(u.request, request) {
				t.Errorf("got %q, %v; upstream received %x", answer, err, u.request)
			}
			if err := <-end; !errors.Is(err, io.EOF) {
				t.Errorf("the request ends with %v", err)
			}
		})
	}
}

func TestReadsAndWritesOfOneConnectionShareASession(t *testing.T) {
	for name, c := range transports(t) {
		t.Run(name, func(t *testing.T) {
			r, u := &fakeReads{}, &fakeUpstream{answer: []byte("upstream")}
			cc := dial(t, startOn(t, NewForwardServer(Config{Logger: quiet()}, u, nil, r), c.port), grpc.WithTransportCredentials(c.client))
			if _, err := invoke(t.Context(), cc, pb.KV_Put_FullMethodName, nil); err != nil || u.session == nil {
				t.Fatalf("put: session %p, %v", u.session, err)
			}
			for _, method := range readMethods {
				r.session = nil
				if _, err := invoke(t.Context(), cc, method, validRead(t, method)); err != nil || r.session != u.session {
					t.Errorf("%s: session %p, want %p; %v", method, r.session, u.session, err)
				}
			}
		})
	}
}
