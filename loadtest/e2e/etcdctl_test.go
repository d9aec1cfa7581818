package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// ctlStep is one run of etcdctl. In args, {lease} stands for the lease granted last, {learner} for the member added last,
// {member} for the first one, {dir} for a folder.
type ctlStep struct {
	args   string
	stdin  string
	before func(*ctl) // if not nil, is done first
	sorted bool       // the order of what is printed is that of ids
	// lines, if not 0, is how many lines to wait for before the command, which does not end by itself, is ended.
	lines   int
	program proc.Program // etcdctl if empty
}

// What etcdctl prints must be the same, ids, sizes and times aside.
func TestEtcdctlPrintsWhatItPrintsWithEtcd(t *testing.T) {
	for name, steps := range map[string][]ctlStep{"keys": keySteps, "members": memberSteps, "locks": lockSteps, "users": userSteps} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wanted := ctlTranscript(t, target.Etcd37, steps)
			for _, kind := range []target.Kind{target.Core, target.ProxyCore, target.ProxyEtcd37} {
				t.Run(string(kind), func(t *testing.T) {
					t.Parallel()
					for i, got := range ctlTranscript(t, kind, steps) {
						if got != wanted[i] {
							t.Errorf("etcdctl %s\nprints:\n%s\nwith etcd it prints:\n%s", steps[i].args, got, wanted[i])
						}
					}
				})
			}
		})
	}
}

// ctlTranscript is what each step prints with a target, without what differs from run to run.
func ctlTranscript(t *testing.T, kind target.Kind, steps []ctlStep) []string {
	// etcd refuses a downgrade of its store for as long as the log since its last snapshot has the version that it began with, and
	// whether it has depends on how quickly it started.
	tg := targettest.Start(t, bin, kind, target.CheapPasswords, "--snapshot-count=5")
	c := &ctl{T: t, target: tg, endpoint: tg.Endpoint, dir: t.TempDir(), ids: map[string]string{}}
	var all []string
	for _, step := range steps {
		if step.before != nil {
			step.before(c)
		}
		text := c.normal(c.run(step))
		if step.sorted {
			text = sortedWords(text)
		}
		all = append(all, text)
	}
	return all
}

// ctl runs etcdctl against one target.
type ctl struct {
	*testing.T
	target   *target.Target // nil if only endpoint is known
	endpoint string
	dir      string
	lease    string
	member   string
	learner  string
	ids      map[string]string // ids, and the names they have in transcripts
}

var (
	granted = regexp.MustCompile(`^lease ([0-9a-f]+) granted`)
	added   = regexp.MustCompile(`^Member +([0-9a-f]+) added`)
	first   = regexp.MustCompile(`^([0-9a-f]+), started`)
)

func (c *ctl) run(step ctlStep) string {
	c.Helper()
	program := step.program
	if program == "" {
		program = proc.Etcdctl
	}
	path, err := bin.Build(c.Context(), program)
	if err != nil {
		c.Fatal(err)
	}
	line := strings.NewReplacer("{lease}", c.lease, "{learner}", c.learner, "{member}", c.member, "{dir}", c.dir).Replace(step.args)
	var args []string
	for _, a := range strings.Fields(line) {
		args = append(args, strings.Trim(a, "'"))
	}
	ctx, cancel := context.WithTimeout(c.Context(), caseTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"ETCDCTL_ENDPOINTS=" + c.endpoint}
	cmd.Stdin = strings.NewReader(step.stdin)
	if step.lines > 0 {
		return c.firstLines(cmd, step.lines)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		c.Errorf("etcdctl %s does not end", line)
	}
	for id, in := range map[*string]*regexp.Regexp{&c.lease: granted, &c.learner: added, &c.member: first} {
		if m := in.FindStringSubmatch(stdout.String()); m != nil {
			*id = m[1]
		}
	}
	out := stdout.String() + stderr.String()
	if err != nil {
		out += err.Error() + "\n"
	}
	return out
}

// firstLines runs a command that does not end by itself until it has printed some lines.
func (c *ctl) firstLines(cmd *exec.Cmd, lines int) string {
	c.Helper()
	stdin, keepOpen, err := os.Pipe()
	if err != nil {
		c.Fatal(err)
	}
	defer stdin.Close()
	defer keepOpen.Close()
	// The end of stdin would end watch -i.
	if _, err := keepOpen.ReadFrom(cmd.Stdin); err != nil {
		c.Fatal(err)
	}
	cmd.Stdin = stdin
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	var text string
	for s := bufio.NewScanner(out); lines > 0 && s.Scan(); lines-- {
		text += s.Text() + "\n"
	}
	if lines > 0 {
		text += fmt.Sprintf("(%d more lines awaited)\n", lines)
	}
	if err := cmd.Process.Kill(); err != nil {
		c.Error(err)
	}
	_ = cmd.Wait() // killed: that is its error
	return text
}

