package load

import (
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestAPlaceWhereNobodyListensIsAnError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	p := Place{Endpoint: func(int) string { return addr }, Dial: func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}}
	track := func(int) Track { return &counted{} }
	if _, err := NewWatchers(t.Context(), p, Watches{Watchers: 1, Connections: 1, ValueSize: stampSize, Puts: 1, Rate: 1}, track); err == nil {
		t.Error("watchers have connected")
	}
	if _, err := NewKeepers(t.Context(), p, Leases{Clients: 1, Leases: 1, TTL: 1, InFlight: 1}, track); err == nil {
		t.Error("keepers have connected")
	}
}
