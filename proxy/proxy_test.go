package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// call makes a unary call or one by a stream, so that both paths are held to the same.
func call(ctx context.Context, conn *grpc.ClientConn, stream bool, req string) (resp string, header, trailer metadata.MD, err error) {
	if !stream {
		var m wire.Raw
		err = conn.Invoke(ctx, unaryMethod, wire.Raw(req), &m, grpc.Header(&header), grpc.Trailer(&trailer))
		return string(m), header, trailer, err
	}
	s, err := conn.NewStream(ctx, &anyStream, streamMethod)
	if err != nil {
		return "", nil, nil, err
	}
	if err := s.SendMsg(wire.Raw(req)); endOf(err) != nil { // EOF: answered already
		return "", nil, nil, err
	}
	if err := s.CloseSend(); err != nil {
		return "", nil, nil, err
	}
	header, _ = s.Header()
	var m, end wire.Raw
	if err = s.RecvMsg(&m); err == nil {
		err = endOf(s.RecvMsg(&end))
	}
	return string(m), header, s.Trailer(), endOf(err)
}

func bothPaths(t *testing.T, f func(t *testing.T, stream bool)) {
	t.Run("unary", func(t *testing.T) { f(t, false) })
	t.Run("stream", func(t *testing.T) { f(t, true) })
}

