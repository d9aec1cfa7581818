package check

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the manifests in deploy/kubernetes again")

const (
	chartDir      = "../helm/weir"
	kubernetesDir = "../kubernetes"
	release       = "weir"
)

// bundles are the folders of deploy/kubernetes: each has values.yaml, and manifest.yaml rendered with it.
var bundles = []string{"core", "proxy", "node-proxy", "monitoring"}

// valuesOf reads the values in YAML.
func valuesOf(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatalf("values %s: %v", text, err)
	}
	return values
}

// render is `helm template weir deploy/helm/weir` with values, without NOTES.txt: what each template makes, in the order of their names.
func render(t *testing.T, values map[string]any) (string, error) {
	t.Helper()
	chart, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	options := common.ReleaseOptions{Name: release, Namespace: "default", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(chart, values, options, common.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return "", err
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		for part := range strings.SplitSeq("\n"+files[name], "\n---\n") {
			if part = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(part), "---")); part != "" {
				parts = append(parts, part)
			}
		}
	}
	return strings.Join(parts, "\n---\n") + "\n", nil
}

func mustRender(t *testing.T, values string) string {
	t.Helper()
	text, err := render(t, valuesOf(t, values))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// everything sets what is off by default.
const everything = `
core:
  image: {tag: v1}
  tls: {client: {secretName: core-client, clientAuth: true}, peer: {secretName: core-peer}}
  antiAffinity: preferred
  storage: {className: fast}
  nodeSelector: {disk: fast}
  tolerations: [{operator: Exists}]
  priorityClassName: system-cluster-critical
  podAnnotations: {a: b}
  extraEnv: [{name: GOGC, value: "200"}]
  extraVolumes: [{name: x, emptyDir: {}}]
  extraVolumeMounts: [{name: x, mountPath: /x}]
  flags: {enable-pprof: true}
proxy:
  upstream: {tls: {secretName: upstream, clientCert: true}, credentialsSecretName: proxy-user}
  tls: {secretName: proxy-client, clientAuth: true}
  tenantsSecretName: tenants
  flags: {cache-bytes: "536870912", feed: /registry/}
  nodeSelector: {disk: fast}
  tolerations: [{operator: Exists}]
  priorityClassName: system-cluster-critical
  podAnnotations: {a: b}
  extraEnv: [{name: GOGC, value: "200"}]
  extraVolumes: [{name: x, emptyDir: {}}]
  extraVolumeMounts: [{name: x, mountPath: /x}]
imagePullSecrets: [{name: pull}]
networkPolicy:
  clientsFrom: [{namespaceSelector: {matchLabels: {a: b}}}]
  monitoringFrom: [{namespaceSelector: {matchLabels: {a: b}}}]
monitoring: {podMonitors: true, rules: true, dashboard: true, labels: {prometheus: main}}
`

// variants are values that together take every branch of the templates.
var variants = map[string]string{
	"default":    ``,
	"everything": everything,
	"node proxy before an etcd": `
core: {enabled: false}
proxy: {mode: daemonset, hostPort: 2379, upstream: {endpoints: ["https://10.0.0.1:2379"], tls: {secretName: etcd-ca}}}`,
	"one member alone":    `{core: {replicas: 1}, proxy: {enabled: false}, networkPolicy: {enabled: false}}`,
	"without autoscaling": `proxy: {autoscaling: {enabled: false}, replicas: 5}`,
	"CPU alone":           `proxy: {autoscaling: {targetWatchers: 0}}`,
	"watches alone":       `proxy: {autoscaling: {targetCPU: 0}}`,
	"IPv6":                `core: {listenHost: "[::]"}`,
}

func TestHelmFindsNothingWrongWithTheChart(t *testing.T) {
	for name, values := range variants {
		result := lint.RunAll(chartDir, valuesOf(t, values), "default")
		for _, m := range result.Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func TestValuesThatCannotBeMeantAreRefused(t *testing.T) {
	for values, want := range map[string]string{
		`core: {replica: 3}`:                              "replica",
		`core: {replicas: 2}`:                             "replicas",
		`core: {antiAffinity: none}`:                      "antiAffinity",
		`core: {initialClusterState: exists}`:             "initialClusterState",
		`core: {flags: {quota-backend-bytes: 1e10}}`:      "quota-backend-bytes",
		`core: {flags: {--quota-backend-bytes: "1"}}`:     "--quota-backend-bytes",
		`proxy: {mode: sidecar}`:                          "mode",
		`proxy: {upstream: {endpoints: "http://a:2379"}}`: "endpoints",
		`proxy: {tls: {cert: a}}`:                         "cert",
		`monitoring: {podMonitor: true}`:                  "podMonitor",
		`core: {enabled: false}`:                          "proxy.upstream.endpoints is empty",

		`core: {tls: {client: {clientAuth: true}}}`:                "core.tls.client.secretName",
		`core: {tls: {client: {secretName: a, clientAuth: true}}}`: "set proxy.upstream.tls",
		`proxy: {tls: {clientAuth: true}}`:                         "proxy.tls.secretName",
		`proxy: {upstream: {tls: {clientCert: true}}}`:             "proxy.upstream.tls.secretName",
	} {
		if _, err := render(t, valuesOf(t, values)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", values, err, want)
		}
	}
}

func TestTheManifestsAreWhatTheChartMakes(t *testing.T) {
	for _, bundle := range bundles {
		dir := filepath.Join(kubernetesDir, bundle)
		values, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		want := "# Made by the chart with values.yaml; \"make manifests\" does it again.\n" + mustRender(t, string(values))
		path := filepath.Join(dir, "manifest.yaml")
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is not what the chart makes: run make manifests (%v)", path, err)
		}
	}
}
