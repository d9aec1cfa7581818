package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// newestLevel is where core says which level it knows; see core/doc.go.
var newestLevel = regexp.MustCompile(`(newestLevel = )(\d+)`)

// nextWeir builds the core of the release after this one, which differs in that it knows one level more, and returns its file and the
// level. There is nothing in the core for that: the compiler is given another source file.
func nextWeir(t *testing.T) (path string, level int) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "core", "agreement.go")
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := newestLevel.FindAllSubmatch(source, -1)
	if len(found) != 1 {
		t.Fatalf("%s has %d newest levels", file, len(found))
	}
	level, err = strconv.Atoi(string(found[0][2]))
	if err != nil {
		t.Fatal(err)
	}
	level++
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	changed := write("agreement.go", newestLevel.ReplaceAll(source, fmt.Appendf(nil, "${1}%d", level)))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "next-weir-core")
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", write("overlay.json", overlay), "-o", path, "./cmd/core")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the next core: %v\n%s", err, out)
	}
	return path, level
}

// Members of two releases run together while a cluster is upgraded under load, and while one of them is put back. Nothing that was
// promised is lost. When the last one is upgraded all agree on what the new release knows, and from then on the old one refuses to start.
func TestARollingUpgradeLosesNothing(t *testing.T) {
	t.Parallel()
	next, level := nextWeir(t)
	this, err := bin.Build(t.Context(), proc.Core)
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t, target.Core, targettest.SiteOptions{Timeout: 3 * time.Minute})
	leads := s.leader()
	first, second := (leads+1)%members, (leads+2)%members
	s.round("a member upgraded", func() { s.replaceProgram(first, next) })
	s.round("a second one upgraded", func() { s.replaceProgram(second, next) })
	s.wantVersion("with one member of the old release", version)
	s.round("the cluster downgraded and upgraded again between", s.lowerVersion)
	s.round("one put back to the old release", func() { s.replaceProgram(first, this) })
	s.round("it upgraded again", func() { s.replaceProgram(first, next) })
	if s.raises(level) > 0 {
		t.Errorf("level %d is agreed on, and a member does not know it", level)
	}
	s.round("the last one upgraded", func() { s.replaceProgram(leads, next) })
	s.Eventually(30*time.Second, "all agree on the new level", func() error {
		if s.raises(level) == 0 {
			return fmt.Errorf("no member says that level %d is agreed on", level)
		}
		return nil
	})
	s.wantVersion("with the new release", version)

	s.round("a start of the old release", func() {
		m := s.Cluster.Members[first]
		s.Must(m.Stop())
		s.startProgram(first, this)
		if last := awaitEnd(s, m.Name, m.Process); !strings.Contains(last, fmt.Sprintf("the members have agreed on level %d", level)) {
			s.Errorf("the old release ends with %q", last)
		}
		s.startProgram(first, next)
	})
	s.finish()
}

// replaceProgram ends a member, and starts another program with its data.
func (s *scene) replaceProgram(member int, path string) {
	s.Helper()
	m := s.Cluster.Members[member]
	s.Must(m.Stop())
	s.startProgram(member, path)
	s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
}

// startProgram starts a program with the data of a member that has ended.
func (s *scene) startProgram(member int, path string) {
	s.Helper()
	m := s.Cluster.Members[member]
	args := slices.Concat(target.MemberArgs(m.Name, m.DataDir, m.Addr, m.Peer), []string{"--unsafe-no-fsync"}, quick)
	var err error
	m.Process, err = proc.Start(filepath.Base(path)+" "+m.Name, path, args, nil)
	s.Must(err)
}

// raises is how many members say that a level has been agreed on.
func (s *scene) raises(level int) (n int) {
	for _, m := range s.Cluster.Members {
		for line := range strings.Lines(m.Log()) {
			if strings.Contains(line, "raised the level") && strings.Contains(line, fmt.Sprintf(`"to":%d`, level)) {
				n++
			}
		}
	}
	return n
}

// Versions of etcd that members keep to.
const version, versionBefore = "3.7.0", "3.6.0"

// wantVersion waits until all members keep to a version.
func (s *scene) wantVersion(when, want string) {
	s.Helper()
	for _, m := range s.Cluster.Members {
		s.Eventually(20*time.Second, when+", the version of the cluster at "+m.Name, func() error {
			body, err := m.Get(s.Ctx, "/version")
			if err == nil && !strings.Contains(body, fmt.Sprintf(`"etcdcluster":%q`, want)) {
				err = fmt.Errorf("%s, want %s", body, want)
			}
			return err
		})
	}
}

// lowerVersion has all members keep to the version of etcd before, and then to their own again.
func (s *scene) lowerVersion() {
	s.Helper()
	maintenance := pb.NewMaintenanceClient(s.conns[s.rng.IntN(members)])
	ask := func(action pb.DowngradeRequest_DowngradeAction) {
		_, err := maintenance.Downgrade(s.Ctx, &pb.DowngradeRequest{Action: action, Version: versionBefore})
		s.Must(err)
	}
	ask(pb.DowngradeRequest_ENABLE)
	s.wantVersion("while a downgrade is enabled", versionBefore)
	ask(pb.DowngradeRequest_CANCEL)
	s.wantVersion("when it is cancelled", version)
}
