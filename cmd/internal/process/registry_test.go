package process

import "testing"

func TestMetricsSayWhichVersionRuns(t *testing.T) {
	r, err := NewRegistry("core")
	if err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, f := range families {
		if f.GetName() != "weir_build_info" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetGauge().GetValue() != 1 {
				t.Errorf("the value is %v", m.GetGauge().GetValue())
			}
			for _, l := range m.GetLabel() {
				said[l.GetName()] = l.GetValue()
			}
		}
	}
	if len(said) != 2 || said["program"] != "core" || said["version"] != Version {
		t.Errorf("the labels are %v", said)
	}
}
