package namespaces

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// ctlSteps are runs of etcdctl: arguments with | between them, then what is typed.
var ctlSteps = []struct {
	args, stdin string
	lines       int // to wait for, of a command that does not end by itself; 0 is of one that does
}{
	{args: "put|a|1"},
	{args: "put|a|2|--prev-kv"},
	{args: "put|b/1|x"},
	{args: "put|b/2|y"},
	{args: "put||nothing"},
	{args: "get|a"},
	{args: "get|b/|--prefix"},
	{args: "get||--prefix|--keys-only"},
	{args: "get|b|--from-key|--print-value-only"},
	{args: "get|a|b/2"},
	{args: "get||--prefix|--sort-by=MODIFY|--order=DESCEND|--keys-only"},
	{args: "get|/app/a"},
	{args: "get|a|--rev=2"},
	{args: "txn", stdin: "value(\"a\") = \"2\"\nmod(\"b/1\") > \"0\"\n\nput c then\nget b/ --prefix\ndel a --prev-kv\n\nput c else\n\n"},
	{args: "txn", stdin: "create(\"a\") > \"0\"\n\nput c then\n\nget \"\" --prefix --keys-only\n\n"},
	{args: "watch|a|--rev=1", lines: 8},
	{args: "watch||--prefix|--rev=1|--prev-kv", lines: 20},
	{args: "watch|-i", stdin: "watch c --rev 1\n", lines: 3},
	{args: "lock|l|echo|held"},
	{args: "del|b/|--prefix|--prev-kv"},
	{args: "del||--from-key"},
	{args: "get||--prefix"},
	{args: "compaction|3"},
	{args: "get|a|--rev=2"},
}

// In a namespace etcdctl prints what it prints with a store of its own.
func TestEtcdctlHasAStoreOfItsOwn(t *testing.T) {
	wanted := ctlTranscript(targettest.NewSite(t, bin, target.Etcd37, targettest.SiteOptions{Timeout: testTimeout()}))
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyCore}, func(s *site) {
		for i, got := range ctlTranscript(s.Site) {
			if got != wanted[i] {
				s.Errorf("etcdctl %s\nprints:\n%s\nwith a store of its own:\n%s", ctlSteps[i].args, got, wanted[i])
			}
		}
	})
}

func ctlTranscript(s *targettest.Site) (all []string) {
	s.Helper()
	path, err := bin.Build(s.Ctx, proc.Etcdctl)
	s.Must(err)
	for _, step := range ctlSteps {
		ctx, cancel := context.WithCancel(s.Ctx)
		cmd := exec.CommandContext(ctx, path, strings.Split(step.args, "|")...)
		cmd.Env = []string{"ETCDCTL_ENDPOINTS=" + s.Endpoint(), "PATH=" + os.Getenv("PATH")}
		stdin, err := cmd.StdinPipe()
		s.Must(err)
		stdout, err := cmd.StdoutPipe()
		s.Must(err)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		s.Must(cmd.Start())
		_, err = stdin.Write([]byte(step.stdin))
		s.Must(err)
		if step.lines == 0 {
			s.Must(stdin.Close()) // else its end would end watch -i
		}
		var text strings.Builder
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			text.WriteString(lines.Text() + "\n")
			if step.lines > 0 && strings.Count(text.String(), "\n") == step.lines {
				break
			}
		}
		if step.lines > 0 {
			cancel()
		}
		err = cmd.Wait()
		if step.lines == 0 {
			for line := range strings.Lines(stderr.String()) {
				if !strings.HasPrefix(line, "{") { // etcdctl's own log, with the time
					text.WriteString(line)
				}
			}
			if err != nil {
				text.WriteString(err.Error())
			}
		}
		cancel()
		all = append(all, text.String())
	}
	return all
}
