package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/client"
)

// overEach runs a test with a connection in plaintext, and one over TLS.
func overEach(t *testing.T, test func(t *testing.T, p *peer)) {
	for _, withTLS := range []bool{false, true} {
		name := map[bool]string{false: "plaintext", true: "TLS"}[withTLS]
		t.Run(name, func(t *testing.T) {
			s := serve(t, withTLS)
			test(t, dial(t, s.addr, client.Config{TLS: s.tls}))
		})
	}
}

// The sizes are more than a frame, and together more than all windows.
func TestMessagesArriveWholeWhateverTheirSize(t *testing.T) {
	const stream, conn = 1 << 20, 16 << 20
	want := []int{0, 1, 100, 16 << 10, 16<<10 - 5, stream - 1, 1, 3 * stream, conn, 2}
	list := strings.Trim(fmt.Sprint(want), "[]")
	overEach(t, func(t *testing.T, p *peer) {
		letters, got := map[uint32]string{}, map[uint32]int{}
		for _, letter := range []string{"a", "b", "c"} {
			rpc := p.open(sizes)
			letters[rpc] = letter
			p.send(rpc, letter+" "+list)
		}
		for range len(letters) * len(want) {
			e := p.next()
			if size := want[got[e.rpc]]; e.ended || e.message != strings.Repeat(letters[e.rpc], size) {
				t.Fatalf("%d bytes came as message %d of %q, ended: %v, want %d", len(e.message), got[e.rpc], letters[e.rpc], e.ended, size)
			}
			got[e.rpc]++
		}
	})
}

func TestManyRPCsOfSeveralMethodsShareAConnection(t *testing.T) {
	overEach(t, func(t *testing.T, p *peer) {
		const n = 3000
		want := map[uint32]string{}
		for i := range n {
			m, request := []client.Method{echo, size, fail}[i%3], fmt.Sprintf("%0*d", i%40, i)
			rpc, err := p.Call(m, []byte(request))
			if err != nil {
				t.Fatal(err)
			}
			want[rpc] = map[client.Method]string{echo: request, size: fmt.Sprint(len(request)), fail: "failed with " + request}[m]
		}
		p.flush()
		got := map[uint32]string{}
		for ended := 0; ended < n; {
			e := p.next()
			if got[e.rpc] += e.message; !e.ended {
				continue
			}
			ended++
			var failed *client.StatusError
			if errors.As(e.err, &failed) {
				got[e.rpc] += "failed with " + failed.Message
			}
			if got[e.rpc] != want[e.rpc] {
				t.Errorf("RPC %d was answered with %q, want %q", e.rpc, got[e.rpc], want[e.rpc])
			}
			delete(got, e.rpc)
			delete(want, e.rpc)
		}
	})
}

// A server of grpc-go begins with windows of 64 KiB.
func TestARequestLargerThanAllWindowsArrivesWhole(t *testing.T) {
	overEach(t, func(t *testing.T, p *peer) {
		want := map[uint32]string{}
		for _, n := range []int{1 << 20, 10, 65535 - 5, 65535, 8 << 20} {
			rpc, err := p.Call(size, make([]byte, n))
			if err != nil {
				t.Fatal(err)
			}
			want[rpc] = fmt.Sprint(n)
		}
		stream := p.open(echo)
		messages := []string{strings.Repeat("a", 300<<10), "b", strings.Repeat("c", 200<<10)}
		for _, m := range messages {
			p.send(stream, m)
		}
		if err := p.CloseSend(stream); err != nil {
			t.Fatal(err)
		}
		for len(want) > 0 || messages != nil {
			switch e := p.next(); {
			case e.err != nil:
				t.Fatal(e.err)
			case e.rpc == stream && e.ended && len(messages) == 0:
				messages = nil
			case e.rpc == stream && !e.ended && e.message == messages[0]:
				messages = messages[1:]
			case e.rpc == stream:
				t.Fatalf("%d bytes came, ended: %v, with %d messages to come", len(e.message), e.ended, len(messages))
			case e.ended:
				delete(want, e.rpc)
			case e.message != want[e.rpc]:
				t.Errorf("%s bytes came, want %s", e.message, want[e.rpc])
			}
		}
	})
}

func TestAnRPCThatFailsEndsWithItsStatus(t *testing.T) {
	overEach(t, func(t *testing.T, p *peer) {
		for _, reason := range []string{"", "etcdserver: no", "100 %, 50 %25, ü and a\nnew line"} {
			_, err := p.call(fail, reason)
			var failed *client.StatusError
			if !errors.As(err, &failed) || *failed != (client.StatusError{Code: codes.FailedPrecondition, Message: reason, Said: true}) {
				t.Errorf("an RPC that fails with %q ended with %#v", reason, err)
			}
			if got := status.Convert(err); got.Code() != codes.FailedPrecondition || got.Message() != reason {
				t.Errorf("an RPC that fails with %q has for grpc-go the status %v", reason, got)
			}
		}
		if _, err := p.call("/test.Service/Other", "x"); status.Code(err) != codes.Unimplemented {
			t.Errorf("an RPC that the server does not know ended with %v", err)
		}
		if answer, err := p.call(echo, "on"); answer != "on" || err != nil {
			t.Errorf("after RPCs that failed came %q, %v", answer, err)
		}
	})
}

