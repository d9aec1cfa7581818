package reload

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for.
const testTimeout = 2 * time.Minute

// site is a member, and a proxy before it that has everything in files.
type site struct {
	*targettest.Site
	*authority
	dir      string
	addr     string
	proxy    *proc.Process
	store    *clientv3.Client // of the member
	operator *http.Client     // of the proxy
}

const options = "limit-watches: 100\nlog-level: info\n"

func newSite(t *testing.T, kind target.Kind, tenants string) *site {
	t.Helper()
	return newSiteWith(t, kind, tenants)
}

// newSiteWith has flags for the member.
func newSiteWith(t *testing.T, kind target.Kind, tenants string, memberArgs ...string) *site {
	t.Helper()
	s := &site{
		Site: targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: testTimeout, NoProxies: true, MemberArgs: memberArgs}), authority: newAuthority(t),
		dir: t.TempDir(),
	}
	s.writeServer(s.issue(""))
	s.write("ca.crt", s.pem())
	s.write("crl.pem", s.revoke())
	s.write("tenants.yaml", tenants)
	s.write("proxy.yaml", options)
	path, err := bin.Build(s.Ctx, proc.Proxy)
	s.Must(err)
	s.addr, err = proc.FreeAddr()
	s.Must(err)
	file := func(name string) string { return filepath.Join(s.dir, name) }
	s.proxy, err = proc.Start("proxy", path, []string{
		"--listen-addr=" + s.addr, "--endpoints=" + s.Endpoint(), "--config-file=" + file("proxy.yaml"), "--tenants-file=" + file("tenants.yaml"),
		"--cert-file=" + file("server.crt"), "--key-file=" + file("server.key"), "--trusted-ca-file=" + file("ca.crt"), "--client-crl-file=" + file("crl.pem"),
	}, nil)
	s.Must(err)
	s.T.Cleanup(func() {
		if err := s.proxy.Stop(); err != nil {
			s.T.Error(err)
		}
		if s.T.Failed() {
			s.T.Logf("the proxy's log:\n%s", s.proxy.Log())
		}
	})
	s.store = targettest.Client(t, s.Endpoint())
	s.operator = &http.Client{Transport: &http.Transport{TLSClientConfig: s.authority.client(s.issue("operator")), DisableKeepAlives: true}}
	s.Must(s.proxy.WaitReady(s.Ctx, func(ctx context.Context) error {
		_, err := s.get(ctx, "/readyz")
		return err
	}))
	return s
}

func (s *site) Helper() { s.T.Helper() }

// write puts a file in the place of another at once.
func (s *site) write(name, text string) {
	s.T.Helper()
	path := filepath.Join(s.dir, name)
	s.Must(os.WriteFile(path+".new", []byte(text), 0o600))
	s.Must(os.Rename(path+".new", path))
}

func (s *site) writeServer(i identity) {
	s.T.Helper()
	s.write("server.crt", i.cert)
	s.write("server.key", i.key)
}

func (s *site) signal(which syscall.Signal) {
	s.T.Helper()
	s.Must(syscall.Kill(s.proxy.Pid(), which))
}

