package crash

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// A proxy whose upstream is down listens, says why it is not ready, and answers Unavailable; it serves once the
// upstream is there, and again after it was away.
func TestProxyOutlivesItsUpstream(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	proxyAddr, coreAddr := freeAddr(t), freeAddr(t)
	proxy := start(t, proc.Proxy, "--listen-addr="+proxyAddr, "--endpoints="+coreAddr)
	if err := proxy.WaitReady(ctx, func(ctx context.Context) error {
		_, body, err := get(ctx, proxyAddr, "/readyz")
		if err == nil && !strings.Contains(body, coreAddr) {
			return fmt.Errorf("/readyz does not name %s: %s", coreAddr, body)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	refuses(t, ctx, proxyAddr)

	core := start(t, proc.Core, target.MemberArgs("m1", filepath.Join(t.TempDir(), "data"), coreAddr, freeAddr(t))...)
	for range 2 {
		if err := proxy.WaitReady(ctx, target.Serves(proxyAddr)); err != nil {
			t.Fatal(err)
		}
		if code, body, err := get(ctx, proxyAddr, "/readyz"); err != nil || code != http.StatusOK {
			t.Errorf("/readyz of a proxy that serves: %d %s %v", code, body, err)
		}
		if err := core.Kill(); err != nil {
			t.Fatal(err)
		}
		refuses(t, ctx, proxyAddr)
		if err := core.Restart(); err != nil {
			t.Fatal(err)
		}
	}
}

// start starts a program that is ended with the test.
func start(t *testing.T, program proc.Program, args ...string) *proc.Process {
	t.Helper()
	path, err := bin.Build(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proc.Start(string(program), path, args, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// refuses checks what is answered while the upstream is down.
func refuses(t *testing.T, ctx context.Context, addr string) {
	t.Helper()
	conn, err := target.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("a")})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("put without upstream: %v", err)
	}
	if code, body, err := get(ctx, addr, "/readyz"); err != nil || code != http.StatusServiceUnavailable {
		t.Errorf("/readyz without upstream: %d %s %v", code, body, err)
	}
}

func get(ctx context.Context, addr, path string) (code int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return 0, "", err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}
