package client_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/client"
)

func TestAnAnswerThatIsNotOfGRPCFailsItsRPC(t *testing.T) {
	p, s := play(t, client.Config{})
	for _, test := range []struct {
		name   string
		answer func(rpc uint32)
		want   codes.Code
		reset  bool // the answer is a reset, so that nothing may follow
	}{
		{"a status that is no number", func(rpc uint32) { s.headers(rpc, true, ":status", "200", "grpc-status", "x") }, codes.Unknown, false},
		{"a page", func(rpc uint32) {
			s.headers(rpc, false, ":status", "404", "content-type", "text/html")
			s.do(s.WriteData(rpc, true, []byte("<html>")))
		}, codes.Unimplemented, false},
		{"a balancer without servers", func(rpc uint32) { s.headers(rpc, true, ":status", "503") }, codes.Unavailable, false},
		{"a teapot", func(rpc uint32) { s.headers(rpc, true, ":status", "418") }, codes.Unknown, false},
		{"messages without a status", func(rpc uint32) {
			s.headers(rpc, false, ":status", "200", "content-type", "application/grpc")
			s.do(s.WriteData(rpc, true, nil))
		}, codes.Internal, false},
		{"reset", func(rpc uint32) { s.do(s.WriteRSTStream(rpc, http2.ErrCodeInternal)) }, codes.Internal, true},
		{"canceled", func(rpc uint32) { s.do(s.WriteRSTStream(rpc, http2.ErrCodeCancel)) }, codes.Canceled, true},
		{"refused", func(rpc uint32) { s.do(s.WriteRSTStream(rpc, http2.ErrCodeRefusedStream)) }, codes.Unavailable, true},
		{"too much", func(rpc uint32) { s.do(s.WriteRSTStream(rpc, http2.ErrCodeEnhanceYourCalm)) }, codes.ResourceExhausted, true},
	} {
		rpc := p.open(echo)
		p.send(rpc, "x")
		s.expectData(rpc, 6, false)
		test.answer(rpc)
		e := p.next()
		if e.rpc != rpc || !e.ended || status.Code(e.err) != test.want {
			t.Errorf("%s: %+v came, want the end with %v", test.name, e, test.want)
		}
		if why := new(client.StatusError); !errors.As(e.err, &why) || why.Said {
			t.Errorf("%s: it counts as said by a server of gRPC: %+v", test.name, e.err)
		}
		if !test.reset {
			s.expectReset(rpc, http2.ErrCodeNo)
		}
		s.expectNothing()
	}
}

func TestAStatusMayComeInManyFrames(t *testing.T) {
	p, s := play(t, client.Config{})
	for _, reason := range []string{"short", strings.Repeat("long ", 10_000)} {
		rpc := p.open(echo)
		p.send(rpc, "x")
		s.expectData(rpc, 6, false)
		s.buf.Reset()
		for _, f := range []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "grpc-status", Value: "5"}, {Name: "grpc-message", Value: reason}} {
			if err := s.enc.WriteField(f); err != nil {
				t.Fatal(err)
			}
		}
		first, rest := s.buf.Next(7), s.buf.Len()
		s.do(s.WriteHeaders(http2.HeadersFrameParam{StreamID: rpc, BlockFragment: first, EndStream: true}))
		for rest > 0 {
			part := s.buf.Next(min(16<<10, 1+rest/2))
			rest -= len(part)
			s.do(s.WriteContinuation(rpc, rest == 0, part))
		}
		e := p.next()
		if got := status.Convert(e.err); e.rpc != rpc || got.Code() != codes.NotFound || got.Message() != reason {
			t.Errorf("%.100v came", e)
		}
		if why := new(client.StatusError); !errors.As(e.err, &why) || !why.Said {
			t.Error("a status of gRPC does not count as said")
		}
	}
}

