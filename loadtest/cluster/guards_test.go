package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// guarded is a cluster that is brought to its limits.
type guarded struct {
	*targettest.Site
	conns []*grpc.ClientConn // to each member
}

func newGuarded(t *testing.T, kind target.Kind, args ...string) *guarded {
	t.Helper()
	g := &guarded{Site: targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute, Members: members, MemberArgs: append(args, quick...)})}
	g.dial()
	return g
}

func (g *guarded) dial() {
	for _, m := range g.Cluster.Members {
		g.conns = append(g.conns, targettest.Dial(g, m.Addr))
	}
}

// put writes, again while there is no leader who could tell: on a machine that is busy it may change at any time.
func (g *guarded) put(member int, key, value string) (err error) {
	ctx, cancel := context.WithTimeout(g.Ctx, 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		_, err = pb.NewKVClient(g.conns[member]).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)}, grpc.WaitForReady(true))
		if status.Code(err) != codes.Unavailable {
			break
		}
	}
	return err
}

// wantPuts tries a write at each member that is not away.
func (g *guarded) wantPuts(when string, want error, away ...int) {
	g.Helper()
	for i, m := range g.Cluster.Members {
		if len(away) > 0 && away[0] == i {
			continue
		}
		if err := g.put(i, "tried", "v"); status.Convert(err).Message() != status.Convert(want).Message() {
			g.Errorf("%s, a write at %s: %v, want %v", when, m.Name, err, want)
		}
	}
}

// wantReads reads a key at each member.
func (g *guarded) wantReads(when, key, value string) {
	g.Helper()
	for i, m := range g.Cluster.Members {
		g.Eventually(20*time.Second, when+", a read at "+m.Name, func() error {
			r, err := pb.NewKVClient(g.conns[i]).Range(g.Ctx, &pb.RangeRequest{Key: []byte(key)})
			if err == nil && (len(r.Kvs) != 1 || string(r.Kvs[0].Value) != value) {
				g.Fatalf("%s, a read at %s: %v", when, m.Name, r.Kvs)
			}
			return err
		})
	}
}

// fill writes at one member until it refuses, and wants to be told that there is no space.
func (g *guarded) fill(member int) {
	g.Helper()
	value := strings.Repeat("v", 100<<10)
	for i := range 2000 {
		if err := g.put(member, fmt.Sprintf("fill%03d", i%100), value); err != nil {
			targettest.Want(g, "the end of writing", status.Convert(err).Message(), status.Convert(rpctypes.ErrGRPCNoSpace).Message())
			return
		}
	}
	g.Fatal("200 MB were written")
}

// disarm clears the NOSPACE alarm, which member has raised. At etcd another one may have done so too, or instead.
func (g *guarded) disarm(by, member int) {
	g.Helper()
	maintenance := pb.NewMaintenanceClient(g.conns[by])
	r, err := maintenance.Alarm(g.Ctx, &pb.AlarmRequest{})
	g.Must(err)
	s, err := pb.NewMaintenanceClient(g.conns[member]).Status(g.Ctx, &pb.StatusRequest{})
	g.Must(err)
	if len(r.Alarms) == 0 || g.Kind == target.Core && (len(r.Alarms) > 1 || r.Alarms[0].Alarm != pb.AlarmType_NOSPACE || r.Alarms[0].MemberID != s.Header.MemberId) {
		g.Errorf("alarms: %v, want NOSPACE of %x", r.Alarms, s.Header.MemberId)
	}
	for _, a := range r.Alarms {
		_, err := maintenance.Alarm(g.Ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: a.Alarm, MemberID: a.MemberID})
		g.Must(err)
	}
}

// The quota of one member stops writes at all of them, also when it is started again, until there is room again and the alarm is
// cleared. Reads and deletions go on.
func TestTheQuotaOfOneMemberStopsWritesEverywhere(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, kind, "--quota-backend-bytes=16777216")
			g.Must(g.put(0, "before", "v"))
			full := leader(g.Site, g.conns)
			g.fill(full)
			g.wantPuts("with the quota reached", rpctypes.ErrGRPCNoSpace)
			g.wantReads("with the quota reached", "before", "v")
			again := g.Cluster.Members[(full+1)%members]
			g.Must(again.Kill())
			g.Must(again.Restart())
			g.Must(again.WaitReady(g.Ctx, target.Serves(again.Addr)))
			g.wantPuts("after a restart", rpctypes.ErrGRPCNoSpace)

			deleted, err := pb.NewKVClient(g.conns[full]).DeleteRange(g.Ctx, &pb.DeleteRangeRequest{Key: []byte("fill"), RangeEnd: []byte("fim")})
			g.Must(err)
			_, err = pb.NewKVClient(g.conns[full]).Compact(g.Ctx, &pb.CompactionRequest{Revision: deleted.Header.Revision, Physical: true})
			g.Must(err)
			for i, m := range g.Cluster.Members {
				g.Eventually(20*time.Second, m.Name+" has compacted", func() error { return g.compacted(i, deleted.Header.Revision) })
				_, err = pb.NewMaintenanceClient(g.conns[i]).Defragment(g.Ctx, &pb.DefragmentRequest{})
				g.Must(err)
			}
			g.wantPuts("with room again", rpctypes.ErrGRPCNoSpace)
			g.disarm((full+2)%members, full)
			g.wantPuts("without the alarm", nil)
			g.wantReads("without the alarm", "before", "v")
		})
	}
}

// compacted tells whether a member has compacted to a revision.
func (g *guarded) compacted(member int, revision int64) error {
	h, err := pb.NewMaintenanceClient(g.conns[member]).HashKV(g.Ctx, &pb.HashKVRequest{})
	if err == nil && h.CompactRevision < revision {
		err = fmt.Errorf("it is at %d, not at %d", h.CompactRevision, revision)
	}
	return err
}

// History is compacted by whoever leads.
func TestAutoCompactionGoesOnUnderTheNextLeader(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, kind, "--auto-compaction-mode=periodic", "--auto-compaction-retention=1s")
			working, stop := context.WithCancel(g.Ctx)
			written := make(chan struct{})
			go func() {
				defer close(written)
				for i := 0; working.Err() == nil; i++ {
					_ = g.put(i%members, "k", fmt.Sprint(i)) // one of them is killed
				}
			}()
			defer func() { stop(); <-written }()
			for round := range 2 {
				lead := leader(g.Site, g.conns)
				r, err := pb.NewKVClient(g.conns[lead]).Range(g.Ctx, &pb.RangeRequest{Key: []byte("k"), CountOnly: true})
				g.Must(err)
				g.Eventually(20*time.Second, fmt.Sprintf("compacted under leader %d", round+1), func() error { return g.compacted(lead, r.Header.Revision) })
				g.Must(g.Cluster.Members[lead].Kill())
				g.Must(g.Cluster.Members[lead].Restart())
			}
			g.Must(g.Cluster.WaitReady(g.Ctx))
		})
	}
}
