//go:build foreign

package foreign

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/loadtest/target"
)

// libraries are the commands of the scripts. Debian's modules are there for Debian's Python only.
var libraries = map[string][]string{
	"python3-etcd3": {"/usr/bin/python3", "scripts/etcd3_python.py"},
	"npm-etcd3":     {"node", "scripts/etcd3_node.js"},
}

func TestLibrariesOfOtherLanguages(t *testing.T) {
	for name, command := range libraries {
		for transport, secure := range map[string]bool{"plaintext": false, "TLS": true} {
			t.Run(name+"/"+transport, func(t *testing.T) {
				t.Parallel()
				compareTranscripts(t, secure, command)
			})
		}
	}
}

// compareTranscripts runs a program against each kind, and compares what it prints with what it prints about etcd.
func compareTranscripts(t *testing.T, secure bool, command []string) {
	transcripts := make([][]string, len(kinds()))
	ran := t.Run("run", func(t *testing.T) {
		for i, kind := range kinds() {
			t.Run(string(kind), func(t *testing.T) {
				t.Parallel()
				transcripts[i] = transcript(t, kind, secure, command)
			})
		}
	})
	if !ran {
		return
	}
	for i, kind := range kinds()[1:] {
		t.Run("compare/"+string(kind), func(t *testing.T) { compare(t, transcripts[i+1], transcripts[0]) })
	}
}

// scriptTimeout is for a whole program, which takes a few seconds where it is alone. It is not: see TestPatroni.
const scriptTimeout = 3 * time.Minute

// identifier is what differs from cluster to cluster in the answers that a program prints as they come.
var identifier = regexp.MustCompile(`"(cluster_id|member_id|raft_term)":"[1-9][0-9]*"`)

// transcript is what a program prints about a new target.
func transcript(t *testing.T, kind target.Kind, secure bool, command []string) []string {
	t.Helper()
	tg, tls := start(t, kind, secure)
	args := append(command[1:len(command):len(command)], tg.Endpoint)
	if tls != nil {
		args = append(args, tls.CertFile)
	}
	ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], args...)
	cmd.Env = append(os.Environ(), "NODE_PATH="+example(t, "node/node_modules"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, &stderr)
	}
	return strings.Split(strings.TrimSpace(identifier.ReplaceAllString(string(out), `"$1":"…"`)), "\n")
}

// compare shows the lines that differ.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("line %d:\n\tgot  %s\n\tetcd %s", i+1, g, w)
		}
	}
}
