package grpcapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"

	"weir/grpcapi/wire"
)

// selfSigned makes a certificate for 127.0.0.1 that is also its own authority.
func selfSigned(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestTLSPortHasGRPCAndHTTP(t *testing.T) {
	serverCert, serverCA := selfSigned(t, "server")
	clientCert, clientCA := selfSigned(t, "alice")
	b := oneKey(t)
	answer := b.rangeKeys
	users := make(chan string, 1)
	b.rangeKeys = func(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
		if c := wire.CredentialsOf(ctx); c.HasCertificate {
			users <- c.CommonName
		} else {
			users <- "nobody"
		}
		return answer(ctx, r)
	}
	address := startOn(t, NewBackendServer(Config{
		Status: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Proto)
		}),
		Logger: quiet(),
	}, b), Port{TLS: &tls.Config{
		Certificates: []tls.Certificate{serverCert},
		ClientCAs:    clientCA,
		ClientAuth:   tls.VerifyClientCertIfGiven,
	}})
	client := &tls.Config{RootCAs: serverCA, Certificates: []tls.Certificate{clientCert}}

	callAs := func(t *testing.T, cfg *tls.Config) {
		t.Helper()
		conn := dial(t, address, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		resp, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
		if err != nil || resp.Count != 1 {
			t.Fatalf("got %v, %v", resp, err)
		}
		if user := <-users; user != "alice" {
			t.Errorf("the handler saw %s", user)
		}
	}
	t.Run("gRPC that offers only h2", func(t *testing.T) { callAs(t, client) })
	t.Run("gRPC that offers http/1.1 too", func(t *testing.T) {
		both := client.Clone()
		both.NextProtos = []string{"h2", "http/1.1"}
		callAs(t, both)
	})
	for proto, transport := range map[string]*http.Transport{
		"HTTP/1.1": {TLSClientConfig: client.Clone()},
		"HTTP/2.0": {TLSClientConfig: client.Clone(), ForceAttemptHTTP2: true},
	} {
		t.Run(proto, func(t *testing.T) {
			defer transport.CloseIdleConnections()
			if _, body := get(t, &http.Client{Transport: transport}, "https://"+address+"/weir/status"); body != proto {
				t.Errorf("got %s", body)
			}
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); len(b) > 0 && b[0] == 'H' {
			t.Errorf("got %q, %v", b, err)
		}
	})
}

func TestSilentTLSConnectionIsClosed(t *testing.T) {
	cert, _ := selfSigned(t, "server")
	s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
	s.life.sniff = 50 * time.Millisecond
	c, err := net.Dial("tcp", startOn(t, s, Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := io.Copy(io.Discard, c); n != 0 {
		t.Errorf("got %d bytes, then %v", n, err)
	}
}

// The configuration that is asked for at each handshake must keep its say.
func TestTLSConfigCanChangeWhileServing(t *testing.T) {
	first, _ := selfSigned(t, "first")
	second, secondCA := selfSigned(t, "second")
	cfg := &tls.Config{
		Certificates: []tls.Certificate{first},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{second}, NextProtos: []string{"h2"}}, nil
		},
	}
	address := startOn(t, NewBackendServer(Config{Logger: quiet()}, oneKey(t)), Port{TLS: cfg})
	conn := dial(t, address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: secondCA})))
	if _, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}); err != nil {
		t.Error(err)
	}
}
