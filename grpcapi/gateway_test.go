package grpcapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// jsonClient is a client that leaves no connection behind.
func jsonClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// startGateway returns the URL of a server over b with a gateway.
func startGateway(t *testing.T, b Backend) string {
	t.Helper()
	return "http://" + start(t, NewBackendServer(Config{Gateway: true, Logger: quiet()}, b))
}

// postJSON returns the answer without the whitespace that differs from one process to the next.
func postJSON(t *testing.T, c *http.Client, url, body string) (code int, answer string) {
	t.Helper()
	resp, err := c.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, compact(raw)
}

func compact(raw []byte) string {
	var out bytes.Buffer
	for value := range bytes.SplitSeq(bytes.TrimSpace(raw), []byte("\n")) {
		if json.Compact(&out, value) != nil {
			return string(raw)
		}
	}
	return out.String()
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// The bodies are those of etcd 3.7, but for the ids.
func TestGatewayAnswersAsEtcdDoes(t *testing.T) {
	url := startGateway(t, newMemStore(t))
	client := jsonClient(t)
	const header = `"header":{"cluster_id":"7","member_id":"12","revision":"%d","raft_term":"2"}`
	h := func(rev int) string { return fmt.Sprintf(header, rev) }
	_, probe := postJSON(t, client, url+"/v3/kv/range", `{"key":"`+b64("probe")+`"}`)
	var got struct {
		Header struct {
			ClusterID string `json:"cluster_id"`
			MemberID  string `json:"member_id"`
			Revision  string `json:"revision"`
			RaftTerm  string `json:"raft_term"`
		} `json:"header"`
	}
	if err := json.Unmarshal([]byte(probe), &got); err != nil {
		t.Fatalf("%v: %s", err, probe)
	}
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string // after ids and revisions are made equal
	}{
		{"POST", "/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`, 200, `{` + h(0) + `}`},
		{"POST", "/v3beta/kv/range", `{"key":"Zm9v","unknown":1}`, 200, `{` + h(0) + `,"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}`},
		{"POST", "/v3/kv/range", ``, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"POST", "/v3/kv/range", `{"key":"Zm9v"`, 400, `{"code":3,"message":"unexpected EOF"}`},
		{"POST", "/v3/kv/range", `<key/>`, 400, `{"code":3,"message":"invalid character '<' looking for beginning of value"}`},
		{"GET", "/v3/kv/range", ``, 501, `{"code":12,"message":"Method Not Allowed"}`},
		{"DELETE", "/v3/kv/range", ``, 501, `{"code":12,"message":"Method Not Allowed"}`},
		{"POST", "/v3/", ``, 404, `{"code":5,"message":"Not Found"}`},
		{"POST", "/v3/kv/txn", `{"success":[{"request_put":{"key":"","value":"YmFy"}}]}`, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"POST", "/v3/cluster/member/remove", `{"ID":"1"}`, 404, `{"code":5,"message":"etcdserver: member not found"}`},
		{"POST", "/v3/maintenance/snapshot", `{}`, 200, `{"result":{"blob":"` + b64("all of it") + `"}}`},
		{"OPTIONS", "/v3/kv/range", ``, 200, ``},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		answer := compact(raw)
		for _, id := range []struct{ name, is, want string }{
			{"cluster_id", got.Header.ClusterID, "7"}, {"member_id", got.Header.MemberID, "12"}, {"raft_term", got.Header.RaftTerm, "2"},
		} {
			answer = strings.ReplaceAll(answer, `"`+id.name+`":"`+id.is+`"`, `"`+id.name+`":"`+id.want+`"`)
		}
		answer = strings.ReplaceAll(answer, `,"revision":"2"`, `,"revision":"0"`)
		if err != nil || resp.StatusCode != c.code || answer != c.want {
			t.Errorf("%s %s %s: got %d %s, %v; want %d %s", c.method, c.path, c.body, resp.StatusCode, answer, err, c.code, c.want)
		}
	}
}

// lines is the body of a stream, by line.
type lines struct {
	t *testing.T
	r *bufio.Reader
}

// next waits for a line and returns the fields of its result.
func (l lines) next() string {
	l.t.Helper()
	line, err := l.r.ReadString('\n')
	if err != nil {
		l.t.Fatalf("the stream ended: %v", err)
	}
	return line
}

func TestGatewayStreamsInBothDirectionsAtOnce(t *testing.T) {
	store := newMemStore(t)
	url := startGateway(t, store)
	client := jsonClient(t)
	// The body goes on after the answer has begun: more watches on the same stream.
	reader, writer := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v3/watch", reader)
	if err != nil {
		t.Fatal(err)
	}
	created := make(chan *http.Response)
	go func() {
		resp, err := client.Do(r)
		if err != nil {
			t.Error(err)
		}
		created <- resp
	}()
	if _, err := io.WriteString(writer, `{"create_request":{"key":"`+b64("a")+`"}}`); err != nil {
		t.Fatal(err)
	}
	resp := <-created
	defer resp.Body.Close()
	got := lines{t, bufio.NewReader(resp.Body)}
	if line := got.next(); !strings.Contains(line, `"created"`) {
		t.Errorf("got %s", line)
	}
	if _, err := io.WriteString(writer, `{"create_request":{"key":"`+b64("b")+`","watch_id":"7"}}`); err != nil {
		t.Fatal(err)
	}
	if line := got.next(); !strings.Contains(line, `"created"`) || !strings.Contains(line, `"7"`) {
		t.Errorf("got %s", line)
	}
	for i, key := range []string{"b", "a"} {
		if code, body := postJSON(t, client, url+"/v3/kv/put", `{"key":"`+b64(key)+`","value":"`+b64("v")+`"}`); code != 200 {
			t.Fatalf("got %d %s", code, body)
		}
		if line := got.next(); !strings.Contains(line, b64(key)) {
			t.Errorf("event %d: got %s", i, line)
		}
	}
	// The end of the requests is not the end of the watches.
	writer.Close()
	if code, body := postJSON(t, client, url+"/v3/kv/put", `{"key":"`+b64("a")+`"}`); code != 200 {
		t.Fatalf("got %d %s", code, body)
	}
	if line := got.next(); !strings.Contains(line, b64("a")) {
		t.Errorf("got %s", line)
	}
}

func TestGatewayRenewsLeases(t *testing.T) {
	url := startGateway(t, newMemStore(t))
	client := jsonClient(t)
	if code, body := postJSON(t, client, url+"/v3/lease/grant", `{"TTL":"60","ID":"5"}`); code != 200 {
		t.Fatalf("got %d %s", code, body)
	}
	// The stream ends with the requests, as at etcd.
	code, body := postJSON(t, client, url+"/v3/lease/keepalive", `{"ID":"5"}{"ID":"6"}`)
	if code != 200 || strings.Count(body, `"result"`) != 2 || strings.Count(body, `"TTL":"60"`) != 1 {
		t.Errorf("got %d %s", code, body)
	}
}

func TestGatewayTellsErrorsOfStreams(t *testing.T) {
	b := oneKey(t)
	b.snapshot = func(context.Context, func(*pb.SnapshotResponse) error) error { return rpctypes.ErrGRPCNoSpace }
	code, body := postJSON(t, jsonClient(t), startGateway(t, b)+"/v3/maintenance/snapshot", `{}`)
	if code != http.StatusTooManyRequests || body != `{"error":{"code":8,"message":"etcdserver: mvcc: database space exceeded"}}` &&
		body != `{"code":8,"message":"etcdserver: mvcc: database space exceeded"}` {
		t.Errorf("got %d %s", code, body)
	}
}

func TestGatewayPassesTheTokenAndNotTheCertificate(t *testing.T) {
	serverCert, serverCA := selfSigned(t, "server")
	clientCert, clientCA := selfSigned(t, "alice")
	b := oneKey(t)
	answer := b.rangeKeys
	asked := make(chan wire.Credentials, 1)
	b.rangeKeys = func(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
		asked <- wire.CredentialsOf(ctx)
		return answer(ctx, r)
	}
	address := startOn(t, NewBackendServer(Config{Gateway: true, Logger: quiet()}, b), Port{TLS: &tls.Config{
		Certificates: []tls.Certificate{serverCert}, ClientCAs: clientCA, ClientAuth: tls.RequireAndVerifyClientCert,
	}})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: serverCA, Certificates: []tls.Certificate{clientCert}}}
	defer transport.CloseIdleConnections()
	for header, want := range map[string]wire.Credentials{
		"":             {},
		"token.5":      {HasToken: true, Token: "token.5"},
		"Bearer jwt.x": {HasToken: true, Token: "jwt.x"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/v3/kv/range", strings.NewReader(`{"key":"aw=="}`))
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		resp, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := <-asked; got != want {
			t.Errorf("Authorization %q: the backend was shown %+v", header, got)
		}
	}
}

