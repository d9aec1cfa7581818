package targettest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// Backup takes a snapshot of the first member and returns the file in which it is.
func (s *Site) Backup() string {
	s.Helper()
	stream, err := pb.NewMaintenanceClient(Dial(s, s.Cluster.Members[0].Addr)).Snapshot(s.Ctx, &pb.SnapshotRequest{})
	s.Must(err)
	file := filepath.Join(s.TempDir(), "backup.db")
	f, err := os.Create(file)
	s.Must(err)
	defer func() { s.Must(f.Close()) }()
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return file
		}
		s.Must(err)
		_, err = f.Write(r.Blob)
		s.Must(err)
	}
}

// Restore replaces the data of the only member by a backup, and waits until it serves again.
func (s *Site) Restore(backup string) {
	s.Helper()
	etcdutl, err := s.bin.Build(s.Ctx, proc.Etcdutl)
	s.Must(err)
	s.replaceData(func(m *target.Member) {
		out, err := exec.CommandContext(s.Ctx, etcdutl, "snapshot", "restore", backup, "--name="+m.Name, "--data-dir="+m.DataDir,
			"--initial-cluster="+target.InitialCluster(s.Cluster.Members), "--initial-advertise-peer-urls=http://"+m.Peer).CombinedOutput()
		if err != nil {
			s.Fatalf("etcdutl snapshot restore: %v\n%s", err, out)
		}
	})
}

// Wipe takes the data of the only member away, and waits until it serves again.
func (s *Site) Wipe() {
	s.Helper()
	s.replaceData(func(*target.Member) {})
}

func (s *Site) replaceData(put func(*target.Member)) {
	s.Helper()
	m := s.Cluster.Members[0]
	s.Must(m.Kill())
	s.Must(os.RemoveAll(m.DataDir))
	put(m)
	s.Must(m.Restart())
	s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
}
