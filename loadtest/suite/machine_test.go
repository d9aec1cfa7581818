package suite

import (
	"strings"
	"testing"

	"weir/loadtest/report"
)

// A system that runs elsewhere shares nothing here, and its network is no loopback; one whose processes were named has its processor time.
func TestCaveatsSayWhatIsKnownOfTheSystems(t *testing.T) {
	started := report.System{Name: "core"}
	ran := report.System{Name: "target", External: true}
	const (
		share    = "share this machine's processors"
		cpu      = "Processor time per operation tells most"
		all      = "Everything goes over the loopback interface"
		between  = "Whatever network there is"
		some     = "What goes to a loopback address"
		tunnel   = "tunnel"
		defaults = "its default flags"
		mixed    = "Throughputs of the two do not compare"
		clients  = "a small HTTP/2 client"
	)
	for name, c := range map[string]struct {
		systems  []report.System
		external []External
		want     []string
	}{
		"started": {[]report.System{started}, nil, []string{clients, share, cpu, all, defaults}},
		"elsewhere": {[]report.System{ran}, []External{{Endpoints: []string{"etcd.example:2379"}}},
			[]string{clients, between}},
		"elsewhere in part": {[]report.System{ran}, []External{{Endpoints: []string{"127.0.0.1:2379", "10.0.0.2:2379"}}},
			[]string{clients, between}},
		"here": {[]report.System{ran}, []External{{Endpoints: []string{"localhost:2379", "[::1]:2379"}}},
			[]string{clients, share, all, tunnel}},
		"here, with its processes": {[]report.System{ran}, []External{{Endpoints: []string{"127.0.0.1:2379"}, PIDs: []int{7}}},
			[]string{clients, share, cpu, all}},
		"started, and elsewhere": {[]report.System{started, ran}, []External{{Endpoints: []string{"10.0.0.2:2379"}}},
			[]string{clients, share, cpu, some, defaults, mixed}},
	} {
		got := strings.Join(caveats(c.systems, c.external), "\n")
		for _, phrase := range []string{share, cpu, all, between, some, tunnel, defaults, mixed, clients} {
			wanted := strings.Contains(strings.Join(c.want, "\n"), phrase)
			if strings.Contains(got, phrase) != wanted {
				t.Errorf("%s: the caveats have %q: %v, want %v:\n%s", name, phrase, !wanted, wanted, got)
			}
		}
		if strings.Contains(got, "to themselves") {
			t.Errorf("%s: something is said to have had the machine to itself: %s", name, got)
		}
	}
}
