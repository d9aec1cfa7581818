package identities

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed   = flag.Uint64("seed", 0, "seed of what is random; 0 for a random one")
	rounds = flag.Int("rounds", 5, "how often rights change, and then rest for longer than anything may be remembered")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for. The tests of several packages share the machine.
func testTimeout() time.Duration {
	return 2*time.Minute + time.Duration(*rounds)*10*time.Second
}

// site is a cluster, and proxies before it.
type site struct {
	*targettest.Site
	begun time.Time
}

func newSite(t *testing.T, kind target.Kind, o targettest.SiteOptions) *site {
	t.Helper()
	o.Timeout = testTimeout()
	o.MemberArgs = append(o.MemberArgs, target.CheapPasswords)
	return &site{Site: targettest.NewSite(t, bin, kind, o), begun: time.Now()}
}

// now is the time since the site was begun.
func (s *site) now() time.Duration { return time.Since(s.begun) }

// hits is how many reads the proxy next to the clients has answered from memory.
func (s *site) hits() int {
	s.Helper()
	linearizable, err := s.Front().ProxyMetric(s.Ctx, "weir_reads_linearizable_total")
	s.Must(err)
	serializable, err := s.Front().ProxyMetric(s.Ctx, "weir_reads_serializable_total")
	s.Must(err)
	return linearizable + serializable
}

// signedTokens is the argument of members with which tokens are signed.
func signedTokens(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a secret of 32 bytes, or of more"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--auth-token=jwt,sign-method=HS256,priv-key=" + key
}
