package identities

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/proc"
)

// forBadges runs a test over etcd and over a core.
func forBadges(t *testing.T, test func(*testing.T, *badgePlace)) {
	for _, member := range []proc.Program{proc.Etcd37, proc.Core} {
		t.Run(string(member), func(t *testing.T) {
			t.Parallel()
			test(t, newBadgePlace(t, member))
		})
	}
}

func TestCertificateUsersAreToldByAProxyWhatTheClusterTellsThem(t *testing.T) {
	t.Parallel()
	forBadges(t, func(t *testing.T, p *badgePlace) {
		asRoot := p.proxy(p.member, "ghost", "--user="+rootUser+":root's")
		proxies := map[string]string{
			"a proxy with the user root":      asRoot,
			"a proxy with root's certificate": p.proxy(p.member, "root"),
			"a proxy before another":          p.proxy(asRoot, "root"),
		}
		for visitor := range visitors { // before there are goroutines
			p.as(visitor, p.member)
			for _, addr := range proxies {
				p.as(visitor, addr)
			}
		}
		var group sync.WaitGroup
		slots := make(chan struct{}, 100)
		for visitor := range visitors {
			for i, r := range badgeRequests() {
				if r.admin && visitor == "root" {
					continue
				}
				slots <- struct{}{}
				group.Go(func() {
					defer func() { <-slots }()
					name := fmt.Sprintf("%d-%s-", i, visitor)
					want := p.answerOf(visitor, p.member, r.method, r.req(name))
					for what, addr := range proxies {
						got := p.answerOf(visitor, addr, r.method, r.req(name+addr))
						// A ping of who is seen for the first time may have to wait for longer than pings may; clients try again.
						for range 5 {
							if r.method == pb.Lease_LeaseKeepAlive_FullMethodName && got == "Unavailable: etcdserver: request timed out[]" {
								got = p.answerOf(visitor, addr, r.method, r.req(name+addr))
							}
						}
						if got != want {
							t.Errorf("%s with %v, asked by %s of %s:\n got %s\nwant %s", r.method, r.req(name), visitor, what, got, want)
						}
					}
				})
			}
		}
		group.Wait()
		// At etcd anybody may compact.
		for what, addr := range proxies {
			const want = "PermissionDenied: etcdserver: permission denied[]"
			if got := p.answerOf("alice", addr, pb.KV_Compact_FullMethodName, &pb.CompactionRequest{Revision: 1}); got != want {
				t.Errorf("compaction by alice at %s: %s", what, got)
			}
		}
	})
}

func TestACertificateDoesNotCountThroughTheGateway(t *testing.T) {
	t.Parallel()
	forBadges(t, func(t *testing.T, p *badgePlace) {
		// etcd itself refuses in a way of its own who shows a name there.
		places := []string{p.proxy(p.member, "ghost", "--user="+rootUser+":root's"), p.proxy(p.member, "root")}
		for _, addr := range places {
			transport := &http.Transport{TLSClientConfig: p.config("root")}
			for _, path := range []string{"range", "put"} {
				r, err := (&http.Client{Transport: transport}).Post("https://"+addr+"/v3/kv/"+path, "application/json", bytes.NewReader([]byte(`{"key":"YTE="}`)))
				p.must(err)
				body, err := io.ReadAll(r.Body)
				p.must(errors.Join(err, r.Body.Close()))
				if !strings.Contains(string(body), "user name is empty") {
					t.Errorf("%s at %s: %s", path, addr, body)
				}
			}
			transport.CloseIdleConnections()
		}
	})
}

