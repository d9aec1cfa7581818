//go:build foreign && linux

package foreign

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// disturbance is something that happens to the store. A leader must come through it as leader.
type disturbance struct {
	name string
	do   func() error
	then func() error // when the nodes have gone on meanwhile
}

// stores are what Patroni works with: how it reaches each, and what happens to it.
var stores = map[string]func(*testing.T) (*database, []disturbance){
	"etcd-3.7": func(t *testing.T) (*database, []disturbance) {
		return newDatabase(t, []string{"PATRONI_ETCD3_HOSTS=" + targettest.Start(t, bin, target.Etcd37).Endpoint}), nil
	},
	"three-cores":              threeCores,
	"two-proxies-over-etcd":    twoProxies,
	"TLS-and-user-over-a-core": secured,
}

// A PostgreSQL under Patroni, with weir in etcd's place: it forms, keeps its leader through what happens to the store, changes
// it when asked to, and when the leader is gone. Nothing is lost that both nodes had.
func TestPatroni(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex // guards failovers
	failovers := map[string]time.Duration{}
	t.Run("over", func(t *testing.T) {
		for name, start := range stores {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				db, disturbances := start(t)
				failover := db.fromStartToFailover(disturbances)
				mu.Lock()
				defer mu.Unlock()
				failovers[name] = failover
			})
		}
	})
	reference := failovers["etcd-3.7"]
	for name, took := range failovers {
		t.Logf("over %s another node led %v after the leader was killed", name, took.Round(100*time.Millisecond))
		if reference > 0 {
			t.Logf("that is %.2f of what it took over etcd", took.Seconds()/reference.Seconds())
		}
	}
}

// fromStartToFailover takes a database through its life, and tells how long it was without a leader when that was killed.
func (db *database) fromStartToFailover(disturbances []disturbance) time.Duration {
	db.Helper()
	for _, n := range db.nodes {
		db.start(n)
	}
	leader, replica := db.leader()
	list := db.patronictl("list")
	for _, role := range []string{"Leader", "Replica"} {
		if !strings.Contains(list, role) {
			db.Errorf("patronictl list shows no %s:\n%s", role, list)
		}
	}
	db.mustSQL(leader, `CREATE TABLE kept (row text); INSERT INTO kept VALUES ('a')`)
	db.awaitRows(replica, "a")

	const identity = `SELECT pg_is_in_recovery(), pg_postmaster_start_time(), timeline_id FROM pg_control_checkpoint()`
	before := db.mustSQL(leader, identity)
	for _, d := range disturbances {
		if err := d.do(); err != nil {
			db.Fatalf("%s: %v", d.name, err)
		}
		db.awaitRounds()
		if d.then != nil {
			if err := d.then(); err != nil {
				db.Fatalf("after %s: %v", d.name, err)
			}
		}
		targettest.Want(db, "the leader after "+d.name, db.mustSQL(leader, identity), before)
	}

	db.patronictl("switchover", "--leader="+leader.name, "--candidate="+replica.name, "--force")
	leader, replica = replica, leader
	db.awaitRoles(leader, replica)
	db.mustSQL(leader, `INSERT INTO kept VALUES ('b')`)
	db.awaitRows(replica, "a b")

	killed := time.Now()
	db.kill(leader)
	leader, replica = replica, leader
	db.eventually("another leader", func() error { return db.leads(leader) })
	failover := time.Since(killed)
	db.mustSQL(leader, `INSERT INTO kept VALUES ('c')`)
	if err := replica.Restart(); err != nil {
		db.Fatal(err)
	}
	db.awaitRoles(leader, replica)
	db.awaitRows(leader, "a b c")
	db.awaitRows(replica, "a b c")
	return failover
}

