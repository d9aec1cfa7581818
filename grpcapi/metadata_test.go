package grpcapi

import (
	"context"
	"reflect"
	"testing"

	"google.golang.org/grpc/metadata"
)

func TestIncomingMetadataIsThatOfGRPC(t *testing.T) {
	for _, pairs := range [][]string{{}, {"a", "1"}, {"Token", "x", "a", "1", "a", "2"}} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(pairs...))
		want, _ := metadata.FromIncomingContext(ctx)
		if got := incomingMetadata(ctx); !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if md := incomingMetadata(context.Background()); md != nil {
		t.Errorf("without metadata: got %v", md)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("a", "1"))
	if n := testing.AllocsPerRun(100, func() { _ = incomingMetadata(ctx) }); n != 0 {
		t.Errorf("%v allocations: it is copied, because grpc keeps it in another way than it did", n)
	}
}