func TestGatewayRefusesNamesThatItWouldIgnore(t *testing.T) {
	serverCert, serverCA := selfSigned(t, "server")
	named, namedCA := selfSigned(t, "alice")
	nameless, namelessCA := selfSigned(t, "")
	for _, c := range []struct {
		name     string
		cert     tls.Certificate
		enabled  bool
		certAuth bool
		code     int
	}{
		{"named", named, true, true, 400},
		{"auth off", named, false, true, 200},
		{"certificates are not users", named, true, false, 200},
		{"nameless", nameless, true, true, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := &authStore{memStore: newMemStore(t), enabled: c.enabled}
			pool := namedCA
			if c.name == "nameless" {
				pool = namelessCA
			}
			address := startOn(t, NewBackendServer(Config{Gateway: true, ClientCertAuth: c.certAuth, Logger: quiet()}, store), Port{TLS: &tls.Config{
				Certificates: []tls.Certificate{serverCert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
			}})
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: serverCA, Certificates: []tls.Certificate{c.cert}}}
			defer transport.CloseIdleConnections()
			code, body := postJSON(t, &http.Client{Transport: transport}, "https://"+address+"/v3/kv/range", `{"key":"aw=="}`)
			if code != c.code || code == 400 && !strings.HasPrefix(body, "CommonName of client") {
				t.Errorf("got %d %s", code, body)
			}
		})
	}
}

