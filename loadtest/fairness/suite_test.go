package fairness

import (
	"context"
	"net"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for. The tests of several packages share the machine.
const testTimeout = 2 * time.Minute

// kinds of proxies, each before something else.
var kinds = []target.Kind{target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyCore}

// site is where clients ask.
type site struct{ *targettest.Site }

// at runs a test at each kind of site, all at the same time.
func at(t *testing.T, o targettest.SiteOptions, run func(*site)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			o.Timeout = testTimeout
			run(&site{targettest.NewSite(t, bin, kind, o)})
		})
	}
}

// startFront starts the proxies, of which only the one next to the clients is given args: to the others it is one client.
func (s *site) startFront(args ...string) {
	s.Helper()
	endpoints := s.Cluster.Endpoints()
	for i := range s.Kind.Proxies() {
		if i == s.Kind.Proxies()-1 {
			s.ProxyArgs = args
		}
		s.Proxies = append(s.Proxies, s.StartProxy(endpoints))
		endpoints = []string{s.Endpoint()}
	}
}

// client is a connection of the i-th client, which has an address to itself.
func (s *site) client(i int) *grpc.ClientConn {
	s.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}}
	return targettest.Dial(s, s.Endpoint(), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", addr)
	}))
}

// isTooMany tells whether a request was refused because there are too many.
func isTooMany(err error) bool { return status.Code(err) == codes.ResourceExhausted }

// hint checks what a request was refused with that is one too many, and returns after how long it may be made again.
func (s *site) hint(err error) time.Duration {
	s.Helper()
	if !isTooMany(err) || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests) {
		s.Fatalf("what is too much was refused with %v", err)
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && info.RetryDelay.AsDuration() > 0 {
			return info.RetryDelay.AsDuration()
		}
	}
	s.Fatalf("%v does not say when to come again", err)
	return 0
}

// await waits as long as a hint says.
func (s *site) await(d time.Duration) {
	s.Helper()
	select {
	case <-time.After(d):
	case <-s.Ctx.Done():
		s.Fatalf("wait for %v: %v", d, s.Ctx.Err())
	}
}
