package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// newDisk makes a small disk for a member of a cluster that is not started yet. Without the right to, the test is skipped.
func newDisk(t *testing.T, dir string, bytes int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skipf("a member needs a disk of its own: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// A member whose disk is nearly full stops writes at all of them, and one whose disk is full for good ends alone: the others go on,
// and when there is room again it has all that they have.
func TestAFullDiskOfOneMemberLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	disk := filepath.Join(dir, "m1")
	newDisk(t, disk, 512<<20)
	if _, err := bin.Build(ctx, target.Core.Member()); err != nil {
		t.Fatal(err)
	}
	c, err := target.StartCluster(ctx, bin, target.Core.Member(), dir, target.ClusterOptions{Members: members, Args: quick})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	g := &guarded{Site: &targettest.Site{T: t, Kind: target.Core, Ctx: ctx, Cluster: c}}
	g.dial()
	g.Must(g.put(0, "before", "v"))

	ballast := filepath.Join(disk, "ballast")
	leaveFree(t, disk, ballast, 100<<20)
	g.Eventually(20*time.Second, "the member refuses writes", func() error {
		if err := g.put(0, "full", "v"); status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCNoSpace).Message() {
			return fmt.Errorf("it does not: %v", err)
		}
		return nil
	})
	g.wantPuts("with a disk that is nearly full", rpctypes.ErrGRPCNoSpace)
	g.wantReads("with a disk that is nearly full", "before", "v")
	g.Must(os.Remove(ballast))
	g.disarm(1, 0)
	g.wantPuts("with room again", nil)

	// What others write is let through there: the member ends when it cannot store it.
	leaveFree(t, disk, ballast, 0)
	value := strings.Repeat("v", 1<<20)
	for i := 0; !ended(c.Members[0]); i++ {
		if i == 300 {
			t.Fatal("300 MB were written on a disk that is full")
		}
		g.Eventually(20*time.Second, "a write at the others", func() error { // if it led, another one has to
			return g.put(1, fmt.Sprintf("large%d", i%20), value)
		})
	}
	if last := awaitEnd(t, "the member", c.Members[0].Process); !strings.Contains(last, "no space left on device") || strings.HasPrefix(last, "{") {
		t.Errorf("the member ends with the line: %s", last)
	}
	g.wantPuts("without the member", nil, 0)
	g.Must(os.Remove(ballast))
	g.Must(c.Members[0].Restart())
	g.Must(c.WaitReady(ctx))
	g.wantReads("when it is back", "before", "v")
	g.wantReads("when it is back", "large0", value)
	g.wantPuts("when it is back", nil)
}

func ended(m *target.Member) bool {
	select {
	case <-m.Exited():
		return true
	default:
		return false
	}
}

// leaveFree fills a disk with a file, but for some bytes.
func leaveFree(t *testing.T, disk, file string, bytes int64) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(disk, &s); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(s.Bavail)*s.Bsize-bytes); err != nil {
		t.Fatal(err)
	}
}
