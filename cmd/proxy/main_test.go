package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type pair struct{ cert, key string }

// writePair makes a certificate for 127.0.0.1 that is also its own authority.
func writePair(t *testing.T, dir, commonName string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: commonName},
		NotAfter:              time.Now().AddDate(0, 1, 0),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	for file, block := range map[string]*pem.Block{
		p.cert: {Type: "CERTIFICATE", Bytes: cert}, p.key: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// freeAddress is a loopback address that nobody listens on for now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the command with args and returns what it prints and how to stop it.
func start(t *testing.T, args ...string) (stdout *bufio.Reader, stop func() error) {
	t.Helper()
	o, err := parseOptions(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	r, w := io.Pipe()
	go func() {
		err := serve(ctx, o, newReload(o, nil, nil, quietLog(t)), w)
		w.CloseWithError(errors.Join(io.EOF, err))
		ended <- err
	}()
	return bufio.NewReader(r), func() error {
		cancel()
		go func() { _, _ = io.Copy(io.Discard, r) }()
		return <-ended
	}
}

func putAndGet(t *testing.T, address, value string, creds credentials.TransportCredentials) (previous string) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	put, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: []byte(value), PrevKv: true}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	got, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		t.Fatalf("got %v, %v", got, err)
	}
	return string(put.GetPrevKv().GetValue())
}

func TestEmbeddedCoreTellsWhereItIsAndKeepsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "default.weir")
	for i, value := range []string{"first", "second"} {
		stdout, stop := start(t, "--embedded", "--listen-addr=127.0.0.1:0", "--data-dir="+dir)
		var lines []string
		for range 4 {
			line, err := stdout.ReadString('\n')
			if err != nil {
				t.Fatal(err, stop())
			}
			lines = append(lines, line)
		}
		address := strings.Fields(lines[1])[2]
		if !strings.Contains(lines[2], dir) || !strings.Contains(lines[3], "etcdctl --endpoints="+address+" put") {
			t.Errorf("it printed %q", lines)
		}
		previous := putAndGet(t, address, value, insecure.NewCredentials())
		if want := []string{"", "first"}[i]; previous != want {
			t.Errorf("after %d starts the value was %q, want %q", i, previous, want)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestProxyOverAProxyWithTLS(t *testing.T) {
	dir := t.TempDir()
	files := writePair(t, dir, "")
	lower, upper, metrics := freeAddress(t), freeAddress(t), freeAddress(t)

	stdout, stopLower := start(t, "--embedded", "--listen-addr="+lower, "--data-dir="+filepath.Join(dir, "data"),
		"--cert-file="+files.cert, "--key-file="+files.key, "--trusted-ca-file="+files.cert)
	if _, err := stdout.ReadString('\n'); err != nil {
		t.Fatal(err, stopLower())
	}
	_, stopUpper := start(t, "--endpoints=https://"+lower, "--listen-addr="+upper, "--metrics-addr=http://"+metrics, "--enable-pprof",
		"--cacert="+files.cert, "--cert="+files.cert, "--key="+files.key)
	putAndGet(t, upper, "value", insecure.NewCredentials())

	for url, want := range map[string]string{
		"http://" + upper + "/health":                       `{"health":"true","reason":""}`,
		"http://" + metrics + "/readyz":                     "ok\n",
		"http://" + metrics + "/weir/status":                "{",
		"http://" + upper + "/debug/pprof/cmdline":          os.Args[0],
		"http://" + upper + "/debug/pprof/symbol?nothing=1": "num_symbols: 1\n",
	} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.HasPrefix(string(body), want) {
			t.Errorf("%s: got %q, %v", url, body, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()

	// Without a certificate nobody gets in at the lower one.
	pem, err := os.ReadFile(files.cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := grpc.NewClient("passthrough:///"+lower, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}); err == nil {
		t.Error("a client without a certificate got an answer")
	}
	for _, stop := range []func() error{stopUpper, stopLower} {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestProxyTellsOfUpstreamAndOfItself(t *testing.T) {
	lower, upper, other, metrics := freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	stdout, stopLower := start(t, "--embedded", "--listen-addr="+lower, "--data-dir="+filepath.Join(t.TempDir(), "data"))
	if _, err := stdout.ReadString('\n'); err != nil {
		t.Fatal(err, stopLower())
	}
	_, stopUpper := start(t, "--endpoints="+lower, "--listen-addr="+upper, "--metrics-addr=http://"+metrics, "--advertise-client-url", "")
	_, stopOther := start(t, "--endpoints="+lower, "--listen-addr="+other, "--advertise-client-url=10.0.0.1:23790")
	for address, want := range map[string]string{upper: "http://" + upper, other: "10.0.0.1:23790"} {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		r, err := pb.NewClusterClient(conn).MemberList(t.Context(), &pb.MemberListRequest{}, grpc.WaitForReady(true))
		if err != nil || len(r.Members) != 1 || strings.Join(r.Members[0].ClientURLs, " ") != want {
			t.Errorf("got %v, %v, want %s", r, err, want)
		}
		conn.Close()
	}
	for url, want := range map[string]string{
		"http://" + lower + "/metrics":         "etcd_server_has_leader 1",
		"http://" + upper + "/metrics":         "etcd_server_has_leader 1",
		"http://" + metrics + "/metrics":       "etcd_server_has_leader 1",
		"http://" + metrics + "/proxy/metrics": "go_goroutines",
		"http://" + metrics + "/proxy/health":  `{"health":"true","reason":""}`,
		"http://" + upper + "/v3/kv/range":     "Method Not Allowed", // the gateway's answer to GET
	} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: got %d, %v, without %s", url, resp.StatusCode, err, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	for _, stop := range []func() error{stopUpper, stopOther, stopLower} {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestUpstreamThatIsDownAtStartIsSaidInReadyz(t *testing.T) {
	down, address := freeAddress(t), freeAddress(t)
	_, stop := start(t, "--endpoints=http://"+down, "--listen-addr="+address)
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}, grpc.WaitForReady(true))
	if err == nil || !strings.Contains(err.Error(), "Unavailable") {
		t.Errorf("got %v", err)
	}
	resp, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "upstream http://"+down) {
		t.Errorf("got %d %s, %v", resp.StatusCode, body, err)
	}
}

func TestWhatCannotStartSaysWhyInOneLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	free := "--listen-addr=127.0.0.1:0"
	for want, args := range map[string][]string{
		"give another --listen-addr":  {"--endpoints=a:1", "--listen-addr=" + taken.Addr().String()},
		"give another --metrics-addr": {"--endpoints=a:1", free, "--metrics-addr=http://" + taken.Addr().String()},
		`endpoint "htp://a:1"`:        {"--endpoints=htp://a:1", free},
		"file":                        {"--embedded", free, "--data-dir=" + filepath.Join(dir, "file")},
		"unknown log level":           {"--endpoints=a:1", free, "--log-level=loud"},
	} {
		err := run(args, nil, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v, want %s", args, err, want)
		}
	}
}
