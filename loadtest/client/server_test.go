package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/client"
	"weir/loadtest/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The methods of the test's service. None but fail and sizes depends on what is asked.
const (
	echo  client.Method = "/test.Service/Echo"  // each message is answered with itself
	size  client.Method = "/test.Service/Size"  // one message, its length is the answer
	sizes client.Method = "/test.Service/Sizes" // a message with numbers, each is answered with so many bytes of the first letter
	fail  client.Method = "/test.Service/Fail"  // ends with the message as reason, before an answer
	stall client.Method = "/test.Service/Stall" // reads nothing, ends with the RPC
	token client.Method = "/test.Service/Token" // answers with what the metadata has, each in <>
)

// service is a server of grpc-go that answers the methods above.
type service struct {
	addr        string
	tls         *tls.Config     // of clients; nil for plaintext
	certificate tls.Certificate // with tls
	*grpc.Server
	sized     atomic.Int64  // messages that sizes has sent
	unstalled chan struct{} // a value for each RPC of stall that has ended
}

// raw leaves messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(b mem.BufferSlice, v any) error { *v.(*[]byte) = b.Materialize(); return nil }

var _ encoding.CodecV2 = raw{}

func serve(tb testing.TB, withTLS bool, options ...grpc.ServerOption) *service {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &service{addr: listener.Addr().String(), unstalled: make(chan struct{}, 100)}
	options = append(options, grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(s.handle), grpc.MaxRecvMsgSize(1<<30))
	if withTLS {
		files, err := target.NewTLS(tb.TempDir())
		if err != nil {
			tb.Fatal(err)
		}
		if s.certificate, err = tls.LoadX509KeyPair(files.CertFile, files.KeyFile); err != nil {
			tb.Fatal(err)
		}
		s.tls = files.Client
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&s.certificate)))
	}
	s.Server = grpc.NewServer(options...)
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	tb.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return s
}

func (s *service) handle(_ any, stream grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(stream)
	switch client.Method(name) {
	case stall:
		<-stream.Context().Done()
		s.unstalled <- struct{}{}
		return stream.Context().Err()
	case token:
		return stream.SendMsg(fmt.Appendf(nil, "<%s>", strings.Join(metadata.ValueFromIncomingContext(stream.Context(), "token"), "><")))
	}
	for {
		var m []byte
		switch err := stream.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := s.answer(stream, client.Method(name), m); err != nil {
			return err
		}
	}
}

func (s *service) answer(stream grpc.ServerStream, method client.Method, m []byte) error {
	switch method {
	case echo:
		return stream.SendMsg(m)
	case size:
		return stream.SendMsg(fmt.Append(nil, len(m)))
	case fail:
		return status.Error(codes.FailedPrecondition, string(m))
	case sizes:
		letter, list, _ := strings.Cut(string(m), " ")
		for n := range strings.FieldsSeq(list) {
			var size int
			if _, err := fmt.Sscan(n, &size); err != nil {
				return err
			}
			if err := stream.SendMsg([]byte(strings.Repeat(letter, size))); err != nil {
				return err
			}
			s.sized.Add(1)
		}
		return nil
	default:
		return status.Errorf(codes.Unimplemented, "no %s", method)
	}
}

// event is what a handler was given: a message, or the end of an RPC.
type event struct {
	rpc     uint32
	message string
	ended   bool
	err     error
}

// peer is a connection and what came on it.
type peer struct {
	*client.Conn
	tb     testing.TB
	came   chan event
	ended  chan error // has Read's error when it returned
	resets string     // the RPC of such a message is reset, unless it is empty
}

func (p *peer) Message(rpc uint32, m []byte) error {
	p.came <- event{rpc: rpc, message: string(m)}
	if p.resets != "" && string(m) == p.resets {
		return p.Reset(rpc)
	}
	return nil
}

func (p *peer) End(rpc uint32, err error) error {
	p.came <- event{rpc: rpc, ended: true, err: err}
	return nil
}

// dial connects, and closes the connection when the test ends. As many events may come before somebody looks as the channel takes.
func dial(tb testing.TB, addr string, config client.Config) *peer {
	tb.Helper()
	p := &peer{tb: tb, came: make(chan event, 10_000), ended: make(chan error, 1)}
	var err error
	if p.Conn, err = client.Dial(context.Background(), addr, config, p); err != nil {
		tb.Fatal(err)
	}
	go func() { p.ended <- p.Read(func() {}) }()
	tb.Cleanup(func() {
		_ = p.Close()
		if err := <-p.ended; err == nil {
			tb.Error("the reader of a connection ended without an error")
		}
	})
	return p
}

// next is what comes next.
func (p *peer) next() event {
	p.tb.Helper()
	select {
	case e := <-p.came:
		return e
	case err := <-p.ended:
		p.ended <- err
		p.tb.Fatalf("the connection ended: %v", err)
	}
	panic("unreachable")
}

// expect is that so comes next.
func (p *peer) expect(want event) {
	p.tb.Helper()
	if got := p.next(); got != want {
		p.tb.Fatalf("%.100v came, want %.100v", got, want)
	}
}

// call has a request sent and returns what its RPC was answered with, and how it ended. Nothing else may be under way.
func (p *peer) call(m client.Method, request string) (string, error) {
	p.tb.Helper()
	if _, err := p.Call(m, []byte(request)); err != nil {
		p.tb.Fatal(err)
	}
	p.flush()
	answer := ""
	for {
		e := p.next()
		if e.ended {
			return answer, e.err
		}
		answer += e.message
	}
}

// open starts an RPC.
func (p *peer) open(m client.Method) uint32 {
	p.tb.Helper()
	rpc, err := p.Open(m)
	if err != nil {
		p.tb.Fatal(err)
	}
	return rpc
}

func (p *peer) send(rpc uint32, m string) {
	p.tb.Helper()
	if err := p.Send(rpc, []byte(m)); err != nil {
		p.tb.Fatal(err)
	}
}

func (p *peer) flush() {
	p.tb.Helper()
	if err := p.Flush(); err != nil {
		p.tb.Fatal(err)
	}
}
