package grpcapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// memberBackend has members.
type memberBackend struct {
	*fakeBackend
	members []*pb.Member
	err     error
}

func (b *memberBackend) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	return &pb.MemberListResponse{Header: &pb.ResponseHeader{ClusterId: 0xabc}, Members: b.members}, b.err
}

func TestPeerPortTellsOfTheMembersAndSpeaksToNoEtcd(t *testing.T) {
	b := &memberBackend{fakeBackend: &fakeBackend{status: &pb.StatusResponse{Version: "3.7.3", StorageVersion: "3.7.0"}}}
	b.members = []*pb.Member{
		{ID: 10981153221348377949, Name: "m1", PeerURLs: []string{"http://a:1"}, ClientURLs: []string{"http://a:2"}},
		{ID: 2, PeerURLs: []string{"http://b:1"}, IsLearner: true},
	}
	h := PeerHTTP(b)
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{http.MethodGet, "/version", 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{http.MethodGet, "/members", 200, `[{"id":10981153221348377949,"peerURLs":["http://a:1"],"name":"m1","clientURLs":["http://a:2"]},` +
			`{"id":2,"peerURLs":["http://b:1"],"isLearner":true}]` + "\n"},
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
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/members", nil))
	if id := w.Header().Get("X-Etcd-Cluster-ID"); id != "abc" {
		t.Errorf("cluster id %q", id)
	}
	b.err = rpctypes.ErrGRPCUserEmpty
	if code, body := request(h, http.MethodGet, "/members"); code != 401 || body != "etcdserver: user name is empty\n" {
		t.Errorf("got %d %s", code, body)
	}
}
