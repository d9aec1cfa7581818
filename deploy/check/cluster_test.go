package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// call is one of the JSON gateway of a pod.
func (p *pod) call(t *testing.T, path string, request, answer any) {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	scheme, client := "http://", http.DefaultClient
	if p.https != nil {
		scheme, client = "https://", p.https
	}
	eventually(t, path, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+p.address+":2379"+path, strings.NewReader(string(body)))
		if err != nil {
			return err
		}
		response, err := client.Do(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			text, err := io.ReadAll(response.Body)
			return errors.Join(fmt.Errorf("%s: %s", response.Status, text), err)
		}
		return json.NewDecoder(response.Body).Decode(answer)
	})
}

type (
	none struct{}
	put  struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
	get struct {
		Key []byte `json:"key"`
	}
	answer struct {
		Kvs []struct {
			Value []byte `json:"value"`
		} `json:"kvs"`
	}
	member struct {
		ID       string   `json:"ID"`
		Name     string   `json:"name"`
		PeerURLs []string `json:"peerURLs"`
	}
	memberList struct {
		Members []member `json:"members"`
	}
)

// wantPair fails unless a linearizable read of k at a pod gives v.
func (p *pod) wantPair(t *testing.T) {
	t.Helper()
	var got answer
	p.call(t, "/v3/kv/range", get{[]byte("k")}, &got)
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Errorf("%s reads %v, want v", p.name, got.Kvs)
	}
}

func needLoopback(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only linux has a network of loopback addresses")
	}
}

// TestPodsAreTheClusterThatTheManifestsPromise: members find each other, the proxy finds them, every probe holds, and every metric that an
// alert or the dashboard asks for is there, with the labels that it is chosen by.
func TestPodsAreTheClusterThatTheManifestsPromise(t *testing.T) {
	needLoopback(t)
	c := newCluster(t)
	c.startAll(t)
	c.proxy.call(t, "/v3/kv/put", put{[]byte("k"), []byte("v")}, &none{})
	for _, p := range append(c.members, c.proxy) {
		p.wantPair(t)
	}
	var list memberList
	c.proxy.call(t, "/v3/cluster/member/list", none{}, &list)
	for _, alarm := range []string{"NOSPACE", "CORRUPT"} { // which are metrics only while they are raised
		c.proxy.call(t, "/v3/maintenance/alarm", map[string]any{"action": "ACTIVATE", "memberID": list.Members[0].ID, "alarm": alarm}, &none{})
	}

	exported := map[string]map[string]bool{"up": {}} // made by Prometheus
	for _, p := range []*pod{c.members[0], c.members[1], c.members[2]} {
		p.addMetrics(t, exported, "/metrics")
	}
	c.proxy.addMetrics(t, exported, "/proxy/metrics")
	wanted := map[string]map[string][]string{}
	for _, rule := range alerts(t) {
		wanted[rule.Alert] = metricsOf(t, rule.Expr)
	}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			wanted[p.Title+" "+target.RefID] = metricsOf(t, variables.Replace(target.Expr))
		}
	}
	for who, metrics := range wanted {
		for name, by := range metrics {
			has, ok := exported[name]
			if !ok {
				t.Errorf("%s asks for %s, which nobody exports", who, name)
				continue
			}
			for _, label := range by {
				if !has[label] && !slices.Contains([]string{"__name__", "job", "instance", "cluster", "namespace"}, label) {
					t.Errorf("%s chooses %s by %s, which has the labels %v", who, name, label, slices.Sorted(maps.Keys(has)))
				}
			}
		}
	}
}

// addMetrics adds the names of what a pod exports, each with the names of its labels.
func (p *pod) addMetrics(t *testing.T, exported map[string]map[string]bool, path string) {
	t.Helper()
	text, err := p.get(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		series, err := parser.ParseMetric(line[:strings.LastIndexByte(line, ' ')])
		if err != nil {
			t.Fatalf("%s of %s: %v", path, p.name, err)
		}
		name := series.Get(model.MetricNameLabel)
		if exported[name] == nil {
			exported[name] = map[string]bool{}
		}
		series.Range(func(l labels.Label) { exported[name][l.Name] = true })
	}
}

// TestAMemberWithoutItsVolumeComesBackInItsOwnPlace, as the README of the manifests says: it is refused by itself, and joins when it has been
// removed and added and core.initialClusterState is existing, with which the others start, too.
func TestAMemberWithoutItsVolumeComesBackInItsOwnPlace(t *testing.T) {
	needLoopback(t)
	c := newCluster(t)
	c.startAll(t)
	c.proxy.call(t, "/v3/kv/put", put{[]byte("k"), []byte("v")}, &none{})
	lost := c.members[2]
	lost.stop(t)

	var list memberList
	c.proxy.call(t, "/v3/cluster/member/list", none{}, &list)
	for _, m := range list.Members {
		if m.Name == lost.name {
			c.proxy.call(t, "/v3/cluster/member/remove", map[string]string{"ID": m.ID}, &none{})
			c.proxy.call(t, "/v3/cluster/member/add", map[string]any{"peerURLs": m.PeerURLs}, &none{})
		}
	}
	template, _ := c.templates(t, `core: {initialClusterState: existing}`)
	again := newPod(lost.name, lost.address, template, c.hosts(), filepath.Join(t.TempDir(), "new volume"))
	c.startMember(t, again)
	again.wantProbes(t)
	again.wantPair(t)
	for _, m := range c.members[:2] { // the rolling update
		m.stop(t)
		data := m.args[slices.IndexFunc(m.args, func(a string) bool { return strings.HasPrefix(a, "--data-dir=") })]
		updated := newPod(m.name, m.address, template, c.hosts(), strings.TrimSuffix(strings.TrimPrefix(data, "--data-dir="), "/data"))
		c.startMember(t, updated)
		updated.wantProbes(t)
		updated.wantPair(t)
	}
}

// TestTheEnvironmentFilesOfTheUnitsAreTaken: both programs start with them, at loopback addresses, and the service manager hears of it.
func TestTheEnvironmentFilesOfTheUnitsAreTaken(t *testing.T) {
	needLoopback(t)
	programs := programs(t)
	data := t.TempDir()
	var pairs []string
	for i := range 3 {
		pairs = append(pairs, fmt.Sprintf("10.0.0.%d:", i+1), podNet+fmt.Sprint(i+11)+":")
	}
	pairs = append(pairs, "http://127.0.0.1:2379", "http://"+podNet+"15:2379", "127.0.0.1:", podNet+"16:", "/var/lib/weir", data)
	replace := strings.NewReplacer(pairs...)
	// Of the three members in the file one alone runs, so it is the only one.
	alone := strings.NewReplacer(",m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380", "")
	for _, unit := range []string{"core", "proxy"} {
		var env []string
		for _, pair := range environmentOf(t, filepath.Join("../systemd", unit+".env")) {
			env = append(env, replace.Replace(alone.Replace(pair)))
		}
		manager := listenAsManager(t)
		p := &pod{name: unit, address: podNet + map[string]string{"core": "11", "proxy": "16"}[unit]}
		p.startWith(t, filepath.Join(programs, "weir-"+unit), append(env, "NOTIFY_SOCKET="+manager.path))
		manager.want(t, "READY=1")
		eventually(t, unit, func(ctx context.Context) error {
			_, err := p.get(ctx, "/readyz")
			return err
		})
		defer func() {
			p.stop(t)
			manager.want(t, "STOPPING=1")
		}()
	}
	if _, err := os.Stat(filepath.Join(data, "m1")); err != nil {
		t.Error(err)
	}
}
