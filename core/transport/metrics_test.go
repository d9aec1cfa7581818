package transport

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// values gathers what a has, as "name label value" to value. A histogram counts its observations.
func values(t *testing.T, m *member) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(m)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, v := range f.GetMetric() {
			key := f.GetName()
			for _, l := range v.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			got[key] = v.GetCounter().GetValue() + v.GetGauge().GetValue() + float64(v.GetHistogram().GetSampleCount())
		}
	}
	return got
}

func TestMetricsAreEtcds(t *testing.T) {
	a, b := start(t, 0x1a), start(t, 2)
	connect(a, b)
	a.active(t, b)
	b.onSnapshot(discard)
	a.say(heartbeat(a, b, 1))
	next(t, b.received)
	a.SendSnapshot(snapshotMsg(a, b), 1000, &content{size: 1000})
	next(t, a.sent)
	frame := float64(len(frameOf(t, heartbeat(a, b, 1))))
	until(t, func() bool { return values(t, a)["etcd_network_peer_sent_bytes_total To=2"] == 1000+frame })
	at := values(t, a)
	for name, want := range map[string]float64{
		"etcd_network_active_peers Local=1a Remote=2":             1,
		"etcd_network_disconnected_peers_total Local=1a Remote=2": 0,
		"etcd_network_peer_sent_failures_total To=2":              0,
		"etcd_network_snapshot_send_success To=2":                 1,
		"etcd_network_snapshot_send_failures To=2":                0,
		"etcd_network_snapshot_send_inflights_total To=2":         0,
		"etcd_network_snapshot_send_total_duration_seconds To=2":  1,
	} {
		if got, ok := at[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	until(t, func() bool { return values(t, a)["etcd_network_peer_round_trip_time_seconds To=2"] > 0 })
	there := values(t, b)
	if got := there["etcd_network_peer_received_bytes_total From=1a"]; got != 1000+frame {
		t.Errorf("received %v bytes", got)
	}
	if got := there["etcd_network_snapshot_receive_success From=1a"]; got != 1 {
		t.Errorf("received %v snapshots", got)
	}

	b.remove(0x1a)
	b.SetPeers(nil)
	next(t, a.removed)
	for name := range values(t, b) {
		if strings.Contains(name, "1a") {
			t.Errorf("%s is kept of a member that is gone", name)
		}
	}
	until(t, func() bool { return values(t, a)["etcd_network_active_peers Local=1a Remote=2"] == 0 })
}
