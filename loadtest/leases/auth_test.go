package leases

import (
	"context"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Whoever may not ping a lease is told what upstream tells, and all others, who share the way there, go on.
func TestPingsAreOfWhoSendsThem(t *testing.T) {
	kinds := []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37, target.ProxyProxyCore}
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pingedByUsers(newSite(t, kind, targettest.SiteOptions{MemberArgs: []string{target.CheapPasswords}}))
		})
	}
}

func pingedByUsers(s *site) {
	direct := targettest.Dial(s, s.Cluster.Members[0].Addr)
	users := addUsers(s, direct, "root", "alice", "bob")
	s.grant(1, 3, 600)
	for id, key := range map[int64]string{1: "/a", 2: "/b"} {
		_, err := pb.NewKVClient(direct).Put(s.Ctx, &pb.PutRequest{Key: []byte(key), Lease: id})
		s.Must(err)
	}
	s.pinger(s.front()).ping(1) // as nobody, while that is enough
	_, err := pb.NewAuthClient(direct).AuthEnable(s.Ctx, &pb.AuthEnableRequest{})
	s.Must(err)

	conns := map[string]*grpc.ClientConn{"at the member": direct, "through the proxy": s.front()}
	contexts := map[string]context.Context{
		"nobody":     s.Ctx,
		"a stranger": metadata.AppendToOutgoingContext(s.Ctx, "token", "forged.1"),
	}
	for _, name := range users {
		r, err := pb.NewAuthClient(direct).Authenticate(s.Ctx, &pb.AuthenticateRequest{Name: name, Password: name + "'s"})
		s.Must(err)
		contexts[name] = metadata.AppendToOutgoingContext(s.Ctx, "token", r.Token)
	}
	// Alice pings all the time, on a stream that must not end.
	alice := s.pinger(conns["through the proxy"])
	alice.ctx = contexts["alice"]
	for who, ctx := range contexts {
		for id, name := range map[int64]string{1: "/a", 2: "/b", 3: "no key", 4: "not there"} {
			said := map[string]string{}
			for where, conn := range conns {
				p := s.pinger(conn)
				p.ctx = ctx
				said[where] = p.answer(id)
				targettest.Want(s, "TTL of alice's lease", alice.ping(1), 600)
			}
			targettest.Want(s, who+" pings the lease of "+name, said["through the proxy"], said["at the member"])
		}
	}
}

// answer pings a lease and returns what the client is told.
func (p *pinger) answer(id int64) string {
	for {
		r, err := p.try(id)
		switch {
		case err == nil:
			return fmt.Sprint("TTL ", r.TTL)
		case status.Code(err) != codes.Unavailable: // the machine is too busy
			return err.Error()
		}
		p.stream = nil
	}
}

// addUsers adds users, of whom alice may write /a and bob /b, and returns their names.
func addUsers(s *site, conn *grpc.ClientConn, names ...string) []string {
	s.Helper()
	auth := pb.NewAuthClient(conn)
	for _, name := range names {
		_, err := auth.UserAdd(s.Ctx, &pb.AuthUserAddRequest{Name: name, Password: name + "'s"})
		s.Must(err)
		_, err = auth.RoleAdd(s.Ctx, &pb.AuthRoleAddRequest{Name: name})
		s.Must(err)
		_, err = auth.UserGrantRole(s.Ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		s.Must(err)
		if name == "root" {
			continue
		}
		_, err = auth.RoleGrantPermission(s.Ctx, &pb.AuthRoleGrantPermissionRequest{
			Name: name, Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("/" + name[:1])},
		})
		s.Must(err)
	}
	return names
}
