//go:build foreign && linux

package foreign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/loadtest/proc"
)

// database is a PostgreSQL of two nodes under Patroni, as docs/examples/patroni has it, with a store of the test's. It ends
// with the test.
type database struct {
	*testing.T
	ctx   context.Context
	dir   string   // where the example is, and what the nodes have on disk
	store []string // Patroni's environment: where the store is
	nodes []*node
}

// node is a Patroni, and the PostgreSQL that it runs.
type node struct {
	*proc.Process
	name, postgres, rest string // the latter two host:port
	data, log            string // a directory and a file
}

// databaseTimeout is for a whole test, which takes a minute and a half, a third of it in waiting for a lease to end, and more
// where others are busy.
const databaseTimeout = 10 * time.Minute

// newDatabase prepares the nodes, and runs none.
func newDatabase(t *testing.T, store []string) *database {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), databaseTimeout)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "weir-patroni") //nolint:usetesting // only root may enter the test's own, whom PostgreSQL refuses
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	db := &database{T: t, ctx: ctx, dir: dir, store: store}
	db.endWithTest()
	if err := os.CopyFS(dir, os.DirFS("../../docs/examples/patroni")); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		db.give("postgres")
	}
	for _, name := range []string{"one", "two"} {
		n := &node{name: name, data: filepath.Join(dir, name), log: filepath.Join(dir, name+".log")}
		for _, addr := range []*string{&n.postgres, &n.rest} {
			if *addr, err = proc.FreeAddr(); err != nil {
				t.Fatal(err)
			}
		}
		db.nodes = append(db.nodes, n)
	}
	return db
}

// endWithTest has PostgreSQL end, and the folder go, when the test's process ends before it has seen to that itself, as when somebody
// interrupts it. Patroni ends with that process; PostgreSQL, which is nobody's child, would stay.
func (db *database) endWithTest() {
	db.Helper()
	const script = `read -r nothing
for node in "$0/one" "$0/two"; do
	pid=$(head -n 1 "$node/postmaster.pid" 2>/dev/null)
	while grep -qF "$node" "/proc/$pid/cmdline" 2>/dev/null; do kill -QUIT "$pid"; sleep 0.1; done
done
rm -rf "$0"`
	cmd := exec.Command("/bin/sh", "-c", script, db.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // or it would be interrupted, too
	pipe, err := cmd.StdinPipe()                          // which the kernel closes with the process
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		db.Fatal(err)
	}
	db.Cleanup(func() {
		if err := errors.Join(pipe.Close(), cmd.Wait()); err != nil {
			db.Error(err)
		}
	})
}

// give makes the folder another user's.
func (db *database) give(name string) {
	db.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		db.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err == nil {
		err = os.Chown(db.dir, uid, -1)
	}
	if err == nil {
		err = os.Chmod(db.dir, 0o755)
	}
	if err != nil {
		db.Fatal(err)
	}
}

// start starts a node for the first time.
func (db *database) start(n *node) {
	db.Helper()
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	// PostgreSQL has Patroni's output as its own, and outlives it: a pipe would not end with Patroni.
	command := []string{"/bin/sh", "-c", `exec "$0" "$@" >>"$LOG" 2>&1`,
		filepath.Join(db.dir, "node.sh"), n.name, port(n.postgres), port(n.rest), db.dir}
	if os.Getuid() == 0 {
		command = append([]string{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"}, command...)
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		db.Fatal(err)
	}
	n.Process, err = proc.Start("patroni "+n.name, path, command[1:], append([]string{"HOME=" + db.dir, "LOG=" + n.log}, db.store...))
	if err != nil {
		db.Fatal(err)
	}
	db.Cleanup(func() {
		if db.Failed() {
			db.Logf("log of %s:\n%s", n.Name(), db.logOf(n))
		}
		// SIGKILL would leave shared memory behind.
		if err := errors.Join(n.Kill(), n.signal(context.WithoutCancel(db.ctx), unix.SIGQUIT)); err != nil {
			db.Error(err)
		}
	})
}

// logOf is what Patroni and PostgreSQL of a node have printed.
func (db *database) logOf(n *node) string {
	db.Helper()
	text, err := os.ReadFile(n.log)
	if err != nil {
		db.Error(err)
	}
	return string(text)
}

// kill ends Patroni and PostgreSQL with SIGKILL, as when a machine is gone.
func (db *database) kill(n *node) {
	db.Helper()
	if err := errors.Join(n.Kill(), n.signal(db.ctx, unix.SIGKILL)); err != nil {
		db.Fatal(err)
	}
}

// signal sends a signal to the node's PostgreSQL, if it runs, and waits for its end. It is nobody's child that could be waited
// for.
func (n *node) signal(ctx context.Context, s unix.Signal) error {
	file, err := os.ReadFile(filepath.Join(n.data, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	line, _, _ := bytes.Cut(file, []byte("\n"))
	pid, numberErr := strconv.Atoi(string(line))
	if err := errors.Join(err, numberErr); err != nil {
		return fmt.Errorf("find PostgreSQL of %s: %w", n.name, err)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil // it was killed before
	}
	if err != nil {
		return fmt.Errorf("open PostgreSQL's process %d: %w", pid, err)
	}
	defer unix.Close(process)
	// The file stays behind when PostgreSQL is killed, and its number may have become another's.
	if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !bytes.Contains(command, []byte(n.data)) {
		return nil
	}
	if err := unix.PidfdSendSignal(process, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to PostgreSQL's process %d: %w", s, pid, err)
	}
	return eventually(ctx, "the end of PostgreSQL of "+n.name, func() error {
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 0)
		if err == nil && ended == 0 {
			err = errors.New("it runs")
		}
		return err
	})
}

// eventually calls f until it returns nil or ctx ends: neither Patroni nor PostgreSQL gives a signal.
func eventually(ctx context.Context, what string, f func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %w)", what, ctx.Err(), err)
		}
	}
}

