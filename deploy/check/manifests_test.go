package check

import (
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	podsecurity "k8s.io/pod-security-admission/api"
	standards "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// kinds are the types of what the chart makes.
var kinds = map[string]func() meta.Object{
	"apps/v1 StatefulSet":                     func() meta.Object { return new(apps.StatefulSet) },
	"apps/v1 Deployment":                      func() meta.Object { return new(apps.Deployment) },
	"apps/v1 DaemonSet":                       func() meta.Object { return new(apps.DaemonSet) },
	"v1 Service":                              func() meta.Object { return new(corev1.Service) },
	"v1 ConfigMap":                            func() meta.Object { return new(corev1.ConfigMap) },
	"policy/v1 PodDisruptionBudget":           func() meta.Object { return new(policy.PodDisruptionBudget) },
	"autoscaling/v2 HorizontalPodAutoscaler":  func() meta.Object { return new(autoscaling.HorizontalPodAutoscaler) },
	"networking.k8s.io/v1 NetworkPolicy":      func() meta.Object { return new(networking.NetworkPolicy) },
	"monitoring.coreos.com/v1 PodMonitor":     func() meta.Object { return new(monitoring.PodMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule": func() meta.Object { return new(monitoring.PrometheusRule) },
}

// decode reads manifests into their types. An unknown field, or one given twice, is an error.
func decode(t *testing.T, text string) (objects []meta.Object) {
	t.Helper()
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, "\n---\n") {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal([]byte(part), &kind); err != nil {
			t.Fatalf("%v in\n%s", err, part)
		}
		create, known := kinds[kind.APIVersion+" "+kind.Kind]
		if !known {
			t.Fatalf("unknown kind %s %s in\n%s", kind.APIVersion, kind.Kind, part)
		}
		object := create()
		if err := yaml.UnmarshalStrict([]byte(part), object); err != nil {
			t.Fatalf("%v in\n%s", err, part)
		}
		id := kind.Kind + " " + object.GetName()
		if problems := validation.IsDNS1035Label(object.GetName()); len(problems) > 0 || seen[id] {
			t.Errorf("%s: name is there twice, or is none: %v", id, problems)
		}
		seen[id] = true
		objects = append(objects, object)
	}
	return objects
}

// workload is what StatefulSets, Deployments and DaemonSets have in common.
type workload struct {
	name     string
	selector *meta.LabelSelector
	pod      corev1.PodTemplateSpec
}

func workloads(objects []meta.Object) (all []workload) {
	for _, o := range objects {
		switch w := o.(type) {
		case *apps.StatefulSet:
			all = append(all, workload{w.Name, w.Spec.Selector, w.Spec.Template})
		case *apps.Deployment:
			all = append(all, workload{w.Name, w.Spec.Selector, w.Spec.Template})
		case *apps.DaemonSet:
			all = append(all, workload{w.Name, w.Spec.Selector, w.Spec.Template})
		}
	}
	return all
}

// selecting returns the workload whose pods a selector chooses, and fails if there is not exactly one.
func selecting(t *testing.T, who string, all []workload, selector labels.Selector) (found workload) {
	t.Helper()
	n := 0
	for _, w := range all {
		if selector.Matches(labels.Set(w.pod.Labels)) {
			found = w
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%s: %v selects the pods of %d workloads, want 1", who, selector, n)
	}
	return found
}

func selectorOf(t *testing.T, s *meta.LabelSelector) labels.Selector {
	t.Helper()
	selector, err := meta.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector
}

// wantPort fails unless the container of a workload has a port of this name.
func wantPort(t *testing.T, who string, w workload, port intstr.IntOrString) {
	t.Helper()
	for _, p := range w.pod.Spec.Containers[0].Ports {
		if p.Name == port.StrVal {
			return
		}
	}
	t.Errorf("%s: %s has no port %q", who, w.name, port.StrVal)
}

func TestWhatTheChartMakesFitsTogether(t *testing.T) {
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			objects := decode(t, mustRender(t, values))
			all := workloads(objects)
			for _, w := range all {
				selecting(t, w.name, all, selectorOf(t, w.selector))
				checkPod(t, w)
			}
			for _, o := range objects {
				checkReferences(t, o, all)
			}
		})
	}
}

