package grpcapi

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// incomingMetadata returns the metadata of an RPC, which must not be changed. Its keys are in lower case: HTTP/2 has no others.
//
// It is what metadata.FromIncomingContext returns, less the copy, and with each key a look into a map, where
// metadata.ValueFromIncomingContext compares a key that is not there with all that are. Of the five keys that a read may
// not have, hardly one ever is there: to look for all takes 130 ns and not 470.
func incomingMetadata(ctx context.Context) metadata.MD {
	if md, ok := ctx.Value(metadataKey).(metadata.MD); ok {
		return md
	}
	md, _ := metadata.FromIncomingContext(ctx) // should grpc ever keep it in another way
	return md
}

// metadataKey is the key by which grpc keeps metadata in a context, and which it shows to the context alone.
var metadataKey = func() any {
	shown := &keyWitness{Context: context.Background()}
	_, _ = metadata.FromIncomingContext(shown)
	return shown.key
}()

// keyWitness is a context that remembers which value it was asked for.
type keyWitness struct {
	context.Context
	key any
}

// Value is part of context.Context.
func (w *keyWitness) Value(key any) any {
	w.key = key
	return nil
}
