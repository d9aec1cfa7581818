package check

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	podsecurity "k8s.io/pod-security-admission/api"
	standards "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// membersOf are the arguments by which a core and a restoration have to agree, or the members would not be of one cluster.
var membersOf = []string{"--name=", "--data-dir=", "--initial-cluster=", "--initial-cluster-token=", "--initial-advertise-peer-urls="}

// TestARestoreIsIntoWhatTheCoreStartsWith: the pod that restores a member has the member's volume, user, image and place in the cluster, so
// the core that is started there finds itself, and the pod may run where the core may.
func TestARestoreIsIntoWhatTheCoreStartsWith(t *testing.T) {
	core := statefulSetOf(t, "core")
	text, err := os.ReadFile(filepath.Join(kubernetesDir, "restore.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{"weir-core-0", "weir-core-1", "weir-core-2"} {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(string(text), "MEMBER", member)), &pod); err != nil {
			t.Fatal(err)
		}
		spec, container, of := pod.Spec, pod.Spec.Containers[0], core.Spec.Template.Spec
		evaluator, err := standards.NewEvaluator(standards.DefaultChecks(), nil)
		if err != nil {
			t.Fatal(err)
		}
		level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
		for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &spec) {
			if !result.Allowed {
				t.Errorf("%s is not restricted: %s: %s", pod.Name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
		if a, b := spec.SecurityContext, of.SecurityContext; *a.RunAsUser != *b.RunAsUser || *a.RunAsGroup != *b.RunAsGroup || *a.FSGroup != *b.FSGroup {
			t.Errorf("%s has other users than the core", pod.Name)
		}
		if container.Image != of.Containers[0].Image {
			t.Errorf("%s has the image %s, and the core %s", pod.Name, container.Image, of.Containers[0].Image)
		}
		claim, mount := core.Spec.VolumeClaimTemplates[0].Name, of.Containers[0].VolumeMounts[0]
		if spec.Volumes[0].Name != claim || spec.Volumes[0].PersistentVolumeClaim.ClaimName != claim+"-"+member ||
			container.VolumeMounts[0].Name != mount.Name || container.VolumeMounts[0].MountPath != mount.MountPath {
			t.Errorf("%s does not mount the member's volume as the core does", pod.Name)
		}
		restore, start := expand(container, pod.Name, "weir"), expand(of.Containers[0], member, "weir")
		for _, prefix := range membersOf {
			if a, b := argument(restore, prefix), argument(start, prefix); a != b || a == "" {
				t.Errorf("%s has %q, and the core %q", pod.Name, a, b)
			}
		}
	}
}

// argument is the one that begins so, or "".
func argument(args []string, prefix string) string {
	if i := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, prefix) }); i >= 0 {
		return args[i]
	}
	return ""
}

// statefulSetOf is that of a bundle.
func statefulSetOf(t *testing.T, bundle string) *apps.StatefulSet {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(kubernetesDir, bundle, "manifest.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range decode(t, string(text)) {
		if s, is := object.(*apps.StatefulSet); is {
			return s
		}
	}
	t.Fatalf("%s has no StatefulSet", bundle)
	return nil
}
