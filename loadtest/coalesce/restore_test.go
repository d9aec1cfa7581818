package coalesce

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// A cluster that is restored from an older backup has another history than the one that watches have seen. They end or
// are cancelled, none waits for revisions that mean something else now, and new watches see the restored store.
func TestClusterRestoredFromABackupCancelsWatches(t *testing.T) {
	t.Parallel()
	for _, p := range []place{{proc.Etcd37, 1}, {proc.Etcd36, 1}, {proc.Etcd37, 2}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			restored(newSite(t, p, config{}))
		})
	}
}

func restored(s *site) {
	st := s.store()
	conn := s.dial()
	for i := range 20 {
		st.put("/a/1", fmt.Sprint(i))
	}
	backup := s.backup()
	var all []*watch
	for i := range 10 {
		fromPast, fromFuture := prefix("/a/"), prefix("/a/")
		fromPast.start, fromFuture.start = 5, st.revision()+1000
		all = append(all, s.open(s.ctx, conn).create(prefix("/a/"), spec{key: fmt.Sprintf("/a/%d", i)}, fromPast, fromFuture)...)
	}
	for i := range 200 {
		st.put("/a/1", fmt.Sprint("lost ", i))
	}
	all[0].awaitEvents(200)

	m := s.cluster.Members[0]
	s.must(m.Kill())
	s.restore(m, backup)
	s.must(m.Restart())
	s.must(m.WaitReady(s.ctx, target.Serves(s.endpoint())))

	for _, w := range all {
		err := w.stream.wait(s.ctx, func() bool { return w.canceled != nil })
		if err == nil && w.canceled.CancelReason == "" && w.canceled.CompactRevision == 0 {
			s.Errorf("%v was cancelled without a reason: %v", w.spec, w.canceled)
		}
		if s.ctx.Err() != nil {
			s.Fatalf("%v waits for a history that is no more", w.spec)
		}
		w.stream.check()
	}
	fromPast := prefix("/a/")
	fromPast.start = 5
	fresh := s.open(s.ctx, conn).create(prefix("/a/"), fromPast)
	st.put("/a/1", "after the restore")
	s.checkAll(fresh)
}

// backup takes a snapshot of the member.
func (s *site) backup() string {
	s.Helper()
	stream, err := pb.NewMaintenanceClient(s.dialTo(s.cluster.Members[0].Addr)).Snapshot(s.ctx, &pb.SnapshotRequest{})
	s.must(err)
	file := filepath.Join(s.TempDir(), "backup.db")
	f, err := os.Create(file)
	s.must(err)
	defer func() { s.must(f.Close()) }()
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			return file
		}
		s.must(err)
		_, err = f.Write(r.Blob)
		s.must(err)
	}
}

// restore replaces the data of a member, which is not running, by a backup.
func (s *site) restore(m *target.Member, backup string) {
	s.Helper()
	etcdutl, err := bin.Build(s.ctx, proc.Etcdutl)
	s.must(err)
	s.must(os.RemoveAll(m.DataDir))
	out, err := exec.CommandContext(s.ctx, etcdutl, "snapshot", "restore", backup, "--name="+m.Name, "--data-dir="+m.DataDir,
		"--initial-cluster="+target.InitialCluster(s.cluster.Members), "--initial-advertise-peer-urls=http://"+m.Peer).CombinedOutput()
	if err != nil {
		s.Fatalf("etcdutl snapshot restore: %v\n%s", err, out)
	}
}
