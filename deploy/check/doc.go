// Package check is the tests of what is in deploy: that everything which is packaged is well-formed, agrees with each other, and fits the
// programs as they are.
//
// There is one source of each thing. The chart is that of all manifests: those in deploy/kubernetes are rendered from it with the
// values beside them, and "go test ./... -update" writes them again. The alerts and the dashboard in the chart are links to
// deploy/prometheus and deploy/grafana.
//
// Well-formed is what the tool says that will read it, used as a library (Helm, kustomize, Kubernetes' types and its
// Pod Security Standards, BuildKit's parser, Prometheus' parser and engine) or as a program (systemd-analyze). Fits the programs means
// that these are started as the manifests say, as a cluster of three with a proxy, each pod with a loopback address of its own.
//
// It is a module of its own, so that none of these libraries enters the product's dependencies or those of loadtest. "make deploy" runs it.
package check