var (
	longID    = regexp.MustCompile(`\b[0-9a-f]{13,16}\b`)
	fluctuant = []struct {
		re *regexp.Regexp
		to string
	}{
		{regexp.MustCompile(`"(cluster_id|member_id|ID|id|raft_term|raftTerm|leader|dbSize|dbSizeInUse|raftIndex|raftAppliedIndex)":\d+`), `"$1":N`},
		{regexp.MustCompile(`"(ClusterID|MemberID|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Leader|TotalSize|Hash|Size)" : \d+`), `"$1" : N`},
		{regexp.MustCompile(`"Lease" : [1-9]\d*`), `"Lease" : N`},
		{regexp.MustCompile(`"hash":\d+`), `"hash":N`}, // of ids too
		{regexp.MustCompile(`(127\.0\.0\.1:\d+), \d+, (\d+\n)`), `$1, HASH, $2`},
		{regexp.MustCompile(`\d+%`), `PERCENT`},
		{regexp.MustCompile(`(true|false)(, | │ )(\d+(, | │ )){3}`), `$1${2}TERM AND INDEXES$2`},
		{regexp.MustCompile(`took = [^ \n]+`), `took = T`},
		{regexp.MustCompile(`"took":"[^"]+"`), `"took":"T"`},
		{regexp.MustCompile(`took \d[^ \n]*`), `took T`},
		{regexp.MustCompile(`remaining\(\d+s\)`), `remaining(N)`},
		{regexp.MustCompile(`"ttl":\d+`), `"ttl":N`},
		{regexp.MustCompile(`\d+(\.\d+)? [kM]B`), `SIZE`},
		{regexp.MustCompile(`127\.0\.0\.1:\d+`), `ADDR`},
		{regexp.MustCompile(`memberID:\d+`), `memberID:N`},
		{regexp.MustCompile(`"memberID":\d+`), `"memberID":N`},
		{regexp.MustCompile(`"(ID|MemberID|AlarmMemberID)" : \d+`), `"$1" : N`},
	}
	logLine = regexp.MustCompile(`(?m)^\{"level":.*\n`)
	filling = regexp.MustCompile(`(─+)|( +)`)
)

// normal takes out of a transcript what differs from run to run, and gives ids names.
func (c *ctl) normal(text string) string {
	text = logLine.ReplaceAllString(text, "") // etcdctl's own log, with the time
	text = strings.ReplaceAll(text, c.dir, "DIR")
	// Tables are as wide as what is in them.
	text = filling.ReplaceAllStringFunc(text, func(s string) string { return string([]rune(s)[:1]) })
	for _, f := range fluctuant {
		text = f.re.ReplaceAllString(text, f.to)
	}
	text = longID.ReplaceAllStringFunc(text, func(id string) string {
		if c.ids[id] == "" {
			c.ids[id] = fmt.Sprintf("ID%d", len(c.ids)+1)
		}
		return c.ids[id]
	})
	return text
}

// sortedWords brings into one order what is listed in another.
func sortedWords(text string) string {
	words := strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune("\n ,\"[]{}", c) })
	slices.Sort(words)
	return strings.Join(words, "\n")
}

// A snapshot of weir must be one of etcd's: etcdutl restores it, and an etcd starts from it.
func TestEtcdStartsFromASnapshotOfWeir(t *testing.T) {
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, targettest.Start(t, bin, kind))
			f.putLetters("abc")
			f.del("b")
			lease := f.grant(1000)
			before, err := f.client.HashKV(f.ctx, f.target.Endpoint, 0)
			f.must(err)

			dir := t.TempDir()
			file, data := filepath.Join(dir, "snapshot.db"), filepath.Join(dir, "data")
			c := &ctl{T: t, endpoint: f.target.Endpoint, dir: dir}
			c.run(ctlStep{args: "snapshot save " + file})
			out := c.run(ctlStep{program: proc.Etcdutl, args: "snapshot restore " + file + " --data-dir " + data + " --name m1" +
				" --initial-cluster m1=http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:1"})
			if strings.Contains(out, "exit status") {
				t.Fatalf("etcdutl snapshot restore: %s", out)
			}
			restored := newFixture(t, targettest.StartFrom(t, bin, target.Etcd37, data))
			restored.prefix = f.prefix
			restored.wantPairs(restored.get("", clientv3.WithPrefix()).Kvs, "a=1 c=3")
			after, err := restored.client.HashKV(restored.ctx, restored.target.Endpoint, before.Header.Revision)
			f.must(err)
			want(f, "hash of the restored store", after.Hash, before.Hash)
			ttl, err := restored.client.TimeToLive(restored.ctx, lease)
			f.must(err)
			want(f, "TTL of the restored lease", ttl.GrantedTTL, 1000)
		})
	}
}
