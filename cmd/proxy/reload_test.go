package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/cmd/internal/process"
	"weir/proxy"
)

// quietLog writes nothing that a test causes.
func quietLog(t *testing.T) *process.Log {
	t.Helper()
	log, err := process.OpenLog(process.LogConfig{Level: "fatal"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// A configuration file that is cut off, or emptied where the endpoints are flags, must not open all keys to everybody.
func TestTenantsDoNotGoAwayWhileTheProxyRuns(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tenants := write("tenants.yaml", "tenants:\n- {name: a, users: [ann], namespace: /a/}\n")
	file := write("proxy.yaml", "tenants-file: "+tenants+"\n")
	args := []string{"--endpoints=127.0.0.1:1", "--config-file=" + file}
	o, err := parseOptions(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newReload(o, args, nil, quietLog(t))
	if r.proxy, err = proxy.New(o.proxyConfig(certificates{}, quiet())); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.proxy.Close() }()
	reload := func(text string) error {
		t.Helper()
		write("proxy.yaml", text)
		values, apply, err := r.readOptions()
		if err != nil {
			t.Fatal(err)
		}
		return apply(process.Changed(o.flags.Values(), values))
	}
	for _, text := range []string{"", "limit-requests: 5\n"} {
		if err := reload(text); !errors.Is(err, process.ErrNeedsRestart) {
			t.Errorf("%q: got %v", text, err)
		}
		if _, err := r.proxy.Gate().Enter(t.Context(), pb.KV_Range_FullMethodName, nil); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%q: who is no tenant: %v", text, err)
		}
	}
	other := write("other.yaml", "tenants:\n- {name: b, users: [bob]}\ndefault: {namespace: /rest/}\n")
	if err := reload("tenants-file: " + other); err != nil {
		t.Error(err)
	}
	if _, err := r.proxy.Gate().Enter(t.Context(), pb.KV_Range_FullMethodName, nil); err != nil {
		t.Errorf("by another file: %v", err)
	}
}

func TestATenantsFileThatHasNotChangedIsNoReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tenants.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tenants:\n- {name: a, users: [ann], namespace: /a/}\n")
	args := []string{"--endpoints=127.0.0.1:1", "--tenants-file=" + file}
	o, err := parseOptions(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newReload(o, args, nil, quietLog(t))
	if r.proxy, err = proxy.New(o.proxyConfig(certificates{}, quiet())); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.proxy.Close() }()
	for i, text := range []string{"", "tenants:\n- {name: a, users: [ann], namespace: /b/}\n", ""} {
		if text != "" {
			write(text)
		}
		if err := r.lookTenants(true); err != nil {
			t.Fatal(err)
		}
		reloaded := uint64(0)
		for _, s := range r.Status() {
			reloaded += s.Reloaded
		}
		if want := uint64(min(i, 1)); reloaded != want {
			t.Errorf("look %d: %d reloads, want %d", i, reloaded, want)
		}
	}
}
