package reads

import (
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

const (
	password = "a password"
	// revokedWithin is how long after authentication was switched on reads may still be answered from memory: the second
	// that is promised, and what a busy machine adds.
	revokedWithin = time.Second + slack
)

// Authentication is switched on while the proxy answers from memory. Who has no identity is refused within a second, as by
// upstream, and who has one is given exactly what upstream gives. Of etcd's grpc-proxy issue 22065 reports that it gives
// everybody what one of them was allowed to read. When it is switched off, reads come from memory again.
func TestAuthenticationEndsAnswersFromMemory(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35, target.ProxyProxyEtcd37}, switchAuthentication, cacheAll)
}

func switchAuthentication(s *site) {
	direct, anonymous := s.member(), s.dial()
	auth := pb.NewAuthClient(direct.conn)
	s.addUser(auth, "root", "root", nil)
	s.addUser(auth, "low", "reader", &authpb.Permission{PermType: authpb.Permission_READ, Key: []byte("/public/"), RangeEnd: []byte("/public0")})
	for _, prefix := range []string{"/public/", "/secret/"} {
		direct.putAll(targettest.Keys(prefix, 30), "before")
		s.awaitCached(below(prefix))
	}
	_, err := auth.AuthEnable(s.Ctx, &pb.AuthEnableRequest{})
	s.Must(err)
	switched := time.Now()
	root, low := s.token(auth, "root"), s.token(auth, "low")

	secret := below("/secret/")
	for _, r := range []*pb.RangeRequest{secret, serializable(secret), serializable(single("/secret/000003"))} {
		s.Eventually(time.Until(switched.Add(revokedWithin)), fmt.Sprintf("refusal of %v", r), func() error {
			if _, err := anonymous.read(r); err == nil {
				return errNotYet
			}
			return nil
		})
	}
	// From now on everybody is told what upstream tells.
	direct.with(root).putAll(targettest.Keys("/secret/", 5), "secret")
	for range 3 {
		for name, token := range map[string]string{"root": root, "low": low, "nobody": "", "a liar": "made up"} {
			s.sameForIdentity(name, token)
		}
	}

	_, err = auth.AuthDisable(direct.with(root).ctx, &pb.AuthDisableRequest{})
	s.Must(err)
	s.Eventually(10*time.Second, "answers from memory again", func() error {
		hits := s.hits()
		if _, err := anonymous.read(serializable(secret)); err != nil || s.hits() == hits {
			return fmt.Errorf("%w: %w", errNotYet, err)
		}
		return nil
	})
	if err := sameAnswer(anonymous.get(secret), direct.get(secret)); err != nil {
		s.Errorf("after authentication was switched off again: %v", err)
	}
}

// sameForIdentity compares what one identity is told by the member and by the proxy.
func (s *site) sameForIdentity(name, token string) {
	s.Helper()
	direct, c := s.member(), s.dial()
	if token != "" {
		direct, c = direct.with(token), c.with(token)
	}
	for _, r := range []*pb.RangeRequest{
		below("/secret/"), below("/public/"), single("/secret/000003"), single("/public/000003"), fromKey("/"),
		pinned(below("/secret/"), 3), pinned(below("/public/"), 3),
	} {
		for _, r := range []*pb.RangeRequest{r, serializable(r)} {
			now, refused := direct.read(r)
			got, err := c.read(r)
			targettest.Want(s, fmt.Sprintf("error of %v for %s", r, name), errText(err), errText(refused))
			if err == nil && refused == nil {
				if err := sameAnswer(got, now); err != nil {
					s.Errorf("%v for %s: %v", r, name, err)
				}
			}
			txn := &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(r)}}
			_, refused = direct.kv.Txn(direct.ctx, txn)
			_, err = c.kv.Txn(c.ctx, txn)
			targettest.Want(s, fmt.Sprintf("error of a transaction with %v for %s", r, name), errText(err), errText(refused))
			_, refused = direct.stream(r)
			_, err = c.stream(r)
			targettest.Want(s, fmt.Sprintf("error of a stream of %v for %s", r, name), errText(err), errText(refused))
		}
	}
}

// While authentication is off a token means nothing, as at etcd: whoever shows one is answered from memory as all are.
func TestATokenMeansNothingWhileAuthenticationIsOff(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37}, func(s *site) {
		s.member().putAll(targettest.Keys("/a/", 10), "value")
		s.awaitCached(below("/a/"))
		c := s.dial().with("some token")
		hits := s.hits()
		const reads = 50
		for range reads {
			c.get(serializable(below("/a/")))
		}
		targettest.Want(s, "reads answered from memory", s.hits()-hits, reads)
	}, cacheAll)
}

// addUser makes a user with one role; that of root needs no permission.
func (s *site) addUser(auth pb.AuthClient, user, role string, may *authpb.Permission) {
	s.Helper()
	_, err := auth.UserAdd(s.Ctx, &pb.AuthUserAddRequest{Name: user, Password: password})
	s.Must(err)
	_, err = auth.RoleAdd(s.Ctx, &pb.AuthRoleAddRequest{Name: role})
	s.Must(err)
	if may != nil {
		_, err = auth.RoleGrantPermission(s.Ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: may})
		s.Must(err)
	}
	_, err = auth.UserGrantRole(s.Ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: role})
	s.Must(err)
}

// token is one for a user. Authentication must be on.
func (s *site) token(auth pb.AuthClient, user string) string {
	s.Helper()
	r, err := auth.Authenticate(s.Ctx, &pb.AuthenticateRequest{Name: user, Password: password})
	s.Must(err)
	return r.Token
}
