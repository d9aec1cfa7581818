package main

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/cmd/internal/tlsfiles"
	"weir/core"
)

// startPeerPort starts a member, serves only other members, and returns the address for them.
func startPeerPort(t *testing.T, args ...string) string {
	t.Helper()
	o, err := parseOptions(append(args, "--data-dir="+t.TempDir(), "--listen-client-urls=http://127.0.0.1:0"), nil)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	o.core.Logger, o.api.Logger = logger, logger
	l := opened(t, o.listen)
	certificates, err := loadCertificates(o, tlsfiles.NewSet(slog.New(slog.DiscardHandler), nil), logger)
	if err != nil {
		t.Fatal(err)
	}
	node, err := core.Open(o.core)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	s, err := newServers(o, node, certificates, newReload(o, nil, nil, quietLog(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	s.startPeers(l, logger)
	return l["listen-peer-urls"][0].Addr().String()
}

// message is the body of a call: one gRPC message, of zeros.
type message struct {
	left   int64
	head   []byte
	passed atomic.Int64
}

func newMessage(size uint32) *message {
	return &message{left: int64(size), head: binary.BigEndian.AppendUint32([]byte{0}, size)}
}

func (m *message) Read(b []byte) (n int, err error) {
	if len(m.head) > 0 {
		n = copy(b, m.head)
		m.head = m.head[n:]
	} else if n = int(min(int64(len(b)), m.left)); n == 0 {
		return 0, io.EOF
	} else {
		clear(b[:n])
		m.left -= int64(n)
	}
	m.passed.Add(int64(n))
	return n, nil
}

// A client of TLS that speaks HTTP/1.1 too is served by net/http, which hands calls on to gRPC.
func TestPeerPortDoesNotReadWhatStrangersCallFor(t *testing.T) {
	withTLS := http.DefaultTransport.(*http.Transport).Clone()
	withTLS.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a certificate made by the test
	plaintext := http.DefaultTransport.(*http.Transport).Clone()
	plaintext.Protocols = new(http.Protocols)
	plaintext.Protocols.SetUnencryptedHTTP2(true)
	for _, c := range []struct {
		scheme    string
		transport *http.Transport
		args      []string
	}{
		{"http", plaintext, []string{"--listen-peer-urls=http://127.0.0.1:0"}},
		{"https", withTLS, []string{"--listen-peer-urls=https://127.0.0.1:0", "--peer-auto-tls"}},
	} {
		t.Run(c.scheme, func(t *testing.T) {
			address := startPeerPort(t, c.args...)
			defer c.transport.CloseIdleConnections()
			for _, method := range []string{"/weir.Members/LeasePing", "/weir.Peers/Ping", "/weir.Peers/Messages", "/weir.Peers/Snapshot"} {
				body := newMessage(100 << 20)
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.scheme+"://"+address+method, body)
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Content-Type", "application/grpc")
				request.Header.Set("TE", "trailers")
				response, err := c.transport.RoundTrip(request)
				if err != nil {
					t.Fatalf("%s: %v", method, err)
				}
				if _, err := io.Copy(io.Discard, response.Body); err != nil {
					t.Fatalf("%s: %v", method, err)
				}
				response.Body.Close()
				said := response.Trailer.Get("Grpc-Message") + response.Header.Get("Grpc-Message")
				if !strings.Contains(said, "not a weir member") {
					t.Errorf("%s: %v %v", method, response.Header, response.Trailer)
				}
				if n := body.passed.Load(); n > 16<<20 { // what a window lets through, twice in TLS
					t.Errorf("%s: %d bytes were taken", method, n)
				}
			}
		})
	}
}

// net/http reads what is left of a body before it answers.
func TestPeerPortDoesNotWaitForABodyThatDoesNotCome(t *testing.T) {
	t.Parallel() // it takes the 10 s that a request may take
	c, err := net.Dial("tcp", startPeerPort(t, "--listen-peer-urls=http://127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /members HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection is still there: %v", err)
	}
}

func TestPeerPortBoundsTheConnectionsOfAHost(t *testing.T) {
	address := startPeerPort(t, "--listen-peer-urls=http://127.0.0.1:0")
	answered := func() bool { // on a connection that stays open
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, "GET /members HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return false
		}
		_, err = c.Read(make([]byte, 1))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil
	}
	const bound = 256
	for i := range bound {
		if !answered() {
			t.Fatalf("connection %d is closed", i+1)
		}
	}
	if answered() {
		t.Errorf("there are more than %d connections", bound)
	}
}
