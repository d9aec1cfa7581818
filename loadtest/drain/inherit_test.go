package drain

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// socket is held by the test, as by a service manager, and served by one proxy after another.
type socket struct {
	*targettest.Site
	file *os.File
	addr string
	args []string
}

func newSocket(s *targettest.Site, args ...string) *socket {
	s.Helper()
	addr, err := proc.FreeAddr()
	s.Must(err)
	l, err := net.Listen("tcp", addr)
	s.Must(err)
	file, err := l.(*net.TCPListener).File()
	s.Must(err)
	s.Must(l.Close()) // file goes on
	s.Cleanup(func() { file.Close() })
	path, err := bin.Build(s.Ctx, proc.Proxy)
	s.Must(err)
	args = append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, path, "--endpoints=" + strings.Join(s.Cluster.Endpoints(), ",")}, args...)
	return &socket{s, file, addr, args}
}

// served is a proxy that serves the socket.
type served struct {
	*exec.Cmd
	log   *bytes.Buffer // for when it has ended
	ended bool
}

func (k *socket) serve() *served {
	k.Helper()
	p := &served{Cmd: exec.Command("/bin/sh", k.args...), log: &bytes.Buffer{}}
	p.Env, p.Stdout, p.Stderr = []string{"LISTEN_FDS=1"}, p.log, p.log
	p.ExtraFiles = []*os.File{k.file}
	k.Must(p.Start())
	k.Cleanup(func() {
		if !p.ended {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	return p
}

// end tells a proxy to stop, and waits until it has ended by itself.
func (k *socket) end(p *served) {
	k.Helper()
	k.Must(p.Process.Signal(syscall.SIGTERM))
	err := p.Wait()
	if p.ended = true; err != nil {
		k.Fatalf("it ended with %v\n%s", err, p.log)
	}
}

// Processes follow each other on one socket, which is not closed meanwhile: the next begins before the one before has ended, or
// after, when clients wait in the queue of the socket. They know one address, and no request of theirs fails.
func TestRestartOnAnInheritedSocket(t *testing.T) {
	for name, overlap := range map[string]bool{"the next is there": true, "the next comes later": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, target.ProxyEtcd37, targettest.SiteOptions{Timeout: siteTimeout, NoProxies: true})
			k := newSocket(s)
			p := k.serve()
			s.Must(target.Serves(k.addr)(s.Ctx))
			c := newCrowd(s, 12, k.addr)
			for range *rounds {
				old := p
				if overlap {
					p = k.serve()
				}
				k.end(old)
				if !overlap {
					p = k.serve()
				}
				c.advance("the next serves")
			}
			c.end()
			c.leave()
			k.end(p)
		})
	}
}
