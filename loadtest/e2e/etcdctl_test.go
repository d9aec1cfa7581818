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
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// ctlStep is one run of etcdctl. In args, {lease} stands for the lease granted last, {dir} for a folder.
type ctlStep struct {
	args  string
	stdin string
	// lines, if not 0, is how many lines to wait for before the command, which does not end by itself, is ended.
	lines   int
	program proc.Program // etcdctl if empty
}

// The steps run in this order against one empty store.
var ctlSteps = []ctlStep{
	{args: "put a 1"},
	{args: "put a 2 --prev-kv"},
	{args: "put a --ignore-value", stdin: ""},
	{args: "put b", stdin: "from stdin"},
	{args: "put c 3 -w json"},
	{args: "get a"},
	{args: "get nothing"},
	{args: "get a -w fields"},
	{args: "get a -w json"},
	{args: "get '' --prefix --keys-only"},
	{args: "get '' --prefix --count-only -w fields"},
	{args: "get a c --print-value-only --order=DESCEND --sort-by=KEY"},
	{args: "get b --from-key --limit 1"},
	{args: "get a --rev 2"},
	{args: "get a --rev 1000"},
	{args: "get a --consistency=s"},
	{args: "del b --prev-kv"},
	{args: "del nothing"},
	{args: "del c d"},
	{args: "txn -i", stdin: "value(\"a\") = \"2\"\n\nput x then\nget a\n\nput x else\n\n"},
	{args: "txn -i", stdin: "mod(\"a\") > \"1000\"\n\nput x then\n\nput x else\ndel a\n\n"},
	{args: "txn", stdin: "version(\"x\") = \"2\"\ncreate(\"x\") > \"0\"\n\nget x\n\n\n"},
	{args: "txn", stdin: "\nput d 1\nput d 2\n\n\n"},
	{args: "watch '' --prefix --rev 1", lines: 27},
	{args: "watch a --rev 2 --prev-kv", lines: 16},
	{args: "watch -i", stdin: "watch a --rev 2\n", lines: 11},
	{args: "watch a --rev 2 -w json", lines: 1},
	{args: "lease grant 1000"},
	{args: "put leased 1 --lease={lease}"},
	{args: "lease keep-alive --once {lease}"},
	{args: "lease keep-alive {lease}", lines: 1},
	{args: "lease timetolive {lease}"},
	{args: "lease timetolive {lease} --keys"},
	{args: "lease timetolive {lease} --keys -w json"},
	{args: "lease list"},
	{args: "get leased -w fields"},
	{args: "lease revoke {lease}"},
	{args: "lease revoke {lease}"},
	{args: "lease timetolive {lease}"},
	{args: "lease list"},
	{args: "get leased"},
	{args: "put a 1 --lease={lease}"},
	{args: "lease grant 99999999999"},
	{args: "compaction 5"},
	{args: "compaction 5"},
	{args: "compaction 6 --physical"},
	{args: "compaction 1000"},
	{args: "get a --rev 4"},
	{args: "watch a --rev 2", lines: 1},
	{args: "member list"},
	{args: "member list -w table"},
	{args: "member list -w json"},
	{args: "endpoint health"},
	{args: "endpoint health -w json"},
	{args: "endpoint status"},
	{args: "endpoint status -w table"},
	{args: "endpoint status -w fields"},
	{args: "endpoint hashkv"},
	{args: "endpoint hashkv --rev 7 -w json"},
	{args: "alarm list"},
	{args: "defrag"},
	{args: "snapshot save {dir}/snapshot.db"},
	{args: "snapshot status {dir}/snapshot.db -w fields", program: proc.Etcdutl},
	{args: "get '' --prefix -w json"},
	{args: "check perf --load=nonsense"},
}

// What etcdctl prints must be the same, ids, sizes and times aside.
func TestEtcdctlPrintsWhatItPrintsWithEtcd(t *testing.T) {
	wanted := ctlTranscript(t, target.Etcd37)
	for _, kind := range []target.Kind{target.Core, target.ProxyCore, target.ProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for i, got := range ctlTranscript(t, kind) {
				if got != wanted[i] {
					t.Errorf("etcdctl %s\nprints:\n%s\nwith etcd it prints:\n%s", ctlSteps[i].args, got, wanted[i])
				}
			}
		})
	}
}

// ctlTranscript is what each of ctlSteps prints with a target, without what differs from run to run.
func ctlTranscript(t *testing.T, kind target.Kind) []string {
	tg := targettest.Start(t, bin, kind)
	c := &ctl{T: t, endpoint: tg.Endpoint, dir: t.TempDir(), ids: map[string]string{}}
	var all []string
	for _, step := range ctlSteps {
		all = append(all, c.normal(c.run(step)))
	}
	return all
}

// ctl runs etcdctl against one target.
type ctl struct {
	*testing.T
	endpoint string
	dir      string
	lease    string
	ids      map[string]string // ids, and the names they have in transcripts
}

var granted = regexp.MustCompile(`^lease ([0-9a-f]+) granted`)

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
	line := strings.NewReplacer("{lease}", c.lease, "{dir}", c.dir).Replace(step.args)
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
	if m := granted.FindStringSubmatch(stdout.String()); m != nil {
		c.lease = m[1]
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