// A token of etcd is a few bytes, or a JWT; the last one is larger than the table in which headers are kept.
func TestTheTokenComesWithEveryRPC(t *testing.T) {
	s := serve(t, false)
	for _, given := range []string{"", "abc.12", strings.Repeat("j", 3000), strings.Repeat("w", 8<<10)} {
		p := dial(t, s.addr, client.Config{Token: given})
		for i := range 6 {
			if _, err := p.call([]client.Method{echo, size}[i%2], "other methods between"); err != nil {
				t.Fatal(err)
			}
			if got, err := p.call(token, ""); got != "<"+given+">" || err != nil {
				t.Errorf("for %.10q came %.10q, %v", given, got, err)
			}
		}
	}
	if _, err := client.Dial(t.Context(), s.addr, client.Config{Token: strings.Repeat("w", 8<<10+1)}, nil); err == nil {
		t.Error("a token that does not fit a frame is no error")
	}
}

// What waits of all of them together is more than may wait.
func TestNothingComesOfAnRPCThatWasReset(t *testing.T) {
	s := serve(t, false)
	p := dial(t, s.addr, client.Config{})
	large := strings.Repeat("x", 16<<20)
	const n = 5
	for range n {
		rpc := p.open(stall)
		p.send(rpc, large)
		if err := p.Reset(rpc); err != nil {
			t.Fatal(err)
		}
		p.send(rpc, "goes nowhere")
		if err := errors.Join(p.CloseSend(rpc), p.Reset(rpc)); err != nil {
			t.Error(err)
		}
	}
	if answer, err := p.call(echo, "on"); answer != "on" || err != nil {
		t.Errorf("%q came, %v", answer, err)
	}
	rpc := p.open(stall)
	p.send(rpc, "x")
	if answer, err := p.call(echo, "on"); answer != "on" || err != nil { // so the server has the RPC
		t.Errorf("%q came, %v", answer, err)
	}
	if err := p.Reset(rpc); err != nil {
		t.Fatal(err)
	}
	<-s.unstalled
	if len(p.came) > 0 {
		t.Errorf("%v came", <-p.came)
	}
}

func TestAnRPCThatTheServerRefusesEndsAlone(t *testing.T) {
	s := serve(t, false, grpc.MaxConcurrentStreams(2))
	p := dial(t, s.addr, client.Config{})
	stream := p.open(echo)
	p.send(stream, "first")
	p.expect(event{rpc: stream, message: "first"})
	p.send(p.open(stall), "second")
	for range 3 {
		if _, err := p.call(echo, "one too many"); status.Code(err) != codes.Unavailable {
			t.Errorf("an RPC that was refused ended with %v", err)
		}
	}
	p.send(stream, "again")
	p.expect(event{rpc: stream, message: "again"})
}

func TestAnRPCThatTheServerDoesNotReadHoldsUpOnlyItself(t *testing.T) {
	p := dial(t, serve(t, false).addr, client.Config{})
	rpc := p.open(stall)
	large := make([]byte, 16<<20-5)
	for i := range 4 {
		if err := p.Send(rpc, large); err != nil {
			t.Fatal(i, err)
		}
		if answer, err := p.call(echo, "on"); answer != "on" || err != nil {
			t.Fatalf("beside an RPC that waits came %q, %v", answer, err)
		}
	}
	if err := p.Send(rpc, large); err == nil {
		t.Error("80 MiB wait for the server, want an error")
	}
}

func TestASlowReaderHoldsUpOnlyItself(t *testing.T) {
	s := serve(t, false)
	const messages, length = 300, 100 << 10
	request := "x" + strings.Repeat(fmt.Sprint(" ", length), messages)
	slow := &peer{tb: t, came: make(chan event, messages), ended: make(chan error, 1)}
	var err error
	if slow.Conn, err = client.Dial(t.Context(), s.addr, client.Config{StreamWindow: 1000, ConnWindow: 65535}, slow); err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	late := slow.open(sizes)
	slow.send(late, request)

	fast := dial(t, s.addr, client.Config{})
	fast.send(fast.open(sizes), request)
	for range messages {
		if e := fast.next(); len(e.message) != length {
			t.Fatalf("%d bytes came, %v", len(e.message), e.err)
		}
	}
	if n := s.sized.Load(); n >= 2*messages {
		t.Errorf("the server could send %d messages, %d of them to who does not read", n, n-messages)
	}
	go func() { slow.ended <- slow.Read(func() {}) }()
	for range messages {
		if e := slow.next(); len(e.message) != length {
			t.Fatalf("%d bytes came late, %v", len(e.message), e.err)
		}
	}
	if err := slow.Close(); err != nil {
		t.Error(err)
	}
	if err := <-slow.ended; err == nil {
		t.Error("the reader ended without an error")
	}
}

func TestAWindowThatCannotBeIsAnError(t *testing.T) {
	for _, config := range []client.Config{{ConnWindow: 65534}, {ConnWindow: 1 << 31}, {StreamWindow: -1}, {StreamWindow: 1 << 31}} {
		if _, err := client.Dial(context.Background(), "127.0.0.1:1", config, nil); err == nil || !strings.Contains(err.Error(), "window") {
			t.Errorf("with %+v: %v", config, err)
		}
	}
}

func TestACallAfterCloseIsAnError(t *testing.T) {
	p := dial(t, serve(t, false).addr, client.Config{})
	if _, err := p.call(echo, "x"); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := p.Call(echo, []byte("x"))
	if err = errors.Join(err, p.Flush()); err == nil {
		t.Error("no error")
	}
}