func TestMetadataAndDeadlinePassUnchanged(t *testing.T) {
	bothPaths(t, func(t *testing.T, stream bool) {
		arrived := make(chan metadata.MD, 1)
		deadlines := make(chan time.Time, 1)
		conn := through(t, func(s grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(s.Context())
			deadline, _ := s.Context().Deadline()
			arrived <- md
			deadlines <- deadline
			if err := s.SetHeader(metadata.Pairs("h", "1", "h", "2", "h-bin", "\x00\xff")); err != nil {
				return err
			}
			s.SetTrailer(metadata.Pairs("t", "3", "t-bin", "\xfe"))
			return echo(s)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx,
			"token", "secret", "hasleader", "true", "k", "1", "k", "2", "k-bin", "\x00\x01", "keep-alive", "x")
		resp, header, trailer, err := call(ctx, conn, stream, "hello")
		if err != nil || resp != "hello" {
			t.Fatalf("got %q, %v", resp, err)
		}
		md := <-arrived
		for key, want := range map[string][]string{
			"token": {"secret"}, "hasleader": {"true"}, "k": {"1", "2"}, "k-bin": {"\x00\x01"},
			"keep-alive": nil, "grpc-accept-encoding": md["grpc-accept-encoding"],
		} {
			if !slices.Equal(md[key], want) {
				t.Errorf("%s arrived as %q", key, md[key])
			}
		}
		if n := len(md["user-agent"]); n != 1 {
			t.Errorf("%d user agents arrived", n)
		}
		if left := time.Until(<-deadlines); left <= 0 || left > time.Hour {
			t.Errorf("the deadline arrived as %v", left)
		}
		if got := fmt.Sprintf("%q %q", header["h"], header["h-bin"]); got != `["1" "2"] ["\x00\xff"]` {
			t.Errorf("header came back as %s", got)
		}
		if got := fmt.Sprintf("%q %q", trailer["t"], trailer["t-bin"]); got != `["3"] ["\xfe"]` {
			t.Errorf("trailer came back as %s", got)
		}
		if n := len(header["content-type"]); n != 1 {
			t.Errorf("%d content types came back", n)
		}
	})
}

func TestErrorsPassWithDetailsAndTrailer(t *testing.T) {
	want, err := status.New(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted").
		WithDetails(&errdetails.ErrorInfo{Reason: "why", Domain: "test"})
	if err != nil {
		t.Fatal(err)
	}
	bothPaths(t, func(t *testing.T, stream bool) {
		conn := through(t, func(s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("t", "3"))
			return want.Err()
		})
		_, _, trailer, err := call(t.Context(), conn, stream, "")
		got := status.Convert(err)
		if got.Proto().String() != want.Proto().String() {
			t.Errorf("got %v, want %v", got.Proto(), want.Proto())
		}
		if !slices.Equal(trailer["t"], []string{"3"}) {
			t.Errorf("got trailer %v", trailer)
		}
	})
}

func TestDeadlineOfTheClientEndsTheCall(t *testing.T) {
	bothPaths(t, func(t *testing.T, stream bool) {
		conn := through(t, func(s grpc.ServerStream) error {
			<-s.Context().Done()
			return s.Context().Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, _, _, err := call(ctx, conn, stream, ""); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
	})
}

func TestCancelledClientCancelsUpstream(t *testing.T) {
	bothPaths(t, func(t *testing.T, stream bool) {
		started, ended := make(chan struct{}), make(chan struct{})
		conn := through(t, func(s grpc.ServerStream) error {
			close(started)
			<-s.Context().Done()
			close(ended)
			return s.Context().Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-started
			cancel()
		}()
		if _, _, _, err := call(ctx, conn, stream, ""); status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
		<-ended
	})
}

func TestMessagesOfAStreamPassInBothDirections(t *testing.T) {
	s := open(t, t.Context(), through(t, echo))
	for i := range 100 {
		m := strings.Repeat("x", i*100)
		send(t, s, m)
		if got := receive(t, s); got != m {
			t.Fatalf("message %d came back with %d bytes", i, len(got))
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var m wire.Raw
	if err := s.RecvMsg(&m); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

func TestHalfClosePassesAndAnswersGoOn(t *testing.T) {
	conn := through(t, func(s grpc.ServerStream) error {
		n := 0
		for {
			var m wire.Raw
			err := s.RecvMsg(&m)
			if err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			n++
		}
		for range n {
			if err := s.SendMsg(wire.Raw("late")); err != nil {
				return err
			}
		}
		return nil
	})
	s := open(t, t.Context(), conn)
	for range 3 {
		send(t, s, "x")
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := receive(t, s); got != "late" {
			t.Errorf("got %q", got)
		}
	}
	var m wire.Raw
	if err := s.RecvMsg(&m); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

func TestHeaderComesBeforeTheFirstMessage(t *testing.T) {
	seen := make(chan struct{})
	conn := through(t, func(s grpc.ServerStream) error {
		if err := s.SendHeader(metadata.Pairs("h", "early")); err != nil {
			return err
		}
		<-seen
		return s.SendMsg(wire.Raw("message"))
	})
	s := open(t, t.Context(), conn)
	header, err := s.Header()
	if err != nil || !slices.Equal(header["h"], []string{"early"}) {
		t.Errorf("got %v, %v", header, err)
	}
	close(seen)
	receive(t, s)
}

func TestUpstreamEndsAStreamThatTheClientKeepsOpen(t *testing.T) {
	for _, end := range []error{nil, status.Error(codes.Unavailable, "etcdserver: no leader")} {
		conn := through(t, func(s grpc.ServerStream) error {
			if err := s.SendMsg(wire.Raw("last")); err != nil {
				return err
			}
			return end
		})
		s := open(t, t.Context(), conn)
		receive(t, s)
		var m wire.Raw
		err := s.RecvMsg(&m)
		if end == nil && err != io.EOF || end != nil && err.Error() != end.Error() {
			t.Errorf("got %v, want %v", err, end)
		}
	}
}

// pipe is both ends of a stream for the pumps, without gRPC. in is what can be received.
type pipe struct {
	grpc.ServerStream
	grpc.ClientStream
	in   chan string
	send func(string) error
}

func (p *pipe) RecvMsg(m any) error {
	s, ok := <-p.in
	if !ok {
		return io.EOF
	}
	*m.(*wire.Raw) = wire.Raw(s)
	return nil
}

func (p *pipe) SendMsg(m any) error { return p.send(string(m.(wire.Raw))) }

func (p *pipe) Header() (metadata.MD, error) { return nil, nil }

func (p *pipe) Context() context.Context { return context.Background() }

func (p *pipe) SetTrailer(metadata.MD) {}

func (p *pipe) Trailer() metadata.MD { return nil }

// The rest is gRPC's flow control: what is not received is not sent.
func TestNothingIsReadAheadOfASlowReceiver(t *testing.T) {
	in := make(chan string, 10)
	for i := range cap(in) {
		in <- fmt.Sprint(i)
	}
	close(in)
	sent := 0
	receiver := &pipe{send: func(m string) error {
		if want := cap(in) - sent - 1; len(in) != want || m != fmt.Sprint(sent) {
			t.Errorf("while %s is sent, %d are unread, want %d", m, len(in), want)
		}
		sent++
		return nil
	}}
	if err := pumpResponses(&pipe{in: in}, receiver, func(wire.Raw) {}); err != nil || sent != cap(in) {
		t.Errorf("sent %d, then %v", sent, err)
	}
}

// gRPC makes the windows of a fast connection larger and larger, up to 16 MiB for each stream, read from or not. Those
// of the proxy must not grow with it.
func TestUnreadStreamsOfAFastConnectionPinLittle(t *testing.T) {
	const (
		message  = 32 << 10
		streams  = 20
		warmUp   = 128 << 20 / message
		tooMuch  = 1 << 20 // windows and buffers on the way from upstream to client are less than half of it
		readMode = "read"
	)
	var unread atomic.Int64                    // the most that a stream nobody reads has been given
	l, err := net.Listen("tcp", "127.0.0.1:0") // pipes are never fast enough
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, func(s grpc.ServerStream) error {
		mode := receive(t, s)
		data := wire.Raw(make([]byte, message))
		for sent := int64(message); ; sent += message {
			if err := s.SendMsg(data); err != nil {
				return nil // the test is over
			}
			if mode != readMode && sent > unread.Load() {
				unread.Store(sent)
			}
		}
	})
	conn := front(t, newProxy(t, Config{Endpoints: []string{l.Addr().String()}}))
	var readers [32]grpc.ClientStream // of one stream the windows grow slowly
	for i := range readers {
		readers[i] = open(t, t.Context(), conn)
		send(t, readers[i], readMode)
	}
	read := func() {
		for range warmUp / len(readers) {
			for _, r := range readers {
				receive(t, r)
			}
		}
	}
	read()
	for range streams {
		send(t, open(t, t.Context(), conn), "do not read")
	}
	read() // while this goes on the others get all that they can
	if got := unread.Load(); got == 0 || got > tooMuch {
		t.Errorf("an unread stream was given %d bytes", got)
	}
}
