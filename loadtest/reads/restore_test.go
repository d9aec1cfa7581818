package reads

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// backup takes a snapshot of the member.
func (s *site) backup() string {
	s.Helper()
	stream, err := pb.NewMaintenanceClient(s.member().conn).Snapshot(s.ctx, &pb.SnapshotRequest{})
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

// restore replaces the data of the only member by a backup, and waits until it serves again.
func (s *site) restore(backup string) {
	s.Helper()
	etcdutl, err := bin.Build(s.ctx, proc.Etcdutl)
	s.must(err)
	s.replace(func(m *target.Member) {
		out, err := exec.CommandContext(s.ctx, etcdutl, "snapshot", "restore", backup, "--name="+m.Name, "--data-dir="+m.DataDir,
			"--initial-cluster="+target.InitialCluster(s.cluster.Members), "--initial-advertise-peer-urls=http://"+m.Peer).CombinedOutput()
		if err != nil {
			s.Fatalf("etcdutl snapshot restore: %v\n%s", err, out)
		}
	})
}

// wipe takes the data of the only member away, and waits until it serves again.
func (s *site) wipe() {
	s.Helper()
	s.replace(func(*target.Member) {})
}

func (s *site) replace(put func(*target.Member)) {
	s.Helper()
	m := s.cluster.Members[0]
	s.must(m.Kill())
	s.must(os.RemoveAll(m.DataDir))
	put(m)
	s.must(m.Restart())
	s.must(m.WaitReady(s.ctx, target.Serves(m.Addr)))
}
