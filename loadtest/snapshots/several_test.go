package snapshots

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// restoreThree restores and starts a cluster of three members at the addresses, which are pairs for clients and for peers.
func (b *bench) restoreThree(s side, file string, addrs [][2]string, args ...string) []*target.Server {
	b.Helper()
	var initial []string
	for i, a := range addrs {
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i+1, a[1]))
	}
	var servers []*target.Server
	for i, a := range addrs {
		name := fmt.Sprintf("m%d", i+1)
		cluster := "--initial-cluster=" + strings.Join(initial, ",")
		data := b.restore(s, file, append([]string{"--name=" + name, cluster, "--initial-cluster-token=restored", "--initial-advertise-peer-urls=http://" + a[1]}, args...)...)
		path, err := bin.Build(b.ctx, s.member)
		b.must(err)
		p, err := proc.Start(name, path, append(target.MemberArgs(name, data, a[0], a[1]), cluster, "--initial-cluster-token=restored", target.CheapPasswords), nil)
		b.must(err)
		servers = append(servers, &target.Server{Process: p, Addr: a[0]})
		b.Cleanup(func() {
			if err := p.Stop(); err != nil {
				b.Error(err)
			}
		})
	}
	for _, s := range servers {
		b.must(s.WaitReady(b.ctx, target.Serves(s.Addr)))
	}
	return servers
}

// addrs are free ones for three members.
func (b *bench) addrs() (all [][2]string) {
	b.Helper()
	for range 3 {
		var pair [2]string
		for i := range pair {
			addr, err := proc.FreeAddr()
			b.must(err)
			pair[i] = addr
		}
		all = append(all, pair)
	}
	return all
}

// members lists who the members are, and that they have said so themselves.
func (b *bench) members(endpoint string) (lines []string) {
	b.Helper()
	r, err := b.client(endpoint, true).MemberList(b.ctx)
	b.must(err)
	for _, m := range r.Members {
		lines = append(lines, fmt.Sprintf("member %x %s %v %v learner %v", m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner))
	}
	slices.Sort(lines)
	return lines
}

// There and back again. The members are the same ones on both sides, with the same ids, since they are given the same flags.
func TestThreeMembersAreRestoredFromOneSnapshot(t *testing.T) {
	for from, way := range map[target.Kind][]string{target.Etcd37: {"weir", "etcd"}, target.Core: {"etcd", "weir"}} {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			source := targettest.StartFrom(t, bin, from, b.dir+"/source", target.CheapPasswords)
			b.fill(source)
			want := b.contents(source.Endpoint)
			file, addrs := b.save(source.Endpoint), b.addrs()
			var members []string
			for _, to := range way {
				t.Run(to, func(t *testing.T) {
					here := newBench(t)
					servers := here.restoreThree(sides[to], file, addrs)
					for _, m := range servers {
						here.same("member at "+m.Addr, here.contents(m.Addr), want)
						listed := here.members(m.Addr)
						if members == nil {
							members = listed
						}
						here.same("who the members are", listed, members)
					}
					file = b.save(servers[0].Addr)
					here.agrees(servers)
				})
			}
			if len(members) != 3 {
				t.Errorf("members: %v", members)
			}
		})
	}
}

// agrees writes to one member, and reads it from all.
func (b *bench) agrees(servers []*target.Server) {
	b.Helper()
	_, err := b.client(servers[0].Addr, true).Put(b.ctx, "all", "of them")
	b.must(err)
	for _, m := range servers {
		r, err := b.client(m.Addr, true).Get(b.ctx, "all")
		b.must(err)
		if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "of them" {
			b.Errorf("member at %s has %v", m.Addr, r.Kvs)
		}
	}
}

// Clients that have seen revisions which the snapshot does not have are told that those are compacted, and new ones have no two
// meanings.
func TestABumpedRevisionIsWhereEtcdutlPutsIt(t *testing.T) {
	b := newBench(t)
	source := targettest.StartFrom(t, bin, target.Core, b.dir+"/source", target.CheapPasswords)
	b.fill(source)
	was, err := b.client(source.Endpoint, true).Get(b.ctx, "k020")
	b.must(err)
	file := b.save(source.Endpoint)
	for name, s := range sides {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c := b.client(b.restoreAlone(s, file, "--bump-revision=1000000", "--mark-compacted").Endpoint, true)
			now := was.Header.Revision + 1_000_000
			r, err := c.Get(b.ctx, "k020")
			b.must(err)
			targettest.Want(t, "revision", r.Header.Revision, now)
			targettest.Want(t, "revision of the key", r.Kvs[0].ModRevision, was.Kvs[0].ModRevision)
			_, err = c.Get(b.ctx, "k020", clientv3.WithRev(now-1))
			targettest.Want(t, "error before", fmt.Sprint(err), "etcdserver: mvcc: required revision has been compacted")
			lost := <-c.Watch(b.ctx, "k020", clientv3.WithRev(was.Header.Revision+1))
			targettest.Want(t, "compact revision of a watch", lost.CompactRevision, now)
			put, err := c.Put(b.ctx, "k020", "new")
			b.must(err)
			targettest.Want(t, "next revision", put.Header.Revision, now+1)
		})
	}
}