// A server that has ended an RPC before it has read all of it waits for no more, and is told so.
func TestWhatWaitsIsGivenUpWhenTheServerEndsTheRPC(t *testing.T) {
	p, s := play(t, client.Config{}, initialWindow(10))
	rpc, err := p.Call(echo, make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	p.flush()
	s.expectData(rpc, 10, false)
	s.headers(rpc, true, ":status", "200", "grpc-status", "8", "grpc-message", "too%20large%")
	e := p.next()
	if e.rpc != rpc || status.Code(e.err) != codes.ResourceExhausted || status.Convert(e.err).Message() != "too%20large%" {
		t.Errorf("%+v came", e)
	}
	s.expectReset(rpc, http2.ErrCodeNo)
	s.do(s.WriteWindowUpdate(rpc, 1000))
	s.expectNothing()

	if rpc, err = p.Call(echo, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	p.flush()
	s.expectData(rpc, 10, true)
	s.headers(rpc, true, ":status", "200", "grpc-status", "0")
	p.expect(event{rpc: rpc, ended: true})
	s.expectNothing() // as it has read all
}

func TestTheEndOfAConnectionSaysWhy(t *testing.T) {
	header := func(s *script, rpc uint32) { s.headers(rpc, false, ":status", "200") }
	for _, test := range []struct {
		name, want string
		play       func(s *script, rpc uint32)
	}{
		{"GOAWAY", `ENHANCE_YOUR_CALM "too_many_pings"`, func(s *script, _ uint32) {
			s.do(s.WriteGoAway(1, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
		}},
		{"closed", "EOF", func(s *script, _ uint32) { s.do(s.nc.Close()) }},
		{"no frame", "read", func(s *script, _ uint32) { s.do(s.WriteRawFrame(http2.FrameSettings, 0, 1, []byte("x"))) }},
		{"compressed", "compressed", func(s *script, rpc uint32) {
			header(s, rpc)
			s.do(s.WriteData(rpc, false, []byte{1, 0, 0, 0, 0}))
		}},
		{"half a message", "within a message", func(s *script, rpc uint32) {
			header(s, rpc)
			s.do(s.WriteData(rpc, false, []byte{0, 0, 0, 0, 2, 'x'}))
			s.headers(rpc, true, "grpc-status", "0")
		}},
		{"data first", "without headers", func(s *script, rpc uint32) { s.do(s.WriteData(rpc, false, []byte{0})) }},
		{"headers again", "twice", func(s *script, rpc uint32) { header(s, rpc); header(s, rpc) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, s := play(t, client.Config{})
			rpc := p.open(echo)
			p.send(rpc, "x")
			s.expectData(rpc, 6, false)
			test.play(s, rpc)
			err := <-p.ended
			p.ended <- err
			if !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("%v, want it to have %q", err, test.want)
			}
		})
	}
}

// The handler resets the RPC of a message that comes with the end of the RPC, and of one after which more would be allowed.
func TestAHandlerMayResetTheRPCOfItsMessage(t *testing.T) {
	for _, last := range []bool{false, true} {
		p, s := play(t, client.Config{StreamWindow: 10})
		p.resets = "enough"
		rpc := p.open(echo)
		p.send(rpc, "x")
		s.expectData(rpc, 6, false)
		s.headers(rpc, false, ":status", "200")
		s.do(s.WriteData(rpc, last, []byte("\x00\x00\x00\x00\x06enough")))
		p.expect(event{rpc: rpc, message: "enough"})
		s.expectReset(rpc, http2.ErrCodeCancel)
		s.headers(rpc, true, ":status", "200", "grpc-status", "0") // on its way when the reset came
		s.expectNothing()
		if len(p.came) > 0 {
			t.Errorf("%v came of an RPC that was reset", <-p.came)
		}
	}
}

func TestHalfAMessageOfAnRPCThatFailsDoesNotSpoilTheNext(t *testing.T) {
	p, s := play(t, client.Config{})
	for range 2 {
		failed := p.open(echo)
		p.send(failed, "x")
		s.expectData(failed, 6, false)
		s.headers(failed, false, ":status", "200")
		s.do(s.WriteData(failed, false, []byte("\x00\x00\x00\x00\x06hal")))
		s.headers(failed, true, "grpc-status", "14")
		if e := p.next(); e.rpc != failed || status.Code(e.err) != codes.Unavailable {
			t.Errorf("%+v came", e)
		}
		s.expectReset(failed, http2.ErrCodeNo)

		next := p.open(echo)
		p.send(next, "x")
		s.expectData(next, 6, false)
		s.headers(next, false, ":status", "200")
		s.do(s.WriteData(next, false, []byte("\x00\x00\x00\x00\x05whole")))
		p.expect(event{rpc: next, message: "whole"})
		s.headers(next, true, "grpc-status", "0")
		p.expect(event{rpc: next, ended: true})
		s.expectReset(next, http2.ErrCodeNo)
	}
}
