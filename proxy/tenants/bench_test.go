package tenants

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// BenchmarkVisit is what each RPC costs here, with nothing to judge, with limits, and of a tenant with a quota.
func BenchmarkVisit(b *testing.B) {
	s := newStore(b)
	const quota = "tenants:\n- {name: a, users: [ann], namespace: /a/, max-keys: 1000000}\n"
	for name, c := range map[string]struct {
		text string
		cfg  Config
	}{
		"nothing": {"", Config{Namespace: "/app/"}},
		"limits":  {"", Config{Limits: Limits{Requests: 1e9, Bytes: 1e12, InFlight: 10}}},
		"tenant":  {twoTenants, Config{Upstream: s}},
		"quota":   {quota, Config{Upstream: s, Hub: s.hub}},
	} {
		b.Run(name, func(b *testing.B) {
			table := newTable(b, c.text, c.cfg)
			for name == "quota" && !table.Status().Usage[0].Known {
			}
			ctx := ann.ctx(b.Context())
			req := marshal(b, &pb.PutRequest{Key: []byte("key"), Value: make([]byte, 100)})
			resp := marshal(b, &pb.PutResponse{Header: &pb.ResponseHeader{Revision: s.rev}})
			b.ReportAllocs()
			for b.Loop() {
				v, err := table.Enter(ctx, pb.KV_Put_FullMethodName, req)
				if err != nil {
					b.Fatal(err)
				}
				v.Leave(resp, nil)
			}
		})
	}
}

// BenchmarkIdentify is what finding out who waits for upstream costs each call that is forwarded.
func BenchmarkIdentify(b *testing.B) {
	table := newTable(b, "", Config{})
	for name, c := range map[string]*caller{"address": {}, "user": ann, "common name": {cn: "ann"}} {
		b.Run(name, func(b *testing.B) {
			ctx := c.ctx(b.Context())
			b.ReportAllocs()
			for b.Loop() {
				table.Identify(ctx)
			}
		})
	}
}
