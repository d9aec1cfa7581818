package target

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"weir/loadtest/proc"
)

// Kind says what is behind an endpoint.
type Kind string

// The kinds. A proxy over nothing has its core embedded.
const (
	Etcd37        Kind = "etcd-3.7"
	Etcd36        Kind = "etcd-3.6"
	Etcd35        Kind = "etcd-3.5"
	Core          Kind = "core"
	ProxyCore     Kind = "proxy-over-core"
	ProxyEmbedded Kind = "proxy-embedded"
	ProxyEtcd37   Kind = "proxy-over-etcd-3.7"
	ProxyEtcd36   Kind = "proxy-over-etcd-3.6"
	ProxyEtcd35   Kind = "proxy-over-etcd-3.5"

	// Three members, of which the clients' one does not lead, at first.
	Etcd37Of3    Kind = "etcd-3.7-of-3"
	CoreOf3      Kind = "core-of-3"
	ProxyCoreOf3 Kind = "proxy-over-core-of-3"

	// Two proxies, the second before the first.
	ProxyProxyCore   Kind = "proxy-over-proxy-over-core"
	ProxyProxyEtcd37 Kind = "proxy-over-proxy-over-etcd-3.7"

	// GRPCProxyEtcd37 is etcd's own proxy over etcd: to measure beside weir's, not to learn from.
	GRPCProxyEtcd37 Kind = "grpc-proxy-over-etcd-3.7"
)

// Kinds are those that must keep the promises of etcd's API, plain etcds first.
func Kinds() []Kind {
	return []Kind{
		Etcd37, Etcd37Of3, Etcd36, Etcd35, Core, CoreOf3, ProxyCore, ProxyCoreOf3, ProxyProxyCore, ProxyEmbedded,
		ProxyEtcd37, ProxyEtcd36, ProxyEtcd35,
	}
}

// AllKinds are those, and those that are measured alone.
func AllKinds() []Kind { return append(Kinds(), ProxyProxyEtcd37, GRPCProxyEtcd37) }

// FindKinds finds kinds by their names.
func FindKinds(names []string) ([]Kind, error) {
	all := AllKinds()
	var found []Kind
	for _, name := range names {
		if !slices.Contains(all, Kind(name)) {
			var known []string
			for _, k := range all {
				known = append(known, string(k))
			}
			return nil, fmt.Errorf("there is no system %q, only %s", name, strings.Join(known, ", "))
		}
		found = append(found, Kind(name))
	}
	return found, nil
}

// API is the minor version of etcd 3 whose API the kind answers.
func (k Kind) API() int {
	switch k {
	case Etcd35, ProxyEtcd35:
		return 5
	case Etcd36, ProxyEtcd36:
		return 6
	default:
		return 7
	}
}

// parts are the member that holds the data, if it is a process of its own, the program before it, if there is one, and
// how many processes of that there are in a row.
func (k Kind) parts() (member, proxy proc.Program, proxies int) {
	switch k {
	case Etcd37, Etcd37Of3:
		return proc.Etcd37, "", 0
	case Etcd36:
		return proc.Etcd36, "", 0
	case Etcd35:
		return proc.Etcd35, "", 0
	case Core, CoreOf3:
		return proc.Core, "", 0
	case ProxyCore, ProxyCoreOf3:
		return proc.Core, proc.Proxy, 1
	case ProxyProxyCore:
		return proc.Core, proc.Proxy, 2
	case ProxyEmbedded:
		return "", proc.Proxy, 1
	case ProxyEtcd37:
		return proc.Etcd37, proc.Proxy, 1
	case ProxyProxyEtcd37:
		return proc.Etcd37, proc.Proxy, 2
	case GRPCProxyEtcd37:
		return proc.Etcd37, proc.Etcd37, 1
	case ProxyEtcd36:
		return proc.Etcd36, proc.Proxy, 1
	case ProxyEtcd35:
		return proc.Etcd35, proc.Proxy, 1
	default:
		return "", "", 0
	}
}

// Member is the program that holds the data; "" if that is no process of its own.
func (k Kind) Member() proc.Program {
	member, _, _ := k.parts()
	return member
}

// Members is how many members there are; 0 if none is a process of its own.
func (k Kind) Members() int {
	switch k {
	case Etcd37Of3, CoreOf3, ProxyCoreOf3:
		return 3
	case ProxyEmbedded:
		return 0
	default:
		return 1
	}
}

