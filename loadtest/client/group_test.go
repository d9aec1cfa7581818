package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"weir/loadtest/client"
)

func group(t *testing.T) *client.Group {
	t.Helper()
	g := client.NewGroup(t.Context())
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// always is the same address for every connection.
func always(addr string) func(int) string { return func(int) string { return addr } }

func TestAGroupConnectsEachToItsAddressWithItsHandler(t *testing.T) {
	servers := []*service{serve(t, false), serve(t, false)}
	g := group(t)
	var peers []*peer
	for round := range 2 {
		conns, err := g.Connect(4, func(i int) string { return servers[i%2].addr }, client.Config{}, func(int) client.Handler {
			peers = append(peers, &peer{came: make(chan event, 10)})
			return peers[len(peers)-1]
		})
		if err != nil || len(conns) != 4 {
			t.Fatalf("%d connections, %v", len(conns), err)
		}
		for i, conn := range conns {
			rpc, err := conn.Call(echo, []byte("x"))
			if err = errors.Join(err, conn.Flush()); err != nil {
				t.Fatal(err)
			}
			if e := <-peers[4*round+i].came; e != (event{rpc: rpc, message: "x"}) {
				t.Errorf("%v came", e)
			}
		}
	}
	servers[1].Stop()
	<-g.Failed().Done()
	if err := context.Cause(g.Failed()); !strings.Contains(err.Error(), servers[1].addr) {
		t.Errorf("%v, want the address of the server that stopped", err)
	}
}

func TestAGroupThatIsClosedHasNotFailed(t *testing.T) {
	s := serve(t, true)
	g := client.NewGroup(t.Context())
	if _, err := g.Connect(3, always(s.addr), client.Config{TLS: s.tls}, func(int) client.Handler { return &peer{} }); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := context.Cause(g.Failed()); err != context.Canceled {
		t.Errorf("it failed: %v", err)
	}
}

// silent accepts connections and says nothing.
func silent(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

func TestAGroupGivesUpAServerThatDoesNotGreetWithItsContext(t *testing.T) {
	listener := silent(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	g := client.NewGroup(ctx)
	defer g.Close()
	why := errors.New("enough")
	go func() {
		nc, err := listener.Accept()
		cancel(why)
		if err == nil {
			_ = nc.Close()
		}
	}()
	if _, err := g.Connect(1, always(listener.Addr().String()), client.Config{}, func(int) client.Handler { return nil }); !errors.Is(err, why) {
		t.Errorf("%v, want %v", err, why)
	}
}

func TestAGroupDoesNotConnectToNobody(t *testing.T) {
	listener := silent(t)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := group(t).Connect(2, always(listener.Addr().String()), client.Config{}, func(int) client.Handler { return nil })
	if err == nil || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Errorf("%v, want an error with the address", err)
	}
}

func TestOverTLSTheServerMustBeTheRightOneAndWantHTTP2(t *testing.T) {
	s := serve(t, true)
	for _, test := range []struct{ name, want string }{{"localhost", "localhost"}, {"", ""}} {
		config := s.tls.Clone()
		config.ServerName = test.name
		conn, err := client.Dial(t.Context(), s.addr, client.Config{TLS: config}, nil)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("for the name %q: %v", test.name, err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}

	plain := silent(t)
	certificate := s.certificate
	done := make(chan struct{})
	go func() {
		defer close(done)
		if nc, err := tls.NewListener(plain, &tls.Config{Certificates: []tls.Certificate{certificate}}).Accept(); err == nil {
			_ = nc.(*tls.Conn).Handshake()
			_ = nc.Close()
		}
	}()
	_, err := client.Dial(t.Context(), plain.Addr().String(), client.Config{TLS: s.tls}, nil)
	if err == nil || !strings.Contains(err.Error(), "HTTP/2") {
		t.Errorf("a server without HTTP/2: %v", err)
	}
	<-done
}
