package proxy

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEndpointsAreTheClientURLsOfVoters(t *testing.T) {
	member := func(name string, urls ...string) *pb.Member { return &pb.Member{Name: name, ClientURLs: urls} }
	learner := member("l", "http://l:1")
	learner.IsLearner = true
	cases := []struct {
		name    string
		members []*pb.Member
		want    string
		err     string
	}{
		{name: "all", members: []*pb.Member{member("a", "http://a:1"), member("b", "http://b:1", "https://b:2")}, want: "http://a:1 http://b:1 https://b:2"},
		{name: "learner and unstarted", members: []*pb.Member{learner, member("", "http://u:1"), member("b", "http://b:1")}, want: "http://b:1"},
		{name: "none", err: "has a client URL"},
		{name: "learner only", members: []*pb.Member{learner}, err: "has a client URL"},
		{name: "none with URLs", members: []*pb.Member{member("a")}, err: "has a client URL"},
		{name: "who was asked", members: []*pb.Member{member("a", "http://here:1")}},
		{name: "a proxy, which names itself for all", members: []*pb.Member{member("a", "http://here:1"), member("b", "http://here:1")}},
		{name: "malformed", members: []*pb.Member{member("a", "http://a:1/path")}, err: "client URL of member a"},
	}
	f, dial := serveEtcd(t)
	p := newProxy(t, Config{Endpoints: []string{"here:1"}, Dial: dial})
	for _, c := range cases {
		f.do(func() { f.members = c.members })
		found, err := p.upstream.membersURLs(p.guard)
		if got := strings.ReplaceAll(namesOf(found), ",", " "); got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %s, %v", c.name, got, err)
		}
	}
}

func TestEndpointsFollowTheMembers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const interval = time.Minute
		known := func(p *Proxy) string {
			p.upstream.mu.Lock()
			defer p.upstream.mu.Unlock()
			var names []string
			for _, m := range p.upstream.members {
				names = append(names, strings.TrimPrefix(m.endpoint, "http://"))
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		f, dial := serveEtcd(t)
		p := newProxy(t, Config{
			Endpoints: []string{"a:1", "b:1"}, EndpointsSyncInterval: interval,
			Dial: func(ctx context.Context, e string) (net.Conn, error) { return dial(ctx, e) },
		})
		steps := []struct{ urls, want string }{
			{"a:1 b:1 c:1", "a:1 b:1 c:1"},
			{"b:1 c:1", "b:1 c:1"},
			{"", "b:1 c:1"},
			{"refused", "b:1 c:1"},
			{"d:1 e:1", "d:1 e:1"},
		}
		for _, s := range steps {
			f.do(func() {
				f.members, f.down = nil, nil
				if s.urls == "refused" {
					f.down = status.Error(codes.PermissionDenied, "no")
					return
				}
				for url := range strings.FieldsSeq(s.urls) {
					f.members = append(f.members, &pb.Member{Name: url, ClientURLs: []string{"http://" + url}})
				}
			})
			time.Sleep(interval + interval/10 + time.Second)
			synctest.Wait()
			if got := known(p); got != s.want {
				t.Errorf("members %q: endpoints are %s, want %s", s.urls, got, s.want)
			}
		}
		p.Close()
	})
}
