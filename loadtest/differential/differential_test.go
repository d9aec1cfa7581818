package differential

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	steps = flag.Int("steps", 3000, "requests of one run")
	seed  = flag.Uint64("seed", 0, "seed of the requests; 0 for a random one")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// Two etcds prove that the comparison is sound: it finds nothing where there is nothing.
func TestAnswersAreThoseOfEtcd(t *testing.T) {
	for _, kind := range []target.Kind{target.Etcd37, target.Etcd37Of3, target.Core, target.CoreOf3, target.ProxyCore, target.ProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			compare(t, kind)
		})
	}
}

// A signed token states the revision of users and roles at which it was made, and is void at any later one.
func TestAnswersToSignedTokensAreThoseOfEtcd(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a secret of 32 bytes, or of more"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			compare(t, kind, "--auth-token=jwt,sign-method=HS256,priv-key="+key)
		})
	}
}

// compare runs an etcd beside another kind of target.
func compare(t *testing.T, kind target.Kind, memberArgs ...string) {
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("seed %d, %d steps", n, *steps)
	memberArgs = append(memberArgs, target.CheapPasswords)
	etcd, other := targettest.Start(t, bin, target.Etcd37, memberArgs...), targettest.Start(t, bin, kind, memberArgs...)
	report, err := Run(t.Context(), etcd, other, n, *steps)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("compared:\n%s", report)
}
