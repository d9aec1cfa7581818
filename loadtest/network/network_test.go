package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// newNetwork makes hosts. Without the right to, the test is skipped.
func newNetwork(t *testing.T, hosts int) *Network {
	t.Helper()
	n, err := New(t.Context(), hosts)
	if err != nil {
		if os.Geteuid() != 0 || errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			t.Skipf("no network namespaces here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// reaches tells whether a host's process reaches a server on the calling process's host.
func reaches(ctx context.Context, n *Network, host int, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	at, port, _ := net.SplitHostPort(addr)
	c := n.Command(host, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%s && head -c 2 <&3", at, port))
	out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput()
	return err == nil && strings.HasPrefix(string(out), "hi")
}

func TestLinksAreCutInOneDirection(t *testing.T) {
	n := newNetwork(t, 2)
	const here = 2
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(n.Addr(here), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hi"))
			_ = c.Close()
		}
	}()
	for _, one := range []struct {
		from, to int
		want     [2]bool
	}{
		{-1, -1, [2]bool{true, true}}, {0, here, [2]bool{false, true}}, {here, 0, [2]bool{false, true}},
		{1, here, [2]bool{true, false}}, {0, 1, [2]bool{true, true}},
	} {
		if one.from >= 0 {
			n.Set(one.from, one.to, Link{Cut: true})
		}
		for host, want := range one.want {
			if got := reaches(t.Context(), n, host, l.Addr().String()); got != want {
				t.Errorf("cut from %d to %d: host %d reaches the server: %v", one.from, one.to, host, got)
			}
		}
		n.Mend()
	}
}
