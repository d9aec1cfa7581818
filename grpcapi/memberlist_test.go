package grpcapi

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// threeMembers are a cluster's: two that serve, and one that has been added and not started yet.
func threeMembers() []*pb.Member {
	return []*pb.Member{
		{ID: 1, Name: "m1", PeerURLs: []string{"http://10.0.0.1:2380"}, ClientURLs: []string{"http://10.0.0.1:2379", "https://db:2379"}},
		{ID: 2, Name: "m2", PeerURLs: []string{"http://10.0.0.2:2380"}, ClientURLs: []string{"http://10.0.0.2:2379"}, IsLearner: true},
		{ID: 3, PeerURLs: []string{"http://10.0.0.3:2380"}},
	}
}

// at is threeMembers as they are told to who has come by url.
func at(url string) []*pb.Member {
	all := threeMembers()
	for _, m := range all[:2] {
		m.ClientURLs = []string{url}
	}
	return all
}

func expectMembers(t *testing.T, what string, conn *grpc.ClientConn, want []*pb.Member) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-host", "no.gateway:1")
	got, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil || !slices.EqualFunc(got.Members, want, func(a, b *pb.Member) bool { return proto.Equal(a, b) }) {
		t.Errorf("%s: got %v, %v; want %v", what, got, err, want)
	}
}

func TestMembersAreToldWhereTheClientHasReachedTheProxy(t *testing.T) {
	header := &pb.ResponseHeader{ClusterId: 7}
	u := &fakeUpstream{answer: marshal(t, &pb.MemberListResponse{Header: header, Members: threeMembers()})}
	plain := start(t, NewForwardServer(Config{Gateway: true, Logger: quiet()}, u, nil, nil))
	plaintext := grpc.WithTransportCredentials(insecure.NewCredentials())
	for authority, want := range map[string]string{
		"proxy.example.com:23790": "http://proxy.example.com:23790",
		"[::1]:23790":             "http://[::1]:23790",
		// What cannot be dialled.
		"proxy.example.com": "http://" + plain, "": "http://" + plain, ":23790": "http://" + plain,
		"a@b:1": "http://" + plain, "a:1/path": "http://" + plain, "a:b": "http://" + plain, "localhost:": "http://" + plain,
	} {
		opts := []grpc.DialOption{plaintext, grpc.WithAuthority(authority)}
		expectMembers(t, "authority "+authority, dial(t, plain, opts...), at(want))
	}
	resp, err := pb.NewClusterClient(dial(t, plain)).MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil || resp.Header.GetClusterId() != 7 {
		t.Errorf("the header is not upstream's: %v, %v", resp, err)
	}

	cert, ca := selfSigned(t, "proxy")
	secure := startOn(t, NewForwardServer(Config{Gateway: true, Logger: quiet()}, u, nil, nil), Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	// One that offers http/1.1 too meets net/http.
	for _, protocols := range [][]string{{"h2"}, {"h2", "http/1.1"}} {
		creds := credentials.NewTLS(&tls.Config{RootCAs: ca, NextProtos: protocols})
		expectMembers(t, "TLS", dial(t, secure, grpc.WithTransportCredentials(creds)), at("https://"+secure))
	}

	for base, scheme := range map[string]string{"http://" + plain: "http://", "https://" + secure: "https://"} {
		c := jsonClient(t)
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: ca}
		resp, err := c.Post(base+"/v3/cluster/member/list", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := `"clientURLs":["` + base + `"]`; err != nil || strings.Count(string(body), want) != 2 {
			t.Errorf("gateway by %s: got %s, %v; want %s twice", scheme, body, err, want)
		}
	}
}

func TestMembersKeepURLsThatLeadHere(t *testing.T) {
	u := &fakeUpstream{answer: marshal(t, &pb.MemberListResponse{Members: threeMembers()})}
	s := NewForwardServer(Config{KeepClientURLs: true, Logger: quiet()}, u, nil, nil)
	expectMembers(t, "kept", dial(t, start(t, s)), threeMembers())
}

func TestProxiesAreToldInPlaceOfTheMembers(t *testing.T) {
	proxies := []*pb.Member{{Name: "host", ClientURLs: []string{"10.1.0.1:23790"}}, {Name: "other", ClientURLs: []string{"10.1.0.2:23790"}}}
	s := NewForwardServer(Config{
		AdvertiseClientURL: "10.1.0.1:23790", Logger: quiet(), Proxies: func(context.Context) []*pb.Member { return proxies },
	}, &fakeUpstream{}, nil, nil)
	expectMembers(t, "proxies", dial(t, start(t, s)), proxies)
}