// checkReferences fails if something names a workload or a port that is not there.
func checkReferences(t *testing.T, object meta.Object, all []workload) {
	t.Helper()
	switch o := object.(type) {
	case *corev1.Service:
		w := selecting(t, o.Name, all, labels.SelectorFromSet(o.Spec.Selector))
		for _, p := range o.Spec.Ports {
			wantPort(t, o.Name, w, p.TargetPort)
		}
	case *policy.PodDisruptionBudget:
		selecting(t, o.Name, all, selectorOf(t, o.Spec.Selector))
	case *networking.NetworkPolicy:
		w := selecting(t, o.Name, all, selectorOf(t, &o.Spec.PodSelector))
		ports := map[string]bool{}
		for _, rule := range o.Spec.Ingress {
			for _, p := range rule.Ports {
				wantPort(t, o.Name, w, *p.Port)
				ports[p.Port.StrVal] = true
			}
		}
		if len(ports) != len(w.pod.Spec.Containers[0].Ports) {
			t.Errorf("%s has rules for the ports %v, and the pods have %v", o.Name, ports, w.pod.Spec.Containers[0].Ports)
		}
	case *autoscaling.HorizontalPodAutoscaler:
		if len(all) == 0 || all[len(all)-1].name != o.Spec.ScaleTargetRef.Name || len(o.Spec.Metrics) == 0 {
			t.Errorf("%s scales %v by %d metrics", o.Name, o.Spec.ScaleTargetRef, len(o.Spec.Metrics))
		}
	case *monitoring.PodMonitor:
		w := selecting(t, o.Name, all, selectorOf(t, &o.Spec.Selector))
		for _, e := range o.Spec.PodMetricsEndpoints {
			wantPort(t, o.Name, w, intstr.FromString(*e.Port))
		}
	}
}

// checkPod fails if a pod is not what the profile "restricted" allows, mounts what is not there, or has an argument that its
// variables do not complete.
func checkPod(t *testing.T, w workload) {
	t.Helper()
	spec, container := w.pod.Spec, w.pod.Spec.Containers[0]
	evaluator, err := standards.NewEvaluator(standards.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(level, &w.pod.ObjectMeta, &spec) {
		hostPort := result.ForbiddenReason == "hostPort" && container.Ports[0].HostPort != 0 // asked for, and said to need another profile
		if !result.Allowed && !hostPort {
			t.Errorf("%s is not restricted: %s: %s", w.name, result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
	if s := container.SecurityContext; s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Errorf("%s can write to its root file system", w.name)
	}
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken || spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
		t.Errorf("%s is given a token, or variables of services", w.name)
	}
	for name, probe := range map[string]*corev1.Probe{"startup": container.StartupProbe, "readiness": container.ReadinessProbe, "liveness": container.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			t.Errorf("%s has no %s probe", w.name, name)
			continue
		}
		wantPort(t, name+" probe", w, probe.HTTPGet.Port)
	}
	if _, ok := container.Resources.Limits[corev1.ResourceMemory]; !ok {
		t.Errorf("%s has no limit of memory", w.name)
	}
	volumes := map[string]bool{"data": true} // of the StatefulSet's claim
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range container.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("%s mounts the volume %s, which it does not have", w.name, m.Name)
		}
	}
	for _, arg := range expand(container, w.name+"-0", "default") {
		if strings.Contains(arg, "$(") {
			t.Errorf("%s: argument %s has a variable that is not there", w.name, arg)
		}
		if path, ok := strings.CutPrefix(arg[strings.LastIndexByte(arg, '=')+1:], "/etc/weir/"); ok {
			dir := "/etc/weir/" + filepath.Dir(path)
			mounted := false
			for _, m := range container.VolumeMounts {
				mounted = mounted || m.MountPath == dir
			}
			if !mounted {
				t.Errorf("%s: nothing is mounted for %s", w.name, arg)
			}
		}
	}
}

// expand is what Kubernetes makes of a container's arguments in a pod.
func expand(c corev1.Container, pod, namespace string) []string {
	var pairs []string
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			switch e.ValueFrom.FieldRef.FieldPath {
			case "metadata.name":
				value = pod
			case "metadata.namespace":
				value = namespace
			}
		}
		pairs = append(pairs, "$("+e.Name+")", value)
	}
	replace := strings.NewReplacer(pairs...)
	var args []string
	for _, arg := range c.Args {
		args = append(args, replace.Replace(arg))
	}
	return args
}

func TestKustomizePutsABundleIntoAnyNamespace(t *testing.T) {
	for _, bundle := range bundles {
		fs := filesys.MakeFsOnDisk()
		dir, err := filepath.Abs(filepath.Join(kubernetesDir, bundle))
		if err != nil {
			t.Fatal(err)
		}
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, dir)
		if err != nil {
			t.Errorf("%s: %v", bundle, err)
			continue
		}
		for _, r := range resources.Resources() {
			if r.GetNamespace() != "weir" {
				t.Errorf("%s: %s is in namespace %q", bundle, r.CurId(), r.GetNamespace())
			}
		}
	}
}
