package namespaces

import (
	"flag"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed = flag.Uint64("seed", 0, "seed of what is random; 0 for a random one")
	ops  = flag.Int("ops", 600, "requests of a random run")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for. The tests of several packages share the machine.
func testTimeout() time.Duration { return 2*time.Minute + time.Duration(*ops)*20*time.Millisecond }

// namespace is what each proxy puts before keys.
const namespace = "/app/"

// everywhere is where namespaces must hold. Older etcds decode messages by other code. Of two proxies in a row each has a
// namespace, one in the other.
var everywhere = []target.Kind{
	target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37,
}

// at runs a test at each kind of site, all at the same time.
func at(t *testing.T, kinds []target.Kind, run func(*site)) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			run(newSite(t, kind))
		})
	}
}

// site is a store, and proxies before it.
type site struct {
	*targettest.Site
	prefix string // of all keys of the inside
	inside *clientv3.Client
	store  *clientv3.Client
}

func newSite(t *testing.T, kind target.Kind) *site {
	t.Helper()
	s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{
		Timeout: testTimeout(), ProxyArgs: []string{"--namespace=" + namespace},
	})
	return &site{
		Site: s, prefix: strings.Repeat(namespace, kind.Proxies()),
		inside: targettest.Client(t, s.Endpoint()), store: targettest.Client(t, s.Cluster.Members[0].Addr),
	}
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
