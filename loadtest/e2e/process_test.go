package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// answer is what a port says to an HTTP request.
type answer struct {
	status int
	body   string
}

// httpClient accepts every certificate, and leaves no connection behind. With h2 it speaks HTTP/2 where there is TLS.
func httpClient(t *testing.T, h2 bool) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// get returns the zero answer if there is none: the port does not speak HTTP.
func get(t *testing.T, c *http.Client, url string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("read %s: %v", url, err)
	}
	return answer{resp.StatusCode, string(body)}
}

// Each kind of URL serves what it serves at etcd, and nothing else.
func TestEachPortServesWhatEtcdsDoes(t *testing.T) {
	paths := []string{
		"/version", "/health", "/livez", "/readyz", "/readyz/data_corruption", "/metrics", "/debug/vars", "/debug/pprof/cmdline", "/members", "/nothing", "/",
	}
	statuses := map[proc.Program]map[string]int{}
	for _, p := range members {
		http, metrics, secure := freeAddr(t), freeAddr(t), freeAddr(t)
		_, client, peer := startMember(t, p, []string{
			"--listen-client-http-urls=http://" + http + ",https://" + secure, "--listen-metrics-urls=http://" + metrics, "--auto-tls",
		}, nil)
		_, both, securePeer := startMember(t, p, []string{"--peer-auto-tls"}, nil)
		statuses[p] = map[string]int{}
		for port, url := range map[string]string{
			"grpc": "http://" + client, "http": "http://" + http, "https": "https://" + secure, "metrics": "http://" + metrics, "peer": "http://" + peer,
			"grpc and http": "http://" + both, "peer beside unused TLS": "http://" + securePeer,
		} {
			c := httpClient(t, true)
			for _, path := range paths {
				statuses[p][port+" "+path] = get(t, c, url+path).status
			}
		}
	}
	for at, want := range statuses[proc.Etcd37] {
		if got := statuses[proc.Core][at]; got != want {
			t.Errorf("%s: status %d, and %d at etcd", at, got, want)
		}
	}
	if len(statuses[proc.Etcd37]) != 7*len(paths) {
		t.Errorf("only %d questions were asked", len(statuses[proc.Etcd37]))
	}
}

// A peer port with TLS demands the certificates that its flags say.
func TestPeerPortHasItsTLS(t *testing.T) {
	for _, p := range members {
		client, peer := freeAddr(t), freeAddr(t)
		args := append(target.MemberArgs("m1", filepath.Join(t.TempDir(), "data"), client, peer), "--peer-auto-tls",
			"--listen-peer-urls=https://"+peer, "--initial-advertise-peer-urls=https://"+peer, "--initial-cluster=m1=https://"+peer)
		m, err := proc.Start(string(p), build(t, p), args, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Stop(); err != nil {
				t.Error(err)
			}
		})
		waitReady(t, m, "")
		for _, h2 := range []bool{false, true} {
			if h2 && p == proc.Etcd37 {
				continue // it agrees to HTTP/2 and does not speak it
			}
			if got := get(t, httpClient(t, h2), "https://"+peer+"/version"); got.status != http.StatusOK || !strings.Contains(got.body, `"etcdserver":"3.7.`) {
				t.Errorf("%s: HTTP/2 %v: got %+v", p, h2, got)
			}
		}
		if got := get(t, httpClient(t, false), "http://"+peer+"/version"); got.status == http.StatusOK {
			t.Errorf("%s: without TLS: got %+v", p, got)
		}
	}
}

func TestClientsMayComeByUnixSocketsWithAndWithoutTLS(t *testing.T) {
	for _, p := range members {
		dir := t.TempDir()
		plain, secure := filepath.Join(dir, "plain"), filepath.Join(dir, "secure")
		urls := "unix://" + plain + ",unixs://" + secure
		m, _, _ := startMember(t, p, []string{"--listen-client-urls=" + urls, "--advertise-client-urls=" + urls, "--auto-tls"}, nil)
		for _, flags := range [][]string{{"--endpoints=unix://" + plain}, {"--endpoints=unixs://" + secure, "--insecure-skip-tls-verify", "--insecure-transport=false"}} {
			if text, status := output(t, proc.Etcdctl, append(flags, "put", "a", "b")...); status != 0 || text != "OK\n" {
				t.Errorf("%s: %s: status %d\n%s", p, flags[0], status, text)
			}
		}
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
		for _, socket := range []string{plain, secure} {
			if _, err := os.Stat(socket); !os.IsNotExist(err) {
				t.Errorf("%s left %s behind: %v", p, socket, err)
			}
		}
	}
}

