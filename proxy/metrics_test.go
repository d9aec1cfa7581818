package proxy

import (
	"encoding/json"
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
	"weir/proxy/tenants"
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

func TestReadsThatAreForwardedForWantOfARightOrOfMemoryAreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := beforeAs(t, func(cfg *Config) { cfg.User, cfg.Password = "proxy", "secret" }, map[string]func(grpc.ServerStream) error{
			pb.Auth_Authenticate_FullMethodName:  answers(&pb.AuthenticateResponse{Token: "the proxy's"}),
			pb.Maintenance_Status_FullMethodName: answers(&pb.StatusResponse{Version: "3.7.0"}),
			pb.KV_Range_FullMethodName: func(s grpc.ServerStream) error {
				var r pb.RangeRequest
				if err := s.RecvMsg(&r); err != nil {
					return err
				}
				md, _ := metadata.FromIncomingContext(s.Context())
				switch {
				case len(md["token"]) == 0:
					return rpctypes.ErrGRPCUserEmpty
				case r.Revision > 5:
					return rpctypes.ErrGRPCFutureRev
				}
				return s.SendMsg(&pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 5}})
			},
		})
		for !p.Status().Upstream.Guarded {
			time.Sleep(time.Second)
		}
		r := wire.RangeRequest{Key: []byte("k")}
		r.Raw = wire.AppendRangeRequest(nil, &r)
		alice := metadata.NewIncomingContext(t.Context(), metadata.Pairs("token", "alice's"))
		if _, err := p.Range(alice, &r, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Range(t.Context(), &r, nil); !errors.Is(err, rpctypes.ErrGRPCUserEmpty) {
			t.Errorf("nobody's read: %v", err)
		}
		s := p.Status()
		if s.Reads.Forwarded != 2 || s.Bypassed != 0 {
			t.Errorf("%d reads were forwarded, %d bypassed, of 2", s.Reads.Forwarded, s.Bypassed)
		}
		if !s.Upstream.Connected || s.Upstream.Revision != 5 {
			t.Errorf("upstream is %+v", s.Upstream)
		}
	})
}

func TestTheKeysOfStatusAreSpeltAlike(t *testing.T) {
	raw, err := json.Marshal(Status{Clients: tenants.Status{Usage: []tenants.UsageStat{{}}}})
	if err != nil {
		t.Fatal(err)
	}
	if camel := regexp.MustCompile(`"\w*[A-Z]\w*":`).FindAllString(string(raw), -1); camel != nil {
		t.Errorf("%v are not in snake_case", camel)
	}
}
