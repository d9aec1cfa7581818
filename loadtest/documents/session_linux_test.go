package documents

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/loadtest/proc"
)

const (
	// patience bounds a session. A document takes some seconds of it on a machine that has nothing else to do.
	patience = 5 * time.Minute
	// gone is how long processes that were killed may keep their ports.
	gone = 5 * time.Second
	// atATime is how many sessions run beside each other.
	atATime = 2
)

// TestDocuments types every block of every document.
func TestDocuments(t *testing.T) {
	turns := make(chan struct{}, atATime)
	var ports sync.Mutex // of those sessions that have no network of their own
	for _, d := range readDocuments(t) {
		if len(d.runs()) == 0 {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(d.path), ".md"), func(t *testing.T) {
			t.Parallel()
			turns <- struct{}{}
			defer func() { <-turns }()
			s := newSession(t, d)
			err := s.run(t, alone())
			if slices.ContainsFunc(notAlone, func(reason error) bool { return errors.Is(err, reason) }) {
				ports.Lock()
				defer ports.Unlock()
				used := portsInUse(d)
				// The session before has been killed, and nothing tells when the last of its processes is gone.
				for end := time.Now().Add(gone); len(used) > 0 && time.Now().Before(end); used = portsInUse(d) {
					time.Sleep(10 * time.Millisecond)
				}
				if len(used) > 0 {
					t.Skipf("a network of its own is not to be had (%v), and of the ports that it uses %v are taken", err, used)
				}
				err = s.run(t, &syscall.SysProcAttr{Setpgid: true})
			}
			if err != nil {
				t.Fatal(err)
			}
			s.compare(t)
		})
	}
}

// session is a shell that is given the blocks of one document.
type session struct {
	document document
	dir      string // where it is
	outputs  string // where the output of each block goes, to a file of its number
	failure  string // the file that names the command that failed
	script   string
}

func newSession(t *testing.T, d document) *session {
	t.Helper()
	s := &session{document: d, dir: t.TempDir(), outputs: t.TempDir()}
	s.failure, s.script = filepath.Join(s.outputs, "failure"), filepath.Join(s.outputs, d.path)
	for name, p := range map[string]proc.Program{"core": proc.Core, "proxy": proc.Proxy, "etcd": proc.Etcd37, "etcdctl": proc.Etcdctl, "etcdutl": proc.Etcdutl} {
		path, err := bin.Build(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		link(t, path, filepath.Join(s.dir, "bin", name))
	}
	for _, name := range []string{"docs", "deploy"} {
		path, err := filepath.Abs(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		link(t, path, filepath.Join(s.dir, name))
	}
	if err := os.MkdirAll(filepath.Dir(s.script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.script, []byte(s.commands()), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

func link(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(from, to); err != nil {
		t.Fatal(err)
	}
}

// commands are the script: each line of a block is in the line that it has in the document, so that the shell's numbers are
// the document's. What the shell needs besides is where the title and the fences are.
func (s *session) commands() string {
	lines := make([]string, len(s.document.lines))
	lines[0] = fmt.Sprintf(`set -eE; trap 's=$?; echo "$LINENO: exit status $s of: $BASH_COMMAND" >>%s' ERR; [ $$ != 1 ] || ip link set lo up`, s.failure)
	for _, i := range s.document.runs() {
		b := s.document.blocks[i]
		lines[b.line-1] = fmt.Sprintf("exec >%s/%d 2>&1", s.outputs, i)
		copy(lines[b.line:], b.lines)
	}
	return strings.Join(lines, "\n") + "\n"
}

// alone gives a session a network of its own, and processes of its own: the shell is the first of them, and when that ends the
// kernel kills all others.
func alone() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Setpgid: true}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// notAlone are the errors of run where alone is not to be had: not by this user, not by anybody, as when the bound of namespaces is 0, not
// with this kernel, or not without the program that switches the network on.
var notAlone = []error{syscall.EPERM, syscall.ENOSPC, syscall.EUSERS, syscall.EINVAL, exec.ErrNotFound}

// run runs the session to its end. It fails with one of notAlone where attr is not possible.
func (s *session) run(t *testing.T, attr *syscall.SysProcAttr) error {
	t.Helper()
	if attr.Cloneflags&syscall.CLONE_NEWNET != 0 {
		if _, err := exec.LookPath("ip"); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "--noprofile", "--norc", s.script)
	cmd.Dir, cmd.SysProcAttr = s.dir, attr
	cmd.Env = []string{
		"PATH=" + filepath.Join(s.dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C.UTF-8", "TZ=UTC",
		"ETCDCTL_COMMAND_TIMEOUT=60s", // a reader's machine has nothing else to do; this one may have
	}
	var stray strings.Builder // what is printed outside of blocks, as when bash cannot read the script
	cmd.Stdout, cmd.Stderr = &stray, &stray
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a shell: %w", err)
	}
	err := cmd.Wait()
	if kill := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); kill != nil && !errors.Is(kill, syscall.ESRCH) {
		t.Errorf("end the processes of the session: %v", kill)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s did not end within %v\n%s", s.document.path, patience, s.report(t))
	case err != nil:
		return fmt.Errorf("%s: %w\n%s%s", s.document.path, err, stray.String(), s.report(t))
	}
	return nil
}

// report is what a reader of a failure wants to see: the line, what its block printed, and the ends of the servers' logs.
func (s *session) report(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	if failure, err := os.ReadFile(s.failure); err == nil {
		first, _, _ := strings.Cut(string(failure), "\n")
		fmt.Fprintf(&b, "%s:%s\n", s.document.path, first)
	}
	for _, i := range s.document.runs() {
		if out, err := os.ReadFile(s.output(i)); err == nil {
			fmt.Fprintf(&b, "--- block of line %d printed:\n%s\n", s.document.blocks[i].line, tail(out))
		}
	}
	logs, err := filepath.Glob(filepath.Join(s.dir, "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, log := range logs {
		if out, err := os.ReadFile(log); err == nil {
			fmt.Fprintf(&b, "--- end of %s:\n%s\n", filepath.Base(log), tail(out))
		}
	}
	return b.String()
}

func (s *session) output(i int) string { return filepath.Join(s.outputs, fmt.Sprint(i)) }

// tail is the end of a text.
func tail(text []byte) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// compare compares what was printed with what the document says.
func (s *session) compare(t *testing.T) {
	t.Helper()
	for _, i := range s.document.runs() {
		want, there := s.document.outcome(i)
		if !there {
			continue
		}
		out, err := os.ReadFile(s.output(i))
		if err != nil {
			t.Fatal(err)
		}
		if !matches(want.lines, printed(string(out))) {
			t.Errorf("%s:%d says what is not so. It was:\n%s", s.document.path, want.line, out)
		}
	}
}

var port = regexp.MustCompile(`:([1-9][0-9]{3,4})\b`)

// portsInUse are those on which others listen, of the ports that a document names or that are the default of something.
func portsInUse(d document) []string {
	names := map[string]bool{"2379": true, "2380": true, "23790": true}
	for _, i := range d.runs() {
		for _, m := range port.FindAllStringSubmatch(d.blocks[i].text(), -1) {
			names[m[1]] = true
		}
	}
	var used []string
	for name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:"+name)
		if err != nil {
			used = append(used, name)
			continue
		}
		l.Close()
	}
	return used
}
