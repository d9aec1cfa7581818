package tenants

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for. The tests of several packages share the machine.
const testTimeout = 2 * time.Minute

// file is the tenants file of a site. A test may add to the last tenant.
const file = `
tenants:
- name: orders
  users: [ann]
  common-names: [orders.local]
  namespace: /orders/
- name: audit
  users: [eve]
  common-names: [audit.local]
  namespace-of: orders
  access: read-only
- name: stock
  users: [bob]
  common-names: [stock.local]
  namespace: /stock/
`

// Users of the site; those with a dot are common names of certificates. Nobody is no tenant.
var users = []string{"ann", "eve", "bob", "nobody", "orders.local", "audit.local", "stock.local", "nobody.local"}

const password = "secret"

// site is a member and the proxies before it.
type site struct {
	*targettest.Site
	store          *clientv3.Client
	tokens, second string // addresses of the proxies without TLS
	certificates   string // of the one with TLS
	authority      *authority
}

// at runs a test before each kind of member.
func at(t *testing.T, more string, run func(*site)) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			run(newSite(t, kind, more))
		})
	}
}

func newSite(t *testing.T, kind target.Kind, more string) *site {
	t.Helper()
	s := &site{
		Site: targettest.NewSite(t, bin, kind, targettest.SiteOptions{
			Timeout: testTimeout, NoProxies: true, MemberArgs: []string{target.CheapPasswords},
		}),
		authority: newAuthority(t),
	}
	s.switchAuthOn()
	dir := t.TempDir()
	args := []string{
		"--endpoints=" + s.Endpoint(), "--user=root:" + password,
		"--tenants-file=" + s.write(dir, "tenants.yaml", file+more),
	}
	cert, key := s.authority.issue("")
	withTLS := append(args, "--cert-file="+s.write(dir, "server.crt", cert), "--key-file="+s.write(dir, "server.key", key),
		"--trusted-ca-file="+s.write(dir, "ca.crt", s.authority.pem))
	s.tokens, s.second = s.startProxy(args, nil), s.startProxy(args, nil)
	s.certificates = s.startProxy(withTLS, s.authority.client(""))
	return s
}

func (s *site) write(dir, name, text string) (path string) {
	s.Helper()
	path = filepath.Join(dir, name)
	s.Must(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// switchAuthOn makes the users, who may do everything with keys.
func (s *site) switchAuthOn() {
	s.Helper()
	c := targettest.Client(s.T, s.Endpoint())
	_, err := c.RoleAdd(s.Ctx, "all")
	s.Must(err)
	_, err = c.RoleGrantPermission(s.Ctx, "all", "\x00", "\x00", clientv3.PermissionType(clientv3.PermReadWrite))
	s.Must(err)
	_, err = c.RoleAdd(s.Ctx, "root")
	s.Must(err)
	for _, u := range append([]string{"root"}, users...) {
		_, err := c.UserAdd(s.Ctx, u, password)
		s.Must(err)
		role := "all"
		if u == "root" {
			role = u
		}
		_, err = c.UserGrantRole(s.Ctx, u, role)
		s.Must(err)
	}
	_, err = c.AuthEnable(s.Ctx)
	s.Must(err)
	s.store = s.client(s.Endpoint(), "root", nil)
}

// startProxy starts a proxy, and waits until it forwards what is for everybody.
func (s *site) startProxy(args []string, t *tls.Config) (addr string) {
	s.Helper()
	path, err := bin.Build(s.Ctx, proc.Proxy)
	s.Must(err)
	addr, err = proc.FreeAddr()
	s.Must(err)
	p, err := proc.Start("proxy", path, append([]string{"--listen-addr=" + addr}, args...), nil)
	s.Must(err)
	s.Cleanup(func() {
		if err := p.Stop(); err != nil {
			s.Error(err)
		}
		if strings.Contains(p.Log(), "WARNING: DATA RACE") {
			s.Errorf("the proxy has a data race:\n%s", p.Log())
		} else if s.Failed() && testing.Verbose() {
			s.Logf("log of the proxy:\n%s", p.Log())
		}
	})
	c := s.newClient(addr, "", t)
	s.Must(p.WaitReady(s.Ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := pb.NewAuthClient(c.ActiveConnection()).AuthStatus(ctx, &pb.AuthStatusRequest{})
		return err
	}))
	return addr
}

// client is a client whose user is known; "" shows nobody.
func (s *site) client(addr, user string, t *tls.Config) *clientv3.Client {
	s.Helper()
	c := s.newClient(addr, user, t)
	return c
}

func (s *site) newClient(addr, user string, t *tls.Config) *clientv3.Client {
	s.Helper()
	cfg := clientv3.Config{Endpoints: []string{addr}, TLS: t, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if user != "" {
		cfg.Username, cfg.Password = user, password
	}
	c, err := clientv3.New(cfg)
	s.Must(err)
	s.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			s.Error(err)
		}
	})
	return c
}

// visitor is a client of a tenant, by the way that its name shows: as the user of a token, or by the common name of a
// certificate.
func (s *site) visitor(name string) *clientv3.Client {
	s.Helper()
	if strings.Contains(name, ".") {
		return s.client(s.certificates, "", s.authority.client(name))
	}
	return s.client(s.tokens, name, nil)
}

// keys are all keys of a client's store, in order.
func (s *site) keys(c *clientv3.Client) string {
	s.Helper()
	r, err := c.Get(s.Ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	s.Must(err)
	var keys []string
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return strings.Join(keys, " ")
}

// wantErr fails the test if err is not what etcd's client knows.
func (s *site) wantErr(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: %v, want %v", what, err, want)
	}
}