// authStore is a store that says whether authentication is on.
type authStore struct {
	*memStore
	enabled bool
}

func (s *authStore) AuthStatus(context.Context, *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return &pb.AuthStatusResponse{Enabled: s.enabled}, nil
}

func TestGatewayBoundsEachValueOfABody(t *testing.T) {
	store := newMemStore(t)
	url := "http://" + start(t, NewBackendServer(Config{MaxRequestBytes: 1000, Gateway: true, Logger: quiet()}, store))
	client := jsonClient(t)
	const limit = 2 * (1000 + frameOverhead)
	value := func(n int) string { return `{"key":"aw==","value":"` + strings.Repeat("A", n) + `"}` }
	const tooLarge = `{"code":3,"message":"etcdserver: request is too large"}`
	for n, want := range map[int]string{
		4000:    tooLarge, // refused by the API
		limit:   tooLarge, // and by the gateway, unread
		720_000: fmt.Sprintf(`{"code":8,"message":"grpc: received message larger than max (540007 vs. %d)"}`, 1000+frameOverhead),
	} {
		if _, body := postJSON(t, client, url+"/v3/kv/put", value(n)); body != want {
			t.Errorf("%d bytes: got %s, want %s", n, body, want)
		}
	}
	// A stream may have any number of them.
	ping := `{"ID":"1"` + strings.Repeat(" ", limit/2) + `}`
	code, body := postJSON(t, client, url+"/v3/lease/keepalive", strings.Repeat(ping, 4))
	if code != 200 || strings.Count(body, "result") != 4 {
		t.Errorf("got %d %s", code, body)
	}
}

// etcd leaves such a stream open and silent.
func TestGatewayEndsAStreamThatItDoesNotUnderstand(t *testing.T) {
	url := startGateway(t, newMemStore(t))
	client := jsonClient(t)
	code, body := postJSON(t, client, url+"/v3/watch", `{"create_request":{"key":5}}`)
	if code != 400 || !strings.Contains(body, `"code":3`) || !strings.Contains(body, "invalid value for bytes field key: 5") {
		t.Errorf("got %d %s", code, body)
	}
	code, body = postJSON(t, client, url+"/v3/watch", `{"create_request":{"key":"aw=="}}{`)
	if code != 200 && code != 400 || !strings.Contains(body, "unexpected EOF") {
		t.Errorf("got %d %s", code, body)
	}
}

func TestGatewayIsThereOnlyIfAskedFor(t *testing.T) {
	address := start(t, NewBackendServer(Config{Logger: quiet()}, oneKey(t)))
	if code, body := postJSON(t, jsonClient(t), "http://"+address+"/v3/kv/range", `{"key":"aw=="}`); code != 404 {
		t.Errorf("got %d %s", code, body)
	}
}

func TestGatewayForwards(t *testing.T) {
	u := &fakeUpstream{answer: marshal(t, &pb.PutResponse{Header: header(wire.Header{Revision: 9})})}
	url := "http://" + start(t, NewForwardServer(Config{Gateway: true, Logger: quiet()}, u, nil, nil))
	code, body := postJSON(t, jsonClient(t), url+"/v3/kv/put", `{"key":"aw==","value":"dg=="}`)
	if code != 200 || body != `{"header":{"revision":"9"}}` {
		t.Errorf("got %d %s", code, body)
	}
	var put pb.PutRequest
	if err := proto.Unmarshal(u.request, &put); err != nil || u.called != pb.KV_Put_FullMethodName || string(put.Key) != "k" || string(put.Value) != "v" {
		t.Errorf("upstream was asked %s %v, %v", u.called, &put, err)
	}
}

func TestStopEndsStreamsOfTheGateway(t *testing.T) {
	s := NewBackendServer(Config{Gateway: true, Logger: quiet()}, newMemStore(t))
	url := "http://" + start(t, s)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v3/watch", strings.NewReader(`{"create_request":{"key":"aw=="}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := jsonClient(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := lines{t, bufio.NewReader(resp.Body)}
	got.next()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.Stop(ctx)
	_, _ = io.Copy(io.Discard, got.r) // ends
}
