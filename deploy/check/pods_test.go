package check

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// patience bounds what has to happen on a machine that may be slow.
const patience = time.Minute

// A pod is a program that runs as a manifest says, on a loopback address of its own instead of the pod's.
type pod struct {
	name    string
	address string
	args    []string
	probes  map[string]*corev1.Probe
	https   *http.Client // for clients; nil is plaintext
	out     bytes.Buffer
	process *exec.Cmd
}

// podNet tells the addresses of this process's pods from those of another's: 127.x.y.
var podNet = fmt.Sprintf("127.%d.%d.", 64+os.Getpid()>>8&63, os.Getpid()&255)

// newPod makes a pod from a template. Names of pods are replaced with their addresses, so that no DNS is needed; hosts has them all.
func newPod(name, address string, template corev1.PodTemplateSpec, hosts *strings.Replacer, data string) *pod {
	c := template.Spec.Containers[0]
	p := &pod{name: name, address: address, probes: map[string]*corev1.Probe{
		"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe,
	}}
	// Listening everywhere is listening at the pod's address.
	own := strings.NewReplacer("//0.0.0.0:", "//"+address+":", "=:", "="+address+":", "//:", "//"+address+":", "/var/lib/weir", data)
	for _, arg := range expand(c, name, "default") {
		p.args = append(p.args, own.Replace(hosts.Replace(arg)))
	}
	return p
}

// start runs a program as the pod does. It ends with the test.
func (p *pod) start(t *testing.T, program string) {
	t.Helper()
	p.startWith(t, program, []string{})
}

func (p *pod) startWith(t *testing.T, program string, env []string) {
	t.Helper()
	p.process = exec.Command(program, p.args...)
	p.process.Stdout, p.process.Stderr, p.process.Env = &p.out, &p.out, env
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
}

// stop ends the pod as Kubernetes does. Its program must end well, and within the grace period of any pod.
func (p *pod) stop(t *testing.T) {
	if p.process == nil {
		return
	}
	process := p.process
	p.process = nil
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("%s: %v", p.name, err)
	}
	kill := time.AfterFunc(patience, func() { _ = process.Process.Kill() }) // Wait says so
	defer kill.Stop()
	err := process.Wait()
	if err != nil {
		t.Errorf("%s: %v", p.name, err)
	}
	if err != nil || t.Failed() {
		t.Logf("%s %s\n%s", p.name, strings.Join(p.args, " "), p.out.String())
	}
}

// get asks the port for monitoring, and returns what it says with status 200.
func (p *pod) get(ctx context.Context, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+":2381"+path, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// eventually fails the test if something does not hold within patience.
func eventually(t *testing.T, what string, holds func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	var last error
	for {
		err := holds(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, last)
		}
	}
}

// wantProbes waits until every probe of a pod holds.
func (p *pod) wantProbes(t *testing.T) {
	t.Helper()
	for name, probe := range p.probes {
		eventually(t, p.name+"'s "+name+" probe", func(ctx context.Context) error {
			_, err := p.get(ctx, probe.HTTPGet.Path)
			return err
		})
	}
}

// cluster is the pods of the default values: three members and a proxy.
type cluster struct {
	programs string
	members  []*pod
	proxy    *pod
}

// newCluster makes the pods, and starts none.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{programs: programs(t)}
	members, proxies := c.templates(t, ``)
	hosts := c.hosts()
	for i := range 3 {
		name := fmt.Sprintf("weir-core-%d", i)
		c.members = append(c.members, newPod(name, c.address(i), members, hosts, filepath.Join(t.TempDir(), name)))
	}
	c.proxy = newPod("weir-proxy-0", c.address(3), proxies, hosts, "")
	return c
}

func (c *cluster) address(i int) string { return podNet + fmt.Sprint(i+1) }

// hosts replaces the names of members with their addresses.
func (c *cluster) hosts() *strings.Replacer {
	var pairs []string
	for i := range 3 {
		pairs = append(pairs, fmt.Sprintf("weir-core-%d.weir-core-peers.default.svc", i), c.address(i))
	}
	return strings.NewReplacer(pairs...)
}

// templates are those of the pods that the chart makes with values.
func (c *cluster) templates(t *testing.T, values string) (members, proxies corev1.PodTemplateSpec) {
	t.Helper()
	for _, o := range decode(t, mustRender(t, values)) {
		switch w := o.(type) {
		case *apps.StatefulSet:
			members = w.Spec.Template
		case *apps.Deployment:
			proxies = w.Spec.Template
		}
	}
	return members, proxies
}

func (c *cluster) startMember(t *testing.T, p *pod) {
	p.start(t, filepath.Join(c.programs, "weir-core"))
}

func (c *cluster) startAll(t *testing.T) {
	t.Helper()
	for _, m := range c.members {
		c.startMember(t, m)
	}
	c.proxy.start(t, filepath.Join(c.programs, "weir-proxy"))
	for _, p := range append(c.members, c.proxy) {
		p.wantProbes(t)
	}
}
