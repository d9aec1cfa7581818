package foreign

import (
	"path/filepath"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// kinds are those that the clients talk to, etcd first, which proves the tests.
func kinds() []target.Kind {
	return []target.Kind{target.Etcd37, target.Core, target.ProxyCore, target.ProxyEtcd37}
}

// start starts a target with an empty store, which clients reach with TLS or without.
func start(t *testing.T, kind target.Kind, secure bool) (*target.Target, *target.TLS) {
	t.Helper()
	dir := t.TempDir()
	var o target.Options
	if secure {
		var err error
		if o.TLS, err = target.NewTLS(dir); err != nil {
			t.Fatal(err)
		}
	}
	return targettest.StartWith(t, bin, kind, filepath.Join(dir, "data"), o), o.TLS
}

// everyTransport runs f for each kind, without TLS and with it.
func everyTransport(t *testing.T, f func(t *testing.T, kind target.Kind, secure bool)) {
	for _, kind := range kinds() {
		for name, secure := range map[string]bool{"plaintext": false, "TLS": true} {
			t.Run(string(kind)+"/"+name, func(t *testing.T) {
				t.Parallel()
				f(t, kind, secure)
			})
		}
	}
}
