package identities

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// badges is an authority and the certificates that it has signed, in files of a directory.
type badges struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

func newBadges(t *testing.T) *badges {
	t.Helper()
	b := &badges{t: t, dir: t.TempDir()}
	b.key = b.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, b.key.Public(), b.key)
	b.must(err)
	b.cert, err = x509.ParseCertificate(der)
	b.must(err)
	b.write("ca.crt", "CERTIFICATE", der)
	return b
}

func (b *badges) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *badges) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	b.must(err)
	return key
}

func (b *badges) write(name, kind string, der []byte) {
	b.must(os.WriteFile(b.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func (b *badges) path(name string) string { return filepath.Join(b.dir, name) }

// issue makes a certificate for 127.0.0.1 with a common name, in the files file.crt and file.key.
func (b *badges) issue(file, name string) {
	b.t.Helper()
	b.last++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(b.last + 1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	key := b.newKey()
	der, err := x509.CreateCertificate(rand.Reader, template, b.cert, key.Public(), b.key)
	b.must(err)
	b.write(file+".crt", "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	b.must(err)
	b.write(file+".key", "PRIVATE KEY", der)
}

// config is how who has a certificate speaks to servers.
func (b *badges) config(file string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(b.path(file+".crt"), b.path(file+".key"))
	b.must(err)
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
	cfg.RootCAs.AddCert(b.cert)
	return cfg
}

// serving are the flags of a server that wants to see certificates.
func (b *badges) serving() []string {
	return []string{"--cert-file=" + b.path("server.crt"), "--key-file=" + b.path("server.key"), "--trusted-ca-file=" + b.path("ca.crt")}
}

// visitors are whose certificates the clients of a test may show, and their common names.
var visitors = map[string]string{"root": rootUser, "alice": "alice", "ghost": "ghost", "nameless": ""}

// badgePlace is a member that knows its users by their certificates, and proxies before it.
type badgePlace struct {
	*badges
	ctx    context.Context
	member string // host:port
	conns  map[string]*grpc.ClientConn
}

func newBadgePlace(t *testing.T, member proc.Program) *badgePlace {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout())
	t.Cleanup(cancel)
	p := &badgePlace{badges: newBadges(t), ctx: ctx, conns: map[string]*grpc.ClientConn{}}
	p.issue("server", "")
	for file, name := range visitors {
		p.issue(file, name)
	}
	peers, err := proc.FreeAddr()
	p.must(err)
	p.member = p.start(member, func(addr string) []string {
		args := append(target.MemberArgs("m", t.TempDir(), addr, peers), p.serving()...)
		return append(args, "--client-cert-auth", "--unsafe-no-fsync", target.CheapPasswords,
			"--listen-client-urls=https://"+addr, "--advertise-client-urls=https://"+addr)
	}, p.answers("root"))
	p.setUp()
	return p
}

// start starts a program at an address of its own and waits until it is ready.
func (p *badgePlace) start(program proc.Program, args func(addr string) []string, ready func(addr string) error) (addr string) {
	p.t.Helper()
	path, err := bin.Build(p.ctx, program)
	p.must(err)
	addr, err = proc.FreeAddr()
	p.must(err)
	process, err := proc.Start(string(program), path, args(addr), nil)
	p.must(err)
	p.t.Cleanup(func() {
		if err := process.Stop(); err != nil {
			p.t.Error(err)
		}
		if p.t.Failed() && testing.Verbose() {
			p.t.Logf("%s at %s:\n%s", program, addr, process.Log())
		}
	})
	p.must(process.WaitReady(p.ctx, func(context.Context) error { return ready(addr) }))
	return addr
}

// answers is ready when somebody whom the cluster knows by a certificate is answered.
func (p *badgePlace) answers(visitor string) func(addr string) error {
	return func(addr string) error {
		_, err := pb.NewKVClient(p.as(visitor, addr)).Range(p.ctx, &pb.RangeRequest{Key: []byte("a1")})
		return err
	}
}

// proxy starts a proxy with these flags, that shows a certificate upstream, and at which certificates count.
func (p *badgePlace) proxy(upstream, shows string, flags ...string) (addr string) {
	p.t.Helper()
	return p.proxyWhen(upstream, shows, p.answers("alice"), flags...)
}

func (p *badgePlace) proxyWhen(upstream, shows string, ready func(addr string) error, flags ...string) (addr string) {
	p.t.Helper()
	return p.start(proc.Proxy, func(addr string) []string {
		args := append([]string{
			"--endpoints=https://" + upstream, "--listen-addr=" + addr, cacheAll,
			"--cacert=" + p.path("ca.crt"), "--cert=" + p.path(shows+".crt"), "--key=" + p.path(shows+".key"),
		}, p.serving()...)
		return append(args, flags...)
	}, ready)
}

// as is a connection of who shows a certificate.
func (p *badgePlace) as(visitor, addr string) *grpc.ClientConn {
	p.t.Helper()
	c := p.conns[visitor+addr]
	if c == nil {
		var err error
		c, err = grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(p.config(visitor))))
		p.must(err)
		p.t.Cleanup(func() { _ = c.Close() })
		p.conns[visitor+addr] = c
	}
	return c
}

// setUp makes users, roles, keys and leases, and turns authentication on. alice may read and write [a, b), read [r, s) and
// write [w, x).
func (p *badgePlace) setUp() {
	p.t.Helper()
	conn := p.as("root", p.member)
	auth, kv, leases := pb.NewAuthClient(conn), pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	must := func(_ any, err error) {
		p.t.Helper()
		p.must(err)
	}
	for name, roles := range map[string]map[string]*authpb.Permission{
		rootUser: {rootRole: nil},
		"reader": {"everything": {PermType: authpb.READ, Key: []byte{0}, RangeEnd: []byte{0}}},
		"alice": {
			"a": {PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b")},
			"r": {PermType: authpb.READ, Key: []byte("r"), RangeEnd: []byte("s")},
			"w": {PermType: authpb.WRITE, Key: []byte("w"), RangeEnd: []byte("x")},
		},
	} {
		must(auth.UserAdd(p.ctx, &pb.AuthUserAddRequest{Name: name, Password: name + "'s"}))
		for role, permission := range roles {
			must(auth.RoleAdd(p.ctx, &pb.AuthRoleAddRequest{Name: role}))
			if permission != nil {
				must(auth.RoleGrantPermission(p.ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: permission}))
			}
			must(auth.UserGrantRole(p.ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: role}))
		}
	}
	must(leases.LeaseGrant(p.ctx, &pb.LeaseGrantRequest{ID: 1, TTL: 3600}))
	must(leases.LeaseGrant(p.ctx, &pb.LeaseGrantRequest{ID: 2, TTL: 3600}))
	must(leases.LeaseGrant(p.ctx, &pb.LeaseGrantRequest{ID: 3, TTL: 3600})) // without keys it is everybody's
	for key, lease := range map[string]int64{"a1": 0, "a2": 1, "a3": 2, "b1": 0, "r1": 0, "w1": 0, "z": 2} {
		must(kv.Put(p.ctx, &pb.PutRequest{Key: []byte(key), Value: []byte("value of " + key), Lease: lease}))
	}
	must(auth.AuthEnable(p.ctx, &pb.AuthEnableRequest{}))
}
