package cluster

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A member whose majority is gone says what it knows by itself: that it has no leader, that an alarm is raised, that it can be read. The
// linearizable read of /readyz, which fails when the request timeout has passed, is left out.
func TestHealthWithoutAQuorum(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, kind)
			left := pb.NewMaintenanceClient(g.conns[0])
			wantAnswer(g, "/readyz", "200 ok\n")
			s, err := left.Status(g.Ctx, &pb.StatusRequest{})
			g.Must(err)
			_, err = left.Alarm(g.Ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: s.Header.MemberId})
			g.Must(err)
			for _, m := range slices.Clone(g.Cluster.Members[1:]) {
				g.Must(m.Kill())
				g.Cluster.Forget(m)
			}
			g.Eventually(30*time.Second, "no leader", func() error {
				s, err := left.Status(g.Ctx, &pb.StatusRequest{})
				if err == nil && s.Leader != 0 {
					err = fmt.Errorf("it is %x", s.Leader)
				}
				return err
			})

			const (
				healthy  = `200 {"health":"true","reason":""}`
				full     = `503 {"health":"false","reason":"ALARM NOSPACE"}` + "\n"
				noLeader = `503 {"health":"false","reason":"RAFT NO LEADER"}` + "\n"
			)
			wantAnswer(g, "/health", full)
			wantAnswer(g, "/health?serializable=true", full)
			wantAnswer(g, "/health?exclude=NOSPACE", noLeader)
			wantAnswer(g, "/health?exclude=NOSPACE&serializable=true", healthy)
			wantAnswer(g, "/livez?verbose", "200 [+]serializable_read ok\nok\n")
			wantAnswer(g, "/readyz?exclude=linearizable_read", "200 ok\n")
			wantAnswer(g, "/readyz/data_corruption?verbose", "200 [+]data_corruption ok\nok\n")
		})
	}
}

// wantAnswer compares what the first member answers at a path.
func wantAnswer(g *guarded, path, want string) {
	g.Helper()
	req, err := http.NewRequestWithContext(g.Ctx, http.MethodGet, "http://"+g.Cluster.Members[0].Addr+path, nil)
	g.Must(err)
	r, err := http.DefaultClient.Do(req)
	g.Must(err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	g.Must(err)
	targettest.Want(g, path, fmt.Sprintf("%d %s", r.StatusCode, body), want)
}
