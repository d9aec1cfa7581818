package cluster

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// corrupted is a cluster of which one member's file is altered while it is stopped.
type corrupted struct {
	*targettest.Site
	conns []*grpc.ClientConn
	bad   int
	badID uint64
}

// corrupt starts a cluster, and stops and alters a follower, which it does not start again.
func corrupt(t *testing.T, kind target.Kind, args ...string) *corrupted {
	t.Helper()
	s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{
		Timeout: 2 * time.Minute, Members: members, MemberArgs: append(slices.Clone(quick), append(args, "--backend-batch-interval=1ms")...),
	})
	c := &corrupted{Site: s}
	for _, m := range s.Cluster.Members {
		c.conns = append(c.conns, targettest.Dial(s, m.Addr))
	}
	c.put("altered", "1234")
	c.bad = (leader(s, c.conns) + 1) % members
	r, err := pb.NewMaintenanceClient(c.conns[c.bad]).Status(s.Ctx, &pb.StatusRequest{})
	s.Must(err)
	c.badID = r.Header.MemberId
	_, err = pb.NewKVClient(c.conns[c.bad]).Range(s.Ctx, &pb.RangeRequest{Key: []byte("altered")}) // by then it has it too
	s.Must(err)
	s.Must(c.member().Stop())
	c.alter("altered")
	return c
}

func (c *corrupted) member() *target.Member { return c.Cluster.Members[c.bad] }

func (c *corrupted) put(key, value string) {
	c.Helper()
	_, err := pb.NewKVClient(c.conns[0]).Put(c.Ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	c.Must(err)
}

// kill ends all members. An etcd that wants to raise an alarm does not end by SIGTERM when those before it have, as it waits for a
// majority.
func (c *corrupted) kill() {
	c.Helper()
	for _, m := range slices.Clone(c.Cluster.Members) {
		c.Must(m.Kill())
		c.Cluster.Forget(m)
	}
}

// alter changes a bit of the value of a key in the member's file, which is laid out alike in both.
func (c *corrupted) alter(key string) {
	c.Helper()
	file := filepath.Join(c.member().DataDir, "member", "store.db")
	if c.Kind != target.Core {
		file = filepath.Join(c.member().DataDir, "member", "snap", "db")
	}
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: 10 * time.Second})
	c.Must(err)
	err = db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("key"))
		cursor := bucket.Cursor()
		for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(v, &kv); err != nil {
				return err
			}
			if string(kv.Key) == key {
				altered := slices.Clone(v)
				altered[len(altered)-1] ^= 1 // the value comes last
				return bucket.Put(k, altered)
			}
		}
		return fmt.Errorf("%s has no %s", file, key)
	})
	c.Must(errors.Join(err, db.Close()))
}

// compact compacts to the newest revision.
func (c *corrupted) compact() {
	c.Helper()
	kv := pb.NewKVClient(c.conns[0])
	r, err := kv.Range(c.Ctx, &pb.RangeRequest{Key: []byte("any")})
	c.Must(err)
	_, err = kv.Compact(c.Ctx, &pb.CompactionRequest{Revision: r.Header.Revision})
	c.Must(err)
}

// wantAlarm waits until all members take the one that was altered, and no other, for corrupt.
func (c *corrupted) wantAlarm() {
	c.Helper()
	want := fmt.Sprint([]uint64{c.badID})
	for i, conn := range c.conns {
		c.Eventually(30*time.Second, "an alarm at "+c.Cluster.Members[i].Name, func() error {
			r, err := pb.NewMaintenanceClient(conn).Alarm(c.Ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType_CORRUPT})
			var got []uint64
			for _, a := range r.GetAlarms() {
				got = append(got, a.MemberID)
			}
			if err == nil && fmt.Sprint(got) != want {
				err = fmt.Errorf("for %v, want %v", got, want)
			}
			return err
		})
	}
}