// Proxies is how many proxies there are in a row before the data.
func (k Kind) Proxies() int {
	_, _, proxies := k.parts()
	return proxies
}

// Target is a running kind. Close ends it.
type Target struct {
	Kind Kind
	// Endpoint is host:port, where clients go.
	Endpoint string

	tls     *TLS      // that clients use
	servers []*Server // those that hold the data first, the one at the endpoint last
}

// Build builds what Start needs for a kind, which Start does too: this takes the time of the build out of Start's.
func Build(ctx context.Context, bin *proc.Bin, kind Kind) error {
	member, proxy, _ := kind.parts()
	for _, p := range []proc.Program{member, proxy} {
		if p == "" {
			continue
		}
		if _, err := bin.Build(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// Start starts the processes of a kind and returns when they serve. Their data is in the directory data, which need not
// exist. memberArgs are added to the command line of the process that holds the data.
func Start(ctx context.Context, bin *proc.Bin, kind Kind, data string, memberArgs ...string) (*Target, error) {
	return StartWith(ctx, bin, kind, data, Options{MemberArgs: memberArgs})
}

// Options are how a target is started. The zero value is as plain as can be.
type Options struct {
	MemberArgs []string // added to the command line of the process that holds the data
	ProxyArgs  []string // added to the command line of the proxy before it, if there is one
	TLS        *TLS     // for clients; between proxy and member there is none
}

// StartWith is Start with options.
func StartWith(ctx context.Context, bin *proc.Bin, kind Kind, data string, o Options) (*Target, error) {
	t := &Target{Kind: kind, tls: o.TLS}
	if err := t.start(ctx, bin, data, o); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", kind, err), t.Close())
	}
	return t, nil
}

func (t *Target) start(ctx context.Context, bin *proc.Bin, data string, o Options) error {
	member, proxy, proxies := t.Kind.parts()
	if member == "" && proxy == "" {
		return errors.New("there is no such target")
	}
	switch t.Kind.Members() {
	case 0:
	case 1:
		addr, peer, err := twoFreeAddrs()
		if err != nil {
			return err
		}
		args := append(MemberArgs("m1", data, addr, peer), o.MemberArgs...)
		var own *TLS
		if proxy == "" && o.TLS != nil {
			own = o.TLS
			args = append(args, "--listen-client-urls=https://"+addr, "--advertise-client-urls=https://"+addr)
		}
		if err := t.add(ctx, bin, member, addr, args, own); err != nil {
			return err
		}
	default:
		if err := t.addCluster(ctx, bin, member, data, o); err != nil {
			return err
		}
	}
	if proxy == "" {
		return nil
	}
	var members []string
	for _, s := range t.servers {
		members = append(members, s.Addr)
	}
	for range proxies - 1 {
		inner, err := StartProxy(ctx, bin, members, o.ProxyArgs...)
		if err != nil {
			return err
		}
		t.servers = append(t.servers, inner)
		members = []string{inner.Addr}
	}
	addr, err := proc.FreeAddr()
	if err != nil {
		return err
	}
	args := []string{"--listen-addr=" + addr}
	if t.Kind == GRPCProxyEtcd37 {
		args = append([]string{"grpc-proxy", "start"}, args...)
	}
	if member != "" {
		args = append(args, "--endpoints="+strings.Join(members, ","))
	} else {
		args = append(append(args, "--embedded", "--data-dir="+data), o.MemberArgs...)
	}
	return t.add(ctx, bin, proxy, addr, append(args, o.ProxyArgs...), o.TLS)
}

// addCluster starts members, with the endpoint at one that does not lead.
func (t *Target) addCluster(ctx context.Context, bin *proc.Bin, program proc.Program, data string, o Options) error {
	if o.TLS != nil && t.Kind.Proxies() == 0 {
		return errors.New("several members serve plaintext only")
	}
	c, err := StartCluster(ctx, bin, program, data, ClusterOptions{Members: t.Kind.Members(), Args: o.MemberArgs})
	if err != nil {
		return err
	}
	for _, m := range c.Members {
		t.servers = append(t.servers, m.Server)
	}
	for i, s := range t.servers {
		leads, err := leads(ctx, s.Addr)
		if err != nil {
			return err
		}
		if leads {
			t.servers[0], t.servers[i] = t.servers[i], t.servers[0]
		}
	}
	t.Endpoint = t.servers[len(t.servers)-1].Addr
	return nil
}

// leads tells whether a member believes to be the leader.
func leads(ctx context.Context, addr string) (bool, error) {
	conn, err := Dial(addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	r, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if status.Convert(err).Message() == status.Convert(rpctypes.ErrGRPCUserEmpty).Message() {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask %s who leads: %w", addr, err)
	}
	return r.Leader == r.Header.MemberId, nil
}

// add starts a server, at which the endpoint is from now on.
func (t *Target) add(ctx context.Context, bin *proc.Bin, program proc.Program, addr string, args []string, tls *TLS) error {
	path, err := bin.Build(ctx, program)
	if err != nil {
		return err
	}
	p, err := proc.Start(string(program), path, append(args, tls.args()...), nil)
	if err != nil {
		return err
	}
	t.servers = append(t.servers, &Server{Process: p, Addr: addr, tls: tls})
	t.Endpoint = addr
	return p.WaitReady(ctx, serves(addr, tls))
}

func twoFreeAddrs() (a, b string, err error) {
	if a, err = proc.FreeAddr(); err != nil {
		return "", "", err
	}
	b, err = proc.FreeAddr()
	return a, b, err
}

// CheapPasswords is an argument of members with which a password takes a millisecond, for tests of something else.
const CheapPasswords = "--bcrypt-cost=4"

// MemberArgs is the command line, the same for etcd and for weir's core, of the only member of a cluster.
func MemberArgs(name, dataDir, clientAddr, peerAddr string) []string {
	return []string{
		"--name=" + name,
		"--data-dir=" + dataDir,
		"--listen-client-urls=http://" + clientAddr,
		"--advertise-client-urls=http://" + clientAddr,
		"--listen-peer-urls=http://" + peerAddr,
		"--initial-advertise-peer-urls=http://" + peerAddr,
		"--initial-cluster=" + name + "=http://" + peerAddr,
		"--log-level=info",
	}
}

// stores are the servers that hold the data.
func (t *Target) stores() []*Server { return t.servers[:max(1, t.Kind.Members())] }

// KillStore ends the processes that hold the data with SIGKILL and waits for their end.
func (t *Target) KillStore() error {
	var errs []error
	for _, s := range t.stores() {
		errs = append(errs, s.Kill())
	}
	return errors.Join(errs...)
}

// StartStore starts those processes again, which must have ended.
func (t *Target) StartStore() error {
	var errs []error
	for _, s := range t.stores() {
		errs = append(errs, s.Restart())
	}
	return errors.Join(errs...)
}

// RestartStore is StartStore, and waits until the whole target serves.
func (t *Target) RestartStore(ctx context.Context) error {
	if err := t.StartStore(); err != nil {
		return err
	}
	for _, s := range t.stores() {
		if err := s.WaitReady(ctx, serves(t.Endpoint, t.tls)); err != nil {
			return err
		}
	}
	return nil
}

// StoreAddr is host:port of a process that holds the data: of the first of several. It is the endpoint if there is but one
// process.
func (t *Target) StoreAddr() string { return t.servers[0].Addr }

// ClientTLS is how clients connect to the endpoint; nil for plaintext.
func (t *Target) ClientTLS() *tls.Config {
	if t.tls == nil {
		return nil
	}
	return t.tls.Client
}

// Dial is a connection to the endpoint.
func (t *Target) Dial() (*grpc.ClientConn, error) { return dial(t.Endpoint, t.tls) }

// Servers are all servers, those that hold the data first, the one at the endpoint last. They may be the same.
func (t *Target) Servers() []*Server { return t.servers }

// Processes are those of the servers.
func (t *Target) Processes() []*proc.Process {
	var all []*proc.Process
	for _, s := range t.servers {
		all = append(all, s.Process)
	}
	return all
}

// Log is what all processes printed.
func (t *Target) Log() string {
	var s string
	for _, p := range t.servers {
		s += "--- " + p.Name() + "\n" + p.Log()
	}
	return s
}

// Alive is an error if one of the processes has ended by itself.
func (t *Target) Alive() error {
	for _, p := range t.servers {
		select {
		case <-p.Exited():
			return fmt.Errorf("%s has ended", p.Name())
		default:
		}
	}
	return nil
}

// Close asks the processes to end, the proxy first. A process that ended by itself or will not end is an error.
func (t *Target) Close() error {
	var errs []error
	for i := len(t.servers) - 1; i >= 0; i-- {
		errs = append(errs, t.servers[i].Stop())
	}
	t.servers = nil
	return errors.Join(errs...)
}
