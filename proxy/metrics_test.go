package proxy

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

func gather(t *testing.T, p *Proxy) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(p)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		values[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
	}
	return values
}

func TestEachSeriesIsThereBeforeUpstreamIs(t *testing.T) {
	p := before(t, nil)
	got := gather(t, p)
	if len(got) != len(allSeries) {
		t.Errorf("%d series, want %d", len(got), len(allSeries))
	}
	for name, v := range got {
		switch name {
		case "weir_upstream_answered_before_seconds":
			if v != -1 {
				t.Errorf("%s is %v and nothing was answered", name, v)
			}
		case "weir_upstream_connected": // perhaps already
		default:
			if v != 0 {
				t.Errorf("%s begins with %v", name, v)
			}
		}
	}
}

func TestForwardedReadsAreCounted(t *testing.T) {
	p := before(t, map[string]func(grpc.ServerStream) error{
		pb.KV_Range_FullMethodName: answers(&pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 5}}),
	})
	raw, err := proto.Marshal(&pb.RangeRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	var r wire.RangeRequest
	if err := r.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Range(t.Context(), &r, nil); err != nil {
		t.Fatal(err)
	}
	got := gather(t, p)
	for _, name := range []string{"etcd_grpc_proxy_cache_misses_total", "weir_reads_forwarded_total", "weir_reads_calls_total"} {
		if got[name] != 1 {
			t.Errorf("%s: got %v, want 1", name, got[name])
		}
	}
	if n := got["etcd_grpc_proxy_cache_hits_total"]; n != 0 {
		t.Errorf("%v reads were answered from memory", n)
	}
}
