package reads

import (
	"errors"
	"flag"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed     = flag.Uint64("seed", 0, "seed of what is random; 0 for a random one")
	huge     = flag.Bool("huge", false, "read ranges of 1 GiB instead of 64 MiB")
	distinct = flag.Int("distinct", distinctInCI, "distinct reads during which memory must not grow")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for. The tests of several packages share the machine.
func testTimeout() time.Duration {
	if *huge || *distinct > distinctInCI {
		return 2 * time.Hour
	}
	return 3 * time.Minute
}

const (
	// slack is what a busy machine adds to a time that is promised.
	slack = 500 * time.Millisecond
	// maxStaleness is the proxy's default of --max-staleness.
	maxStaleness = 2 * time.Second
)

// distinctInCI is how many distinct reads are made when no flag says otherwise.
const distinctInCI = 100_000

// cacheAll has everything kept in memory, from the start.
const cacheAll = "--cache-prefix="

// Kinds for tests of what must hold everywhere, the one that proves the test first.
var (
	everywhere = []target.Kind{
		target.Etcd37,
		target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35, target.ProxyCore,
		target.ProxyProxyEtcd37,
	}
	somewhere = []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyProxyCore}
)

// at runs a test at each kind of site, all at the same time.
func at(t *testing.T, kinds []target.Kind, run func(*site), proxyArgs ...string) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			run(newSite(t, kind, proxyArgs...))
		})
	}
}

// site is where clients read.
type site struct{ *targettest.Site }

func newSite(t *testing.T, kind target.Kind, proxyArgs ...string) *site {
	t.Helper()
	return newSiteWith(t, kind, targettest.SiteOptions{ProxyArgs: proxyArgs})
}

func newSiteWith(t *testing.T, kind target.Kind, o targettest.SiteOptions) *site {
	t.Helper()
	o.Timeout = testTimeout()
	return &site{targettest.NewSite(t, bin, kind, o)}
}

var errNotYet = errors.New("not yet")
