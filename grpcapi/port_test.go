package grpcapi

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func TestPortCarriesWhatItIsFor(t *testing.T) {
	cert, ca := selfSigned(t, "server")
	secure := &tls.Config{Certificates: []tls.Certificate{cert}}
	offering := func(protos ...string) grpc.DialOption {
		return grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: ca, NextProtos: protos}))
	}
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	for _, c := range []struct {
		name string
		port Port
		// Who is served: gRPC and HTTP in plaintext, gRPC over TLS of who offers h2 alone and both, HTTP over TLS.
		grpc, http, onlyH2, both, https bool
	}{
		{name: "plaintext", port: Port{}, grpc: true, http: true},
		{name: "gRPC", port: Port{Only: OnlyGRPC}, grpc: true},
		{name: "HTTP", port: Port{Only: OnlyHTTP}, http: true},
		{name: "monitors", port: Port{Only: OnlyMonitoring}, http: true},
		{name: "TLS", port: Port{TLS: secure}, onlyH2: true, both: true, https: true},
		{name: "gRPC over TLS", port: Port{TLS: secure, Only: OnlyGRPC}, onlyH2: true, both: true},
		{name: "HTTP over TLS", port: Port{TLS: secure, Only: OnlyHTTP}, https: true},
		{name: "monitors over TLS", port: Port{TLS: secure, Only: OnlyMonitoring}, https: true},
		{name: "with and without TLS", port: Port{TLS: secure, Plaintext: true}, grpc: true, http: true, onlyH2: true, both: true, https: true},
		{name: "gRPC with and without TLS", port: Port{TLS: secure, Plaintext: true, Only: OnlyGRPC}, grpc: true, onlyH2: true, both: true},
		{name: "HTTP with and without TLS", port: Port{TLS: secure, Plaintext: true, Only: OnlyHTTP}, http: true, https: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
			s.life.sniff = 2 * time.Second // what is not served has ended by then
			address := startOn(t, s, c.port)
			for name, g := range map[string]struct {
				creds grpc.DialOption
				want  bool
			}{
				"in plaintext": {plain, c.grpc}, "with h2": {offering("h2"), c.onlyH2}, "with h2 and http/1.1": {offering("h2", "http/1.1"), c.both},
			} {
				_, err := pb.NewKVClient(dial(t, address, g.creds)).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
				if (err == nil) != g.want || err != nil && status.Code(err) == codes.OK {
					t.Errorf("gRPC %s: %v", name, err)
				}
			}
			for _, h := range []struct {
				url  string
				want bool
			}{{"http://" + address, c.http}, {"https://" + address, c.https}} {
				for _, transport := range []*http.Transport{
					{TLSClientConfig: &tls.Config{RootCAs: ca}},
					{TLSClientConfig: &tls.Config{RootCAs: ca}, ForceAttemptHTTP2: true},
				} {
					resp, err := (&http.Client{Transport: transport}).Get(h.url + "/livez")
					if err == nil {
						resp.Body.Close()
					}
					if served := err == nil && resp.StatusCode == http.StatusOK; served != h.want {
						t.Errorf("%s: %v", h.url, err)
					}
					transport.CloseIdleConnections()
				}
			}
		})
	}
}

// Each of these begins to say what it speaks and stops.
func TestHalfAHelloIsClosed(t *testing.T) {
	cert, _ := selfSigned(t, "server")
	secure := &tls.Config{Certificates: []tls.Certificate{cert}}
	hello := make(chan []byte, 1)
	go func() { // what a client says first
		client, server := net.Pipe()
		defer server.Close()
		go func() { _ = tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() }()
		b := make([]byte, 64)
		n, _ := io.ReadFull(server, b)
		hello <- b[:n]
	}()
	half := string(<-hello)
	for name, p := range map[string]Port{
		"TLS": {TLS: secure}, "TLS and not": {TLS: secure, Plaintext: true}, "gRPC over TLS": {TLS: secure, Only: OnlyGRPC},
		"plaintext": {}, "HTTP": {Only: OnlyHTTP}, "gRPC": {Only: OnlyGRPC},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
			s.life.sniff = 50 * time.Millisecond
			address := startOn(t, s, p)
			for _, first := range []string{"", "\x16", half, "PRI * HTTP/2.0\r\n\r\nSM"} {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := io.WriteString(c, first); err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, c) // ends, with an alert perhaps
			}
		})
	}
}