func (s *site) get(ctx context.Context, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.addr+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := s.operator.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// status is what the proxy says of its reloads.
type status struct {
	LogLevel string `json:"log_level"`
	Reloads  []struct {
		What          string
		Reloaded      int
		Refused       int
		Stale         bool
		LastRefusal   string `json:"last_refusal"`
		LastRefusalAt string `json:"last_refusal_at"`
	}
}

// eventually waits until the status of one part is as wanted.
func (s *site) eventually(what string, want func(reloaded, refused int, stale bool, why string) bool) {
	s.T.Helper()
	s.Eventually(time.Minute, "the reload of "+what, func() error {
		body, err := s.get(s.Ctx, "/weir/status")
		if err != nil {
			return err
		}
		var st status
		if err := json.Unmarshal([]byte(body), &st); err != nil {
			return err
		}
		for _, p := range st.Reloads {
			if p.What == what && want(p.Reloaded, p.Refused, p.Stale, p.LastRefusal) {
				return nil
			}
		}
		return fmt.Errorf("the status is %+v", st)
	})
}

// reloaded waits until a part has been reloaded so many times.
func (s *site) reloaded(what string, times int) {
	s.T.Helper()
	s.eventually(what, func(n, _ int, stale bool, _ string) bool { return n == times && !stale })
}

// logLevel waits until it is this.
func (s *site) logLevel(want string) {
	s.T.Helper()
	s.Eventually(time.Minute, "log level "+want, func() error {
		body, err := s.get(s.Ctx, "/weir/status")
		if err == nil && !strings.Contains(strings.ReplaceAll(body, " ", ""), `"log_level":"`+want+`"`) {
			err = errors.New("it is another")
		}
		return err
	})
}

// metric is a sample of the proxy.
func (s *site) metric(sample string) string {
	s.T.Helper()
	body, err := s.get(s.Ctx, "/proxy/metrics")
	s.Must(err)
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, sample+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "none"
}

// dial makes a client of the proxy that shows i.
func (s *site) dial(i identity) *clientv3.Client {
	s.T.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + s.addr}, TLS: s.authority.client(i), DialTimeout: 10 * time.Second, Logger: zap.NewNop(), Context: s.Ctx,
	})
	s.Must(err)
	s.T.Cleanup(func() { _ = c.Close() })
	return c
}

// served is the serial number of the certificate that new connections are shown.
func (s *site) served(i identity) (string, error) {
	d := &tls.Dialer{Config: s.authority.client(i)}
	conn, err := d.DialContext(s.Ctx, "tcp", s.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	secured := conn.(*tls.Conn)
	if _, err := secured.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil { // TLS 1.3 refuses a client behind its handshake
		return "", err
	}
	if _, err := io.ReadAll(secured); err != nil {
		return "", err
	}
	return secured.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// writer puts growing numbers below prefixes of the store until the returned function is called, which tells the last number.
func (s *site) writer(prefixes ...string) (stop func() int) {
	ctx, cancel := context.WithCancel(s.Ctx)
	ended := make(chan int)
	go func() {
		n := 0
		for ctx.Err() == nil {
			n++
			for _, p := range prefixes {
				if _, err := s.store.Put(s.Ctx, p+"k/"+strconv.Itoa(n%10), strconv.Itoa(n)); err != nil {
					s.T.Errorf("write: %v", err)
					cancel()
				}
			}
		}
		ended <- n
	}()
	return func() int {
		cancel()
		return <-ended
	}
}

// follower is a watch that must not miss a number.
type follower struct {
	seen  chan int // the newest number
	ended chan error
}

// follow begins to watch from a revision at which nothing had been written.
func (s *site) follow(c *clientv3.Client, from int64) *follower {
	f := &follower{seen: make(chan int, 1), ended: make(chan error, 1)}
	go func() {
		last := 0
		for resp := range c.Watch(s.Ctx, "k/", clientv3.WithPrefix(), clientv3.WithRev(from)) {
			if err := resp.Err(); err != nil {
				f.ended <- err
				return
			}
			for _, e := range resp.Events {
				n, err := strconv.Atoi(string(e.Kv.Value))
				if err != nil || n != last+1 {
					f.ended <- fmt.Errorf("after %d came %s", last, e.Kv.Value)
					return
				}
				last = n
			}
			select {
			case <-f.seen:
			default:
			}
			f.seen <- last
		}
		f.ended <- errors.New("the channel of the watch was closed")
	}()
	return f
}

// reach waits until number n has come.
func (s *site) reach(f *follower, n int) {
	s.T.Helper()
	for last := 0; last < n; {
		select {
		case last = <-f.seen:
		case err := <-f.ended:
			s.T.Fatalf("a watch ended before %d: %v", n, err)
		case <-s.Ctx.Done():
			s.T.Fatalf("a watch has got to %d, and not to %d", last, n)
		}
	}
}