// A proxy that cannot see roles has no way to know what a certificate's user may do.
func TestWithoutTheRoleRootOfItsOwnAProxyTakesCertificateUsersForNobody(t *testing.T) {
	t.Parallel()
	forBadges(t, func(t *testing.T, p *badgePlace) {
		p.issue("reader", "reader")
		token, err := pb.NewAuthClient(p.as("root", p.member)).Authenticate(p.ctx, &pb.AuthenticateRequest{Name: "alice", Password: "alice's"})
		p.must(err)
		for what, flags := range map[string][]string{
			"user":                 {"ghost", "--user=reader:reader's"},
			"certificate":          {"reader"},
			"nameless certificate": {"nameless"}, // to the cluster its owner is somebody
		} {
			addr := p.proxyWhen(p.member, flags[0], func(addr string) error {
				_, err := pb.NewKVClient(p.as("alice", addr)).Range(p.ctx, &pb.RangeRequest{Key: []byte("a1")})
				if isAnyOf(err, rpctypes.ErrGRPCUserEmpty) {
					return nil
				}
				return fmt.Errorf("not refused: %w", err)
			}, flags[1:]...)
			for _, visitor := range []string{"root", "alice", "ghost", "nameless"} {
				for _, r := range []badgeRequest{
					ask(pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: []byte("a1")}),
					ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("a1")}),
					ask(pb.Auth_AuthDisable_FullMethodName, &pb.AuthDisableRequest{}),
					ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{TTL: 60}),
				} {
					const want = "InvalidArgument: etcdserver: user name is empty[]"
					if got := p.answerOf(visitor, addr, r.method, r.req("")); got != want {
						t.Errorf("%s asked by %s of a proxy with its own %s: %s", r.method, visitor, what, got)
					}
				}
			}
			ctx := withToken(p.ctx, token.Token)
			kv := pb.NewKVClient(p.as("ghost", addr))
			if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a1")}); err != nil {
				t.Errorf("a token does not count: %v", err)
			}
			if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("z")}); !isAnyOf(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("error %v", err)
			}
		}
	})
}

func TestACertificateUserWhoLosesARightLosesReadsAndOpenWatches(t *testing.T) {
	t.Parallel()
	forBadges(t, func(t *testing.T, p *badgePlace) {
		addr := p.proxy(p.member, "root")
		auth := pb.NewAuthClient(p.as("root", p.member))
		kv := pb.NewKVClient(p.as("alice", addr))
		watch, err := pb.NewWatchClient(p.as("alice", addr)).Watch(p.ctx)
		p.must(err)
		for _, key := range []string{"a", "r"} {
			p.must(watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
				CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(key + "z")},
			}}))
			r, err := watch.Recv()
			p.must(err)
			if !r.Created || r.Canceled {
				t.Fatalf("answer %v", r)
			}
		}
		_, err = auth.RoleRevokePermission(p.ctx, &pb.AuthRoleRevokePermissionRequest{Role: "a", Key: []byte("a"), RangeEnd: []byte("b")})
		p.must(err)
		r, err := watch.Recv()
		p.must(err)
		if r.WatchId != 0 || !r.Canceled || !strings.Contains(r.CancelReason, "permission denied") {
			t.Errorf("answer %v", r)
		}
		// By now it is known.
		for _, serializable := range []bool{false, true} {
			_, err = kv.Range(p.ctx, &pb.RangeRequest{Key: []byte("a1"), Serializable: serializable})
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("error %v", err)
			}
		}
		// The other watch goes on.
		_, err = pb.NewKVClient(p.as("root", p.member)).Put(p.ctx, &pb.PutRequest{Key: []byte("r1")})
		p.must(err)
		if r, err = watch.Recv(); err != nil || r.WatchId != 1 || len(r.Events) != 1 {
			t.Errorf("answer %v, error %v", r, err)
		}
		// What is granted counts at once.
		_, err = auth.RoleGrantPermission(p.ctx, &pb.AuthRoleGrantPermissionRequest{Name: "a", Perm: &authpb.Permission{Key: []byte("a1")}})
		p.must(err)
		if _, err = kv.Range(p.ctx, &pb.RangeRequest{Key: []byte("a1")}); err != nil {
			t.Error(err)
		}
	})
}
