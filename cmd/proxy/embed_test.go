package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weir/proxy"
)

// statusOf asks the proxy at address, as root. While authentication is being switched on it may not be known who that is.
func statusOf(t *testing.T, address string) (s proxy.Status, known bool) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/weir/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("root", "secret") // for when authentication is on
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return s, false
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(resp.Status, err)
	}
	return s, true
}

func TestProxyWithAUserSharesWithItsEmbeddedCoreToo(t *testing.T) {
	address := freeAddress(t)
	stdout, stop := start(t, "--embedded", "--listen-addr="+address, "--data-dir="+filepath.Join(t.TempDir(), "data"), "--user=proxy:secret")
	if _, err := stdout.ReadString('\n'); err != nil {
		t.Fatal(err, stop())
	}
	defer func() {
		http.DefaultClient.CloseIdleConnections()
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	auth := pb.NewAuthClient(conn)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(auth.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "root"}))
	for _, name := range []string{"root", "proxy"} {
		must(auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: name, Password: "secret"}))
		must(auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: name, Role: "root"}))
	}
	must(auth.AuthEnable(t.Context(), &pb.AuthEnableRequest{}))
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) { // each question may have a password hashed
		if s, known := statusOf(t, address); known && s.Upstream.Guarded {
			break
		} else if time.Since(began) > time.Minute {
			t.Fatalf("users share nothing: %+v", s)
		}
	}
}
