package grpcapi

import (
	"net/http"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestPeerPortTellsOfTheMembersAndSpeaksToNoEtcd(t *testing.T) {
	b := &fakeBackend{status: &pb.StatusResponse{Version: "3.7.3", StorageVersion: "3.7.0"}}
	h := PeerHTTP(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("[]")) }))
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{http.MethodGet, "/version", 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{http.MethodGet, "/members", 200, "[]"},
		{http.MethodPost, "/members", 405, "Method Not Allowed\n"},
		{http.MethodPost, "/raft", 501, ""},
		{http.MethodGet, "/raft/stream/msgapp/1", 501, ""},
		{http.MethodPost, "/members/promote/2", 501, ""},
		{http.MethodGet, "/health", 404, "404 page not found\n"},
		{http.MethodGet, "/", 404, "404 page not found\n"},
	} {
		code, body := request(h, c.method, c.path)
		if code != c.code || c.body != "" && body != c.body {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, body)
		}
	}
}