// threeCores are members that Patroni reaches directly, and asks of each other. Their leader changes, and is killed.
func threeCores(t *testing.T) (*database, []disturbance) {
	c := targettest.StartCluster(t, bin, proc.Core, target.ClusterOptions{Members: 3})
	db := newDatabase(t, []string{"PATRONI_ETCD3_HOSTS=" + strings.Join(c.Endpoints(), ",")})
	client := targettest.Client(t, c.Endpoints()[0])
	// roles tells the leader from another member.
	roles := func() (leader, other *target.Member, otherID uint64, err error) {
		for _, m := range c.Members {
			s, err := client.Status(db.ctx, m.Addr)
			if err != nil {
				return nil, nil, 0, err
			}
			if s.Leader == s.Header.MemberId {
				leader = m
			} else {
				other, otherID = m, s.Header.MemberId
			}
		}
		if leader == nil {
			return nil, nil, 0, errors.New("nobody leads")
		}
		return leader, other, otherID, nil
	}
	var killed *target.Member
	return db, []disturbance{
		{name: "the leader of the store moved", do: func() error {
			leader, _, id, err := roles()
			if err != nil {
				return err
			}
			atLeader := targettest.Client(t, leader.Addr)
			_, err = atLeader.MoveLeader(db.ctx, id)
			return err
		}},
		{name: "the leader of the store was killed", do: func() (err error) {
			if killed, _, _, err = roles(); err != nil {
				return err
			}
			return killed.Kill()
		}, then: func() error {
			if err := killed.Restart(); err != nil {
				return err
			}
			return c.WaitReady(db.ctx)
		}},
	}
}

// twoProxies of weir are before an etcd, and Patroni is told of both. Each in turn is away for a while.
func twoProxies(t *testing.T) (*database, []disturbance) {
	c := targettest.StartCluster(t, bin, proc.Etcd37, target.ClusterOptions{})
	one := targettest.StartProxy(t, bin, c.Endpoints())
	two := targettest.StartProxy(t, bin, c.Endpoints())
	db := newDatabase(t, []string{"PATRONI_ETCD3_HOSTS=" + one.Addr + "," + two.Addr, "PATRONI_ETCD3_USE_PROXIES=true"})
	return db, []disturbance{
		{name: "one proxy was stopped", do: one.Stop, then: func() error { return again(db.ctx, one) }},
		{name: "the other proxy was killed", do: two.Kill, then: func() error { return again(db.ctx, two) }},
	}
}

func again(ctx context.Context, s *target.Server) error {
	if err := s.Restart(); err != nil {
		return err
	}
	return s.WaitReady(ctx, target.Serves(s.Addr))
}

// secured is a proxy over a core, with TLS and with authentication on. Patroni's user may reach Patroni's keys only.
func secured(t *testing.T) (*database, []disturbance) {
	dir := t.TempDir()
	tls, err := target.NewTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	tg := targettest.StartWith(t, bin, target.ProxyCore, filepath.Join(dir, "data"), target.Options{
		TLS: tls, MemberArgs: []string{target.CheapPasswords},
	})
	db := newDatabase(t, nil)
	ca, err := os.ReadFile(tls.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(db.dir, "ca.crt")
	if err := os.WriteFile(file, ca, 0o644); err != nil {
		t.Fatal(err)
	}
	db.store = []string{
		"PATRONI_ETCD3_HOSTS=" + tg.Endpoint, "PATRONI_ETCD3_PROTOCOL=https", "PATRONI_ETCD3_CACERT=" + file,
		"PATRONI_ETCD3_USERNAME=patroni", "PATRONI_ETCD3_PASSWORD=secret",
		// Else it asks for the members before it has authenticated, which etcd 3.7 refuses, too.
		"PATRONI_ETCD3_USE_PROXIES=true",
	}
	c := targettest.Client(t, tg.StoreAddr())
	for _, user := range []struct{ name, from, to string }{{"root", "", ""}, {"patroni", "/service/", "/service0"}} {
		_, err1 := c.UserAdd(db.ctx, user.name, "secret")
		_, err2 := c.RoleAdd(db.ctx, user.name)
		var err3 error
		if user.from != "" {
			_, err3 = c.RoleGrantPermission(db.ctx, user.name, user.from, user.to, clientv3.PermissionType(clientv3.PermReadWrite))
		}
		_, err4 := c.UserGrantRole(db.ctx, user.name, user.name)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.AuthEnable(db.ctx); err != nil {
		t.Fatal(err)
	}
	return db, nil
}