func (db *database) eventually(what string, f func() error) {
	db.Helper()
	if err := eventually(db.ctx, what, f); err != nil {
		db.Fatal(err)
	}
}

// get decodes what a node's Patroni says at a path.
func (db *database) get(n *node, path string, into any) error {
	ctx, cancel := context.WithTimeout(db.ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.rest+path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return json.NewDecoder(r.Body).Decode(into)
}

// awaitRoles waits until Patroni says on each node that one leads and the others follow it, on the same timeline and in full.
func (db *database) awaitRoles(leader *node, followers ...*node) {
	db.Helper()
	want := map[string]string{leader.name: "leader"}
	for _, n := range followers {
		want[n.name] = "replica"
	}
	for _, asked := range append([]*node{leader}, followers...) {
		db.eventually(fmt.Sprintf("%s to see %v", asked.name, want), func() error {
			var cluster struct {
				Members []struct {
					Name, Role, State string
					Timeline          int
					Lag               any // a number, or "unknown"
				}
			}
			if err := db.get(asked, "/cluster", &cluster); err != nil {
				return err
			}
			timelines := map[int]bool{}
			for _, m := range cluster.Members {
				timelines[m.Timeline] = true
				if m.Role != want[m.Name] || !slices.Contains([]string{"running", "streaming"}, m.State) || m.Lag != nil && m.Lag != 0.0 {
					return fmt.Errorf("the cluster is %+v", cluster.Members)
				}
			}
			if len(cluster.Members) != len(want) || len(timelines) != 1 {
				return fmt.Errorf("the cluster is %+v", cluster.Members)
			}
			return nil
		})
	}
}

// leader waits until all nodes run, and tells them apart.
func (db *database) leader() (leader, replica *node) {
	db.Helper()
	db.eventually("a leader", func() error {
		var errs []error
		for i, n := range db.nodes {
			if err := db.leads(n); err != nil {
				errs = append(errs, err)
				continue
			}
			leader, replica = n, db.nodes[1-i]
			return nil
		}
		return errors.Join(errs...)
	})
	db.awaitRoles(leader, replica)
	return leader, replica
}

// leads is an error unless a node leads and takes writes.
func (db *database) leads(n *node) error {
	var self struct{ Role, State string }
	if err := db.get(n, "/patroni", &self); err != nil {
		return err
	}
	if self.Role != "primary" && self.Role != "master" || self.State != "running" { // the latter before Patroni 4
		return fmt.Errorf("%s is %+v", n.name, self)
	}
	return nil
}

// awaitRounds waits until each node has been several times through Patroni's loop to its good end. Of a leader that
// includes that it has renewed its lease.
func (db *database) awaitRounds() {
	db.Helper()
	rounds := func(n *node) int { return strings.Count(db.logOf(n), "no action. I am ("+n.name+")") }
	for _, n := range db.nodes {
		before := rounds(n)
		db.eventually("rounds of "+n.name, func() error {
			if now := rounds(n); now < before+3 {
				return fmt.Errorf("%d so far", now-before)
			}
			return nil
		})
	}
}

// sql is what a node's PostgreSQL answers.
func (db *database) sql(n *node, statement string) (string, error) {
	host, port, err := net.SplitHostPort(n.postgres)
	if err != nil {
		return "", err
	}
	return db.run("psql", "--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1",
		"--host="+host, "--port="+port, "--username=postgres", "--dbname=postgres", "--command="+statement)
}

func (db *database) mustSQL(n *node, statement string) string {
	db.Helper()
	answer, err := db.sql(n, statement)
	if err != nil {
		db.Fatal(err)
	}
	return answer
}

// awaitRows waits until a node has all rows, which is at once on a leader.
func (db *database) awaitRows(n *node, want string) {
	db.Helper()
	db.eventually("rows on "+n.name, func() error {
		got, err := db.sql(n, `SELECT string_agg(row, ' ' ORDER BY row) FROM kept`)
		if err == nil && got != want {
			err = fmt.Errorf("it has %q, want %q", got, want)
		}
		return err
	})
}

// patronictl is what Patroni's tool prints.
func (db *database) patronictl(args ...string) string {
	db.Helper()
	out, err := db.run("patronictl", append([]string{"--config-file=" + filepath.Join(db.dir, "patroni.yml")}, args...)...)
	if err != nil {
		db.Fatal(err)
	}
	return out
}

func (db *database) run(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(db.ctx, name, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + db.dir, "LC_ALL=C.UTF-8", "PGPASSWORD=example", "PGCONNECT_TIMEOUT=20"}, db.store...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", name, err, out, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
}
