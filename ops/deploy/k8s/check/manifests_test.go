// Package check holds the test of the Kubernetes manifests.
package check

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// objects are the decoded manifests, by kind and name.
type objects map[string]runtime.Object

// build makes what kubectl apply -k would send, and decodes it strictly: an
// unknown or repeated field, or a wrong type, is an error.
func build(t *testing.T) objects {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "..")
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, autoscalingv2.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	found := objects{}
	for _, r := range made.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, kind, err := strict.Decode(text, nil, nil)
		if err != nil {
			t.Errorf("%s %s: %v", r.GetKind(), r.GetName(), err)
			continue
		}
		meta := object.(metav1.Object)
		if kind.Kind != "Namespace" && meta.GetNamespace() != "pairdb" {
			t.Errorf("%s %s is in namespace %q", kind.Kind, meta.GetName(), meta.GetNamespace())
		}
		found[kind.Kind+"/"+meta.GetName()] = object
	}
	return found
}

func get[T runtime.Object](t *testing.T, all objects, name string) T {
	t.Helper()
	object, ok := all[name].(T)
	if !ok {
		t.Fatalf("there is no %s among %v", name, slices.Sorted(maps.Keys(all)))
	}
	return object
}

// templates are the pods of both workloads, by the app that they are.
func templates(t *testing.T, all objects) map[string]corev1.PodTemplateSpec {
	return map[string]corev1.PodTemplateSpec{
		"coordinator": get[*appsv1.Deployment](t, all, "Deployment/coordinator").Spec.Template,
		"storage":     get[*appsv1.StatefulSet](t, all, "StatefulSet/storage").Spec.Template,
	}
}

