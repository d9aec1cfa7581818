package proxy

import (
	"testing"

	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// Both benchmarks count client, proxy and upstream together, in one process over pipes.

func BenchmarkUnary(b *testing.B) {
	conn := through(b, func(s grpc.ServerStream) error {
		var m wire.Raw
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		return s.SendMsg(m)
	})
	req := make(wire.Raw, 64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			var resp wire.Raw
			if err := conn.Invoke(b.Context(), unaryMethod, req, &resp); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkStreamMessage(b *testing.B) {
	s := open(b, b.Context(), through(b, echo))
	m := string(make([]byte, 64))
	b.ReportAllocs()
	for b.Loop() {
		send(b, s, m)
		receive(b, s)
	}
}

// BenchmarkReadIsSeen is what it adds to each read that the busiest are known: to compare with the ten microseconds of one.
func BenchmarkReadIsSeen(b *testing.B) {
	p := newProxy(b, Config{Endpoints: []string{"127.0.0.1:1"}})
	ctx, key := visitor(b.Context(), ""), []byte("/registry/pods/default/one")
	b.ReportAllocs()
	for b.Loop() {
		p.busy.read(ctx, p.tenants, key, nil)
	}
}
