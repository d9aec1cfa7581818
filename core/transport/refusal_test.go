package transport

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// wantRefused has a try to reach b until it has been refused several times, and checks that it has said so once on each channel.
func wantRefused(t *testing.T, a *member, words ...string) {
	t.Helper()
	next(t, a.unreachable)
	until(t, func() bool { return a.cables.attempts() > 8 })
	until(t, func() bool { return a.logs.count(words...) == 2 })
	if n := a.logs.count("no connection to a peer"); n != 2 {
		t.Errorf("%d lines about it, want one on each channel", n)
	}
	if !a.ActiveSince(2).IsZero() {
		t.Error("they are connected")
	}
}

func TestMemberOfAnotherClusterIsRefused(t *testing.T) {
	a := start(t, 1, func(o *memberOptions) { o.cfg.ClusterID = 0xbad })
	b := start(t, 2)
	connect(a, b)
	wantRefused(t, a, "is of cluster c1, but called by one of cluster bad")
	if len(a.removed) > 0 {
		t.Error("it was told that it was removed")
	}
}

func TestMemberWithAnotherIDIsRefused(t *testing.T) {
	a, b := start(t, 1), start(t, 3)
	a.SetPeers(map[uint64][]string{2: {b.url}})
	wantRefused(t, a, "this is member 3, but called as 2 by 1")
}

func TestMemberThatIsRemovedIsToldSo(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	a.active(t, b)
	b.remove(1)
	b.SetPeers(map[uint64][]string{2: {b.url}})
	if by := next(t, a.removed); by != 2 {
		t.Errorf("told by %d", by)
	}
	until(t, func() bool { return a.logs.count("member 1 was removed from the cluster") == 2 })
	if !a.ActiveSince(2).IsZero() {
		t.Error("they are connected")
	}
}

func TestMemberThatWasRemovedIsToldSoWhenItComesBack(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	b.remove(1)
	connect(a)
	a.SetPeers(map[uint64][]string{2: {b.url}})
	if by := next(t, a.removed); by != 2 {
		t.Errorf("told by %d", by)
	}
	wantRefused(t, a, "member 1 was removed from the cluster")
}

func TestProtocolThatIsNotSpokenIsRefusedByName(t *testing.T) {
	b := start(t, 2)
	ctx := rawContext(t, 1, b)
	md, _ := metadata.FromOutgoingContext(ctx)
	md.Set(keyProtocol, "7-9")
	s := rawStream(metadata.NewOutgoingContext(ctx, md), t, b, &messagesDesc)
	trailer, err := s.end()
	if one(trailer, keyRefusal) != string(otherProtocol) {
		t.Errorf("got %v with %v", err, trailer)
	}
}

func TestWhatIsNoWeirMemberIsSaidToBeNone(t *testing.T) {
	web := http.NewServeMux()
	overHTTP2 := new(http.Protocols)
	overHTTP2.SetUnencryptedHTTP2(true)
	for name, serve := range map[string]func(net.Listener) (stop func()){
		"gRPC without the service": func(l net.Listener) func() {
			s := grpc.NewServer()
			go func() { _ = s.Serve(l) }()
			return s.Stop
		},
		"HTTP/1": func(l net.Listener) func() {
			s := httptest.NewUnstartedServer(web)
			s.Listener.Close()
			s.Listener = l
			s.Start()
			return s.Close
		},
		"HTTP/2": func(l net.Listener) func() {
			s := &http.Server{Handler: web, Protocols: overHTTP2}
			go func() { _ = s.Serve(l) }()
			return func() { s.Close() }
		},
		"something else": func(l net.Listener) func() {
			s := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }))
			go func() { _ = s.Serve(l) }()
			return s.Stop
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer serve(l)()
			a := start(t, 1)
			defer a.stop()
			a.SetPeers(map[uint64][]string{2: {"http://" + l.Addr().String()}})
			wantRefused(t, a, "not a weir member")
		})
	}
}

func TestCallerWithoutMetadataIsRefused(t *testing.T) {
	b := start(t, 2)
	s := rawStream(t.Context(), t, b, &messagesDesc)
	if _, err := s.end(); err == nil {
		t.Error("it was let in")
	}
}
