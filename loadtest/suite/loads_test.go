package suite

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/load"
	"weir/loadtest/report"
	"weir/loadtest/target"
)

// smallLoads are the scenarios of watches, leases and connections, with few clients.
func smallLoads() []Scenario {
	watches := func(change func(*load.Watches)) load.Watches {
		w := load.Watches{Prefix: watchPrefix, Watchers: 20, Connections: 4, ValueSize: 64, Puts: 1, Rate: 100}
		change(&w)
		return w
	}
	info := func(name string) report.Scenario { return report.Scenario{Name: name} }
	all := []Scenario{
		watchScenario(info("prefix"), false, watches(func(*load.Watches) {})),
		watchScenario(info("keys"), false, watches(func(w *load.Watches) { w.SingleKey, w.Puts = true, 10 })),
		watchScenario(info("streams"), false, watches(func(w *load.Watches) { w.OwnStream = true })),
		slowReaders(info("slow-reader"), watches(func(w *load.Watches) { w.ValueSize = 4 << 10 }), 10),
		keepAlive(info("leases"), false, load.Leases{Clients: 2, Leases: 40, TTL: 30, InFlight: 4}),
		storm(info("storm"), 4, true),
		reconnects(info("reconnect"), 10),
	}
	for i := range all {
		all[i].MinTurn, all[i].Tolerance = 0, 1000 // how fast a system is that shares the machine with other tests is nobody's promise
	}
	return all
}

// runLoads runs small loads, and fails the test if one was not measured. How much is nobody's promise.
func runLoads(t *testing.T, rounds int, o Options) *report.Report {
	t.Helper()
	o.Bin, o.Rounds, o.WarmUp, o.Turn, o.Dir = bin, rounds, 20*time.Millisecond, 200*time.Millisecond, t.TempDir()
	r := runWhole(t, o)
	for _, s := range r.Scenarios {
		for _, of := range s.Results {
			for _, turn := range of.Turns {
				if turn.Operations == 0 || turn.Latency.P50 <= 0 || turn.Latency.P99 < turn.Latency.P50 {
					t.Errorf("%s of %s: %d operations, latency %+v", s.Name, of.System, turn.Operations, turn.Latency)
				}
			}
			if len(of.Turns) != rounds {
				t.Fatalf("%s of %s has %d turns", s.Name, of.System, len(of.Turns))
			}
		}
	}
	return r
}

func TestEveryLoadIsMeasuredWithTLSAndUserAndLeavesNothing(t *testing.T) {
	t.Parallel()
	theirs, _, conn := running(t)
	if _, err := pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("theirs"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	addUser(t, conn, "a:b")
	theirs.User, theirs.Password = "bench", "a:b"
	r := runLoads(t, 1, Options{Scenarios: smallLoads(), External: []External{theirs}})
	for _, s := range r.Scenarios {
		if turn, paced := s.Results[0].Turns[0], s.OpenLoop; turn.Due > 0 != paced || turn.Independent > 0 != (paced || s.Name == "reconnect") {
			t.Errorf("%s: %d operations were due, %d are independent", s.Name, turn.Due, turn.Independent)
		}
		if back := s.Results[0].Turns[0].Extra["all back ms"]; (back > 0) != (s.Name == "reconnect") {
			t.Errorf("%s: all were back after %v ms", s.Name, back)
		}
	}
	checkOnlyTheirs(t, theirs)
}

func TestMemoryIsToldOfFirstTurnsAlone(t *testing.T) {
	t.Parallel()
	loads := smallLoads()
	r := runLoads(t, 2, Options{Scenarios: []Scenario{loads[0], loads[3]}, Systems: []target.Kind{target.ProxyEtcd37}})
	for i, of := range []string{"RSS/watcher B", "memory grown MiB"} {
		turns := r.Scenarios[i].Results[0].Turns
		if _, ok := turns[0].Extra[of]; !ok {
			t.Errorf("the first turn does not tell of %q", of)
		}
		if later, ok := turns[1].Extra[of]; ok {
			t.Errorf("a later turn tells of %q %v", of, later)
		}
		if upstream := turns[1].Extra["watches upstream"]; upstream != 1 {
			t.Errorf("%v watches upstream, of one prefix", upstream)
		}
	}
}