// ask sends each member one of each kind of request that matters now, and returns how they ended.
func (c *corrupted) ask() (answers []string) {
	for i, conn := range c.conns {
		kv, lease, m := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)
		key := []byte("asked")
		for _, one := range []struct {
			what string
			do   func() error
		}{
			{"range", func() error { _, err := kv.Range(c.Ctx, &pb.RangeRequest{Key: key}); return err }},
			{"serializable range", func() error { _, err := kv.Range(c.Ctx, &pb.RangeRequest{Key: key, Serializable: true}); return err }},
			{"put", func() error { _, err := kv.Put(c.Ctx, &pb.PutRequest{Key: key}); return err }},
			{"delete", func() error { _, err := kv.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: key}); return err }},
			{"empty txn", func() error { _, err := kv.Txn(c.Ctx, &pb.TxnRequest{}); return err }},
			{"txn", func() error {
				_, err := kv.Txn(c.Ctx, &pb.TxnRequest{Success: []*pb.RequestOp{targettest.PutOp("asked", "")}})
				return err
			}},
			{"compact", func() error { _, err := kv.Compact(c.Ctx, &pb.CompactionRequest{Revision: 1}); return err }},
			{"grant", func() error { _, err := lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: 10}); return err }},
			{"revoke", func() error { _, err := lease.LeaseRevoke(c.Ctx, &pb.LeaseRevokeRequest{ID: 1}); return err }},
			{"hash", func() error { _, err := m.HashKV(c.Ctx, &pb.HashKVRequest{}); return err }},
			{"status", func() error {
				r, err := m.Status(c.Ctx, &pb.StatusRequest{})
				if err == nil && len(r.Errors) > 0 {
					err = errors.New("it has errors")
				}
				return err
			}},
			{"add a user", func() error {
				_, err := pb.NewAuthClient(conn).UserAdd(c.Ctx, &pb.AuthUserAddRequest{Name: fmt.Sprint("u", i), Password: "p"})
				return err
			}},
		} {
			s := status.Convert(one.do())
			answers = append(answers, fmt.Sprintf("%s: %s: %s", one.what, s.Code(), s.Message()))
		}
	}
	return answers
}

// A member whose file was altered is found out, and then all members refuse writes; the same is done to etcd, with the same effect.
func TestWhoeverHoldsSomethingElseIsFoundCorrupt(t *testing.T) {
	t.Parallel()
	kinds := [...]target.Kind{target.Etcd37, target.Core}
	for name, check := range map[string]struct {
		args    []string
		compact bool
	}{
		"periodically":   {args: []string{"--corrupt-check-time=500ms"}},
		"by compactions": {args: []string{"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=500ms"}, compact: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var answers [len(kinds)][]string
			t.Run("of", func(t *testing.T) {
				for i, kind := range kinds {
					t.Run(string(kind), func(t *testing.T) {
						t.Parallel()
						c := corrupt(t, kind, check.args...)
						c.Must(c.member().Restart())
						c.Must(c.Cluster.WaitReady(c.Ctx))
						if check.compact {
							c.put("later", "1")
							c.compact()
						}
						c.wantAlarm()
						answers[i] = c.ask()
						if kind == target.Etcd37 {
							c.kill()
						}
					})
				}
			})
			want, got := answers[0], answers[1]
			for i := range max(len(want), len(got)) {
				if at(want, i) != at(got, i) {
					t.Errorf("etcd: %s\ncore: %s", at(want, i), at(got, i))
				}
			}
		})
	}
}

// A member whose file was altered does not start where it is told to look, and the others go on.
func TestWhoeverHoldsSomethingElseDoesNotStart(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c := corrupt(t, kind, "--feature-gates=InitialCorruptCheck=true")
			m := c.member()
			c.Must(m.Restart())
			awaitEnd(t, "who holds something else", m.Process)
			if want := fmt.Sprintf("%x found data inconsistency with peers", c.badID); m.ExitError() == nil || !strings.Contains(m.Log(), want) {
				t.Errorf("it ended with %v, and its log should have %q: %s", m.ExitError(), want, m.Log())
			}
			c.Cluster.Forget(m)
			for i, conn := range c.conns {
				if i != c.bad {
					_, err := pb.NewKVClient(conn).Put(c.Ctx, &pb.PutRequest{Key: []byte("k")})
					c.Must(err)
				}
			}
		})
	}
}