func TestEveryManifestDecodesStrictly(t *testing.T) {
	all := build(t)
	for _, name := range []string{
		"Namespace/pairdb", "ServiceAccount/coordinator", "ServiceAccount/storage", "Secret/coordinator",
		"Service/coordinator", "Service/coordinator-pods", "Service/storage",
		"Deployment/coordinator", "StatefulSet/storage",
		"HorizontalPodAutoscaler/coordinator", "PodDisruptionBudget/coordinator", "PodDisruptionBudget/storage",
		"NetworkPolicy/coordinator", "NetworkPolicy/storage",
	} {
		if all[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	if len(all) != 15 { // and the ConfigMap, whose name ends in a hash
		t.Errorf("%d objects: %v", len(all), slices.Sorted(maps.Keys(all)))
	}
}

// A typing error must not pass for a field that was left out.
func TestStrictDecodingRefusesUnknownFields(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	_, _, err := strict.Decode([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {publishNotReadyAdresses: true}\n"), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "publishNotReadyAdresses") {
		t.Errorf("got %v", err)
	}
}

func TestSelectorsMeetTheirPods(t *testing.T) {
	all := build(t)
	pods := templates(t, all)
	meets := func(what, app string, selector labels.Selector) {
		t.Helper()
		for other, pod := range pods {
			if got := selector.Matches(labels.Set(pod.Labels)); got != (other == app) {
				t.Errorf("%s selects the pods of %s: %t", what, other, got)
			}
		}
	}
	selector := func(s *metav1.LabelSelector) labels.Selector {
		made, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	for name, object := range all {
		app := strings.TrimSuffix(name[strings.IndexByte(name, '/')+1:], "-pods")
		switch o := object.(type) {
		case *corev1.Service:
			meets(name, app, labels.SelectorFromSet(o.Spec.Selector))
			for _, port := range o.Spec.Ports {
				if !hasPort(pods[app], port.TargetPort.StrVal) {
					t.Errorf("%s: no container has port %s", name, port.TargetPort.String())
				}
			}
		case *appsv1.Deployment:
			meets(name, app, selector(o.Spec.Selector))
		case *appsv1.StatefulSet:
			meets(name, app, selector(o.Spec.Selector))
			if all["Service/"+o.Spec.ServiceName] == nil {
				t.Errorf("%s: its service %s is missing", name, o.Spec.ServiceName)
			}
		case *policyv1.PodDisruptionBudget:
			meets(name, app, selector(o.Spec.Selector))
		case *networkingv1.NetworkPolicy:
			meets(name, app, selector(&o.Spec.PodSelector))
			for _, rule := range o.Spec.Ingress {
				for _, port := range rule.Ports {
					if !hasPort(pods[app], port.Port.StrVal) {
						t.Errorf("%s: no container has port %s", name, port.Port)
					}
				}
			}
		case *autoscalingv2.HorizontalPodAutoscaler:
			if target := o.Spec.ScaleTargetRef; all[target.Kind+"/"+target.Name] == nil {
				t.Errorf("%s: its target %s/%s is missing", name, target.Kind, target.Name)
			}
		}
	}
}

func hasPort(pod corev1.PodTemplateSpec, name string) bool {
	return slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
}

func TestPodsAreConfinedBoundedAndProbed(t *testing.T) {
	all := build(t)
	for app, pod := range templates(t, all) {
		spec, c := pod.Spec, pod.Spec.Containers[0]
		if all["ServiceAccount/"+spec.ServiceAccountName] == nil {
			t.Errorf("%s: service account %q is missing", app, spec.ServiceAccountName)
		}
		if s := spec.SecurityContext; s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil {
			t.Errorf("%s may run as root or without seccomp: %+v", app, s)
		}
		if s := c.SecurityContext; s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || len(s.Capabilities.Drop) != 1 {
			t.Errorf("%s: its container is not confined: %+v", app, s)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: no request of processor time or no limit of memory", app)
		}
		for what, probe := range map[string]*corev1.Probe{"live": c.LivenessProbe, "ready": c.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != "/health/"+what || !hasPort(pod, probe.HTTPGet.Port.StrVal) {
				t.Errorf("%s: probe of %s is %+v", app, what, probe)
			}
		}
		mounted := map[string]bool{}
		for _, v := range spec.Volumes {
			mounted[v.Name] = true
		}
		if app == "storage" {
			for _, claim := range get[*appsv1.StatefulSet](t, all, "StatefulSet/storage").Spec.VolumeClaimTemplates {
				mounted[claim.Name] = true
			}
		}
		for _, m := range c.VolumeMounts {
			if !mounted[m.Name] {
				t.Errorf("%s mounts volume %s, which is missing", app, m.Name)
			}
		}
	}
}

func TestCoordinatorsReadTheirConfiguration(t *testing.T) {
	all := build(t)
	var config *corev1.ConfigMap
	for _, volume := range templates(t, all)["coordinator"].Spec.Volumes {
		if volume.ConfigMap != nil {
			config = get[*corev1.ConfigMap](t, all, "ConfigMap/"+volume.ConfigMap.Name)
		}
	}
	if config == nil || !bytes.Contains([]byte(config.Data["coordinator.hcl"]), []byte(`node_id  = "auto"`)) {
		t.Errorf("the configuration is %+v", config)
	}
	c := templates(t, all)["coordinator"].Spec.Containers[0]
	if want := "[-config /etc/pairdb/coordinator.hcl]"; fmt.Sprint(c.Args) != want {
		t.Errorf("arguments %v, want %s", c.Args, want)
	}
}

// Updates keep a quorum, and a pod has the time to drain that its process takes.
func TestUpdatesKeepServing(t *testing.T) {
	all := build(t)
	update := get[*appsv1.Deployment](t, all, "Deployment/coordinator").Spec.Strategy.RollingUpdate
	if update.MaxUnavailable.IntValue() != 0 || update.MaxSurge.IntValue() < 1 {
		t.Errorf("coordinators are updated with %+v", update)
	}
	pods := templates(t, all)
	const shutdown, preStop = 30, 5 // seconds, of coordinator.hcl and below
	coordinator := pods["coordinator"].Spec
	if s := coordinator.Containers[0].Lifecycle.PreStop.Sleep; s == nil || s.Seconds != preStop {
		t.Errorf("preStop is %+v", s)
	}
	if grace := *coordinator.TerminationGracePeriodSeconds; grace < shutdown+preStop {
		t.Errorf("a coordinator has %d s to end, and may need %d", grace, shutdown+preStop)
	}
	for _, app := range []string{"coordinator", "storage"} {
		if b := get[*policyv1.PodDisruptionBudget](t, all, "PodDisruptionBudget/"+app); b.Spec.MaxUnavailable.IntValue() != 1 {
			t.Errorf("%s: %v may be disrupted at once", app, b.Spec.MaxUnavailable)
		}
	}
}
