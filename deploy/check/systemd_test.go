package check

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// exposure is the highest that systemd-analyze may count, in tenths: it calls 2.0 and less the best of its classes that a service of
// the network can be in.
const exposure = "20"

var units = []string{"weir-core.service", "weir-proxy.service"}

// TestSystemdTakesTheUnits: it knows every setting, and finds little that a unit may do to the machine.
func TestSystemdTakesTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if runtime.GOOS != "linux" {
			t.Skip("there is no systemd on ", runtime.GOOS)
		}
		t.Fatal("systemd-analyze is missing: install Debian's package systemd")
	}
	dir := t.TempDir()
	truth, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, unit := range units {
		text, err := os.ReadFile(filepath.Join("../systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		// The program has to be there to be verified, and is not installed here.
		program := "/usr/bin/" + strings.TrimSuffix(unit, ".service")
		if !strings.Contains(string(text), "ExecStart="+program+"\n") {
			t.Errorf("%s does not start %s", unit, program)
		}
		path := filepath.Join(dir, unit)
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), program, truth, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	const socket = "weir-proxy.socket" // found by the service of its name
	text, err := os.ReadFile(filepath.Join("../systemd", socket))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, socket), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	verify := append([]string{"verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, socket)}, paths...)
	if text, err := exec.CommandContext(t.Context(), analyze, verify...).CombinedOutput(); err != nil || len(text) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, text)
	}
	security := append([]string{"security", "--no-pager", "--offline=true", "--threshold=" + exposure}, paths...)
	if text, err := exec.CommandContext(t.Context(), analyze, security...).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, text)
	}
}

// environmentOf is what systemd makes of an EnvironmentFile that has no quotes.
func environmentOf(t *testing.T, path string) (env []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			env = append(env, line)
		}
	}
	return env
}

// manager is a service manager's end of sd_notify.
type manager struct {
	path string
	conn *net.UnixConn
}

func listenAsManager(t *testing.T) manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return manager{path, conn}
}

// want fails unless this is what the manager is told next.
func (m manager) want(t *testing.T, state string) {
	t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if err != nil || string(b[:n]) != state {
		t.Errorf("the service manager is told %q, %v, want %q", b[:n], err, state)
	}
}
