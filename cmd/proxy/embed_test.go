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

// statusOf is what the proxy at an address says at /weir/status.
func statusOf(t *testing.T, address string) (s proxy.Status) {
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
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
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
	for began := time.Now(); ; {
		s := statusOf(t, address)
		if s.Upstream.Guarded {
			break
		}
		if s.Access.Error != "" || time.Since(began) > time.Minute {
			t.Fatalf("users share nothing: %+v", s)
		}
	}
}
