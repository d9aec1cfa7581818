package cluster

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A write that was given up while there was no leader does not come when there is one again.
func TestWritesThatWereGivenUpDoNotComeLater(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: time.Minute, Members: members, MemberArgs: quick})
			conn := targettest.Dial(s, s.Cluster.Members[0].Addr)
			for _, m := range s.Cluster.Members[1:] {
				s.Must(m.Kill())
			}
			s.Eventually(20*time.Second, "nobody leads", func() error {
				r, err := pb.NewMaintenanceClient(conn).Status(s.Ctx, &pb.StatusRequest{})
				if err == nil && r.Leader != 0 {
					err = status.Error(codes.Unavailable, "somebody does")
				}
				return err
			})
			ctx, cancel := context.WithTimeout(s.Ctx, time.Second)
			defer cancel()
			if _, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("late")}); err == nil {
				t.Fatal("one of three members took a write")
			}
			for _, m := range s.Cluster.Members[1:] {
				s.Must(m.Restart())
			}
			s.Must(s.Cluster.WaitReady(s.Ctx))
			// What waited would be before this in the log.
			_, err := pb.NewKVClient(conn).Put(s.Ctx, &pb.PutRequest{Key: []byte("next")})
			s.Must(err)
			r, err := pb.NewKVClient(conn).Range(s.Ctx, &pb.RangeRequest{Key: []byte("late"), CountOnly: true})
			s.Must(err)
			targettest.Want(t, "writes that came late", r.Count, 0)
		})
	}
}
