package discovery

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

const (
	prefix = "/proxies"
	ttl    = 2 // seconds; etcd makes it more if it is less than its election takes
)

// startProgram starts a program that a test ends by itself, or that is killed when it is over.
func startProgram(s *targettest.Site, program proc.Program, args ...string) *proc.Process {
	s.Helper()
	path, err := bin.Build(s.Ctx, program)
	s.Must(err)
	p, err := proc.Start(string(program), path, args, nil)
	s.Must(err)
	s.Cleanup(func() { s.Must(p.Kill()) })
	return p
}

// register starts a proxy that registers, weir's or etcd's, and returns where it is.
func register(s *targettest.Site, program proc.Program, args ...string) (*proc.Process, string) {
	s.Helper()
	addr, err := proc.FreeAddr()
	s.Must(err)
	if program != proc.Proxy {
		args = append([]string{"grpc-proxy", "start"}, args...)
	}
	p := startProgram(s, program, append(args, "--listen-addr="+addr, "--advertise-client-url="+addr, "--endpoints="+s.Cluster.Members[0].Addr,
		"--resolver-prefix="+prefix, fmt.Sprintf("--resolver-ttl=%d", ttl))...)
	s.Must(p.WaitReady(s.Ctx, target.Serves(addr)))
	return p, addr
}

func TestRegisteredProxiesAreSeenByEachOtherByEtcdsAndByNaming(t *testing.T) {
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		for _, namespace := range []string{"", "/app"} {
			t.Run(string(kind)+" "+namespace, func(t *testing.T) {
				t.Parallel()
				s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute})
				args := []string{"--namespace=" + namespace}
				_, etcds := register(s, proc.Etcd37, args...)
				killed, first := register(s, proc.Proxy, args...)
				stopped, second := register(s, proc.Proxy, args...)
				eventuallyURLs(s, 10*time.Second, []string{etcds, first, second}, etcds, first, second)

				manager, err := endpoints.NewManager(targettest.Client(s, s.Endpoint()), namespace+prefix)
				s.Must(err)
				listed, err := manager.List(s.Ctx)
				s.Must(err)
				ours, theirs := listed[namespace+prefix+"/"+first], listed[namespace+prefix+"/"+etcds]
				ours.Addr, theirs.Addr = "", ""
				targettest.Want(t, "what else is registered", fmt.Sprint(ours), fmt.Sprint(theirs)) // the same host's name

				// A client that follows goes to all of them.
				c := targettest.Client(s, first)
				s.Must(c.Sync(s.Ctx))
				got := slices.Sorted(slices.Values(c.Endpoints()))
				targettest.Want(t, "endpoints", strings.Join(got, " "), strings.Join(slices.Sorted(slices.Values([]string{etcds, first, second})), " "))

				began := time.Now()
				s.Must(stopped.Stop())
				eventuallyURLs(s, time.Second, []string{etcds, first}, etcds)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("a proxy that was told to stop was seen for %v", took)
				}
				s.Must(killed.Kill())
				eventuallyURLs(s, 20*time.Second, []string{etcds}, etcds)
			})
		}
	}
}

func TestLostRegistrationIsWrittenAgain(t *testing.T) {
	t.Parallel()
	s := targettest.NewSite(t, bin, target.Etcd37, targettest.SiteOptions{Timeout: 2 * time.Minute})
	_, proxy := register(s, proc.Proxy)
	c := targettest.Client(s, s.Endpoint())
	lease := func() clientv3.LeaseID {
		s.Helper()
		r, err := c.Get(s.Ctx, prefix+"/"+proxy)
		s.Must(err)
		if len(r.Kvs) == 0 {
			return 0
		}
		return clientv3.LeaseID(r.Kvs[0].Lease)
	}
	again := func(lost clientv3.LeaseID) {
		s.Helper()
		s.Eventually(20*time.Second, "it is registered again", func() error {
			if l := lease(); l == 0 || l == lost {
				return errors.New("it is not")
			}
			return nil
		})
	}
	again(0)
	lost := lease()
	_, err := c.Revoke(s.Ctx, lost)
	s.Must(err)
	again(lost)

	// An outage that is longer than the lease; etcd lets leases begin anew when it comes back.
	m := s.Cluster.Members[0]
	s.Must(m.Kill())
	s.Must(m.Restart())
	s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
	again(0)
	lost = lease()
	_, err = c.Revoke(s.Ctx, lost)
	s.Must(err)
	again(lost)
}

// The key is the proxy's own, so it is written with the proxy's own rights, and so are the others read, whoever asks.
func TestRegistrationIsUnderTheProxysOwnRights(t *testing.T) {
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute, MemberArgs: []string{target.CheapPasswords}})
			c := targettest.Client(t, s.Endpoint())
			for _, user := range []string{"root", "proxy"} {
				_, err := c.UserAdd(s.Ctx, user, "secret")
				s.Must(err)
				_, err = c.RoleAdd(s.Ctx, user)
				s.Must(err)
				_, err = c.UserGrantRole(s.Ctx, user, user)
				s.Must(err)
			}
			_, err := c.RoleGrantPermission(s.Ctx, "proxy", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite))
			s.Must(err)
			_, err = c.AuthEnable(s.Ctx)
			s.Must(err)
			stopped, first := register(s, proc.Proxy, "--user=proxy:secret")
			_, second := register(s, proc.Proxy, "--user=root:secret")
			eventuallyURLs(s, 10*time.Second, []string{first, second}, first, second)
			s.Must(stopped.Stop())
			eventuallyURLs(s, 5*time.Second, []string{second}, second)
		})
	}
}
