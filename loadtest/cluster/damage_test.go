package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A member whose log is torn at its end goes on, with what the others have. One whose log is damaged before its end refuses to start,
// and says where, and one that was given an older copy of its data ends when it hears from the leader; others take their places.
func TestDamagedLogsLoseNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, target.Core, targettest.SiteOptions{Timeout: 2 * time.Minute})
	s.round("log torn", func() {
		m := s.Cluster.Members[others(s.leader(), s.rng)[0]]
		s.Must(m.Kill())
		s.damageLog(m, func(written int) int { return (written/sector + 2) * sector }) // what was being written, and attests nothing
		s.Must(m.Restart())
		s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
	})
	s.round("log damaged", func() {
		one := others(s.leader(), s.rng)[0]
		m := s.Cluster.Members[one]
		s.Must(m.Kill())
		file := s.damageLog(m, func(written int) int { return written / 2 })
		s.Must(m.Restart())
		s.wantLast(m, file, "offset")
		s.takePlace(one)
	})
	s.round("data put back", func() {
		one := others(s.leader(), s.rng)[0]
		m, older := s.Cluster.Members[one], filepath.Join(s.TempDir(), "older")
		s.Must(m.Kill())
		s.Must(os.CopyFS(older, os.DirFS(m.DataDir)))
		s.Must(m.Restart())
		s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
		from := s.revision(one)
		s.Eventually(time.Minute, "more is written", func() error {
			if now := s.revision(one); now < from+100 {
				return fmt.Errorf("revision %d after %d", now, from)
			}
			return nil
		})
		s.Must(m.Kill())
		s.Must(os.RemoveAll(m.DataDir))
		s.Must(os.CopyFS(m.DataDir, os.DirFS(older)))
		s.Must(m.Restart())
		s.wantLast(m, "forgotten", "add it again with an empty data directory")
		s.takePlace(one)
	})
	s.finish()
}

// wantLast wants a member to end with an error in one line that has all texts.
func (s *scene) wantLast(m *target.Member, texts ...string) {
	s.Helper()
	last := awaitEnd(s, m.Name, m.Process)
	for _, text := range texts {
		if m.ExitError() == nil || strings.HasPrefix(last, "{") || !strings.Contains(last, text) {
			s.Errorf("it ends with %v and the line %s, want one with %s", m.ExitError(), last, text)
		}
	}
}

// takePlace has a new member take the place of one that has ended for good.
func (s *scene) takePlace(one int) {
	s.Helper()
	name := s.Cluster.Members[one].Name
	rest := pb.NewClusterClient(s.conns[(one+1)%members])
	id := s.find(rest, func(known *pb.Member) bool { return known.Name == name }).ID
	s.until("the member is removed", func(ctx context.Context) error {
		_, err := rest.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		return err
	}, func() bool { return s.find(rest, func(known *pb.Member) bool { return known.ID == id }) == nil })
	s.leave(one)
	s.watchAt(s.join())
}

// sector is what disks write at once.
const sector = 512

// damageLog destroys 100 bytes of the last of the log's files that has anything in it, from where at says of what is written. It
// returns the file.
func (s *scene) damageLog(m *target.Member, at func(written int) int) string {
	s.Helper()
	files, err := filepath.Glob(filepath.Join(m.DataDir, "member", "wal", "*"))
	s.Must(err)
	for _, file := range slices.Backward(files) {
		data, err := os.ReadFile(file)
		s.Must(err)
		written := len(bytes.TrimRight(data, "\x00"))
		const size = 100
		if written < 10*size {
			continue
		}
		from := at(written)
		copy(data[from:from+size], bytes.Repeat([]byte{0xff}, size))
		s.Must(os.WriteFile(file, data, 0o600))
		return file
	}
	s.Fatalf("no log in %v", files)
	return ""
}