// What a log shipper that was set up for etcd parses, it parses of weir.
func TestLogLinesAreJSONWithEtcdsKeys(t *testing.T) {
	for _, p := range members {
		m, _, _ := startMember(t, p, nil, nil)
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
		ready := 0
		for line := range strings.Lines(m.Log()) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Errorf("%s: not JSON: %s", p, line)
				continue
			}
			for _, key := range []string{"level", "ts", "caller", "msg"} {
				if _, ok := fields[key].(string); !ok {
					t.Errorf("%s: no %s: %s", p, key, line)
				}
			}
			if fields["msg"] == "ready to serve client requests" {
				ready++
			}
			at, _ := fields["ts"].(string)
			if _, err := time.Parse("2006-01-02T15:04:05.000000Z0700", at); err != nil {
				t.Errorf("%s: %v", p, err)
			}
			if !strings.HasPrefix(line, `{"level":"`) {
				t.Errorf("%s: the level is not first: %s", p, line)
			}
		}
		if ready != 1 {
			t.Errorf("%s was ready %d times", p, ready)
		}
	}
}

// The service manager hears of a member only when clients are served.
func TestServiceManagerIsToldWhenClientsAreServed(t *testing.T) {
	for _, p := range members {
		socket := filepath.Join(t.TempDir(), "notify")
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: socket})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_, client, _ := startMember(t, p, nil, []string{"NOTIFY_SOCKET=" + socket})
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := conn.Read(b)
		if err != nil || string(b[:n]) != "READY=1" {
			t.Errorf("%s: got %q, %v", p, b[:n], err)
		}
		if err := target.Serves(client)(t.Context()); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// SIGTERM leaves the data and nothing else, and the same command line goes on with it.
func TestAMemberIsStoppedAndStartedAgainWithTheSameArguments(t *testing.T) {
	for _, p := range members {
		m, client, peer := startMember(t, p, []string{"--initial-cluster-state=new", "--initial-cluster-token=t", "--listen-metrics-urls=http://" + freeAddr(t)}, nil)
		c := targettest.Client(t, client)
		if _, err := c.Put(t.Context(), "kept", "value"); err != nil {
			t.Fatal(err)
		}
		if p == proc.Core { // etcd waits seconds for the watch to end, which it does not, and for ever for the silent client
			watching, cancel := context.WithCancel(t.Context())
			defer cancel()
			if r := <-c.Watch(watching, "kept", clientv3.WithCreatedNotify()); !r.Created {
				t.Fatalf("got %+v", r)
			}
			silent, err := net.Dial("tcp", client)
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
		}
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []string{client, peer} {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Errorf("%s: a port is not free after it: %v", p, err)
				continue
			}
			l.Close()
		}
		before := m.Log()
		if err := m.Restart(); err != nil {
			t.Fatal(err)
		}
		waitReady(t, m, before)
		got, err := targettest.Client(t, client).Get(t.Context(), "kept")
		if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
			t.Errorf("%s: got %v, %v", p, got, err)
		}
	}
}

func TestLogsGoToAFileThatIsRotatedAndInTheFormatAskedFor(t *testing.T) {
	for _, p := range members {
		path := filepath.Join(t.TempDir(), "member.log")
		// Where it says that it is ready.
		m, err := proc.Start(string(p), build(t, p), append(target.MemberArgs("m1", filepath.Join(t.TempDir(), "data"), freeAddr(t), freeAddr(t)),
			"--log-outputs="+path+",stderr", "--enable-log-rotation", "--log-format=console", `--log-rotation-config-json={"maxsize": 1}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		waitReady(t, m, "")
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "\tready to serve client requests") || strings.HasPrefix(string(text), "{") {
			t.Errorf("%s: %v\n%s", p, err, text)
		}
	}
}
